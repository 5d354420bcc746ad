//! What the crate refuses, and what to do about it.

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A refused setting or call: who refused, the values and the remedy.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A count that must be positive is 0.
    #[error("{task}: {field} is 0: give at least 1")]
    Zero {
        /// The task's name.
        task: &'static str,
        /// The setting.
        field: &'static str,
    },
    /// The alphabet has too few different keys, values or other symbols.
    #[error("{task}: {need} different {what} are needed, but there are only {have}: {remedy}")]
    TooFew {
        /// The task's name.
        task: &'static str,
        /// Keys, values or other symbols.
        what: &'static str,
        /// How many an example uses.
        need: u64,
        /// How many the settings give.
        have: u64,
        /// What to change.
        remedy: &'static str,
    },
    /// The sequence cannot hold the example.
    #[error("{task}: len {len} is too short: {what} take up to {need} positions; {remedy}")]
    TooShort {
        /// The task's name.
        task: &'static str,
        /// Positions given.
        len: u32,
        /// What must fit, with its counts.
        what: String,
        /// Positions needed.
        need: u64,
        /// What to change.
        remedy: &'static str,
    },
    /// A sequence of key-value slots has an odd length.
    #[error("{task}: len {len} is odd, but a slot has two tokens: take {} or {}", len - 1, len.saturating_add(1))]
    OddLength {
        /// The task's name.
        task: &'static str,
        /// Positions given.
        len: u32,
    },
    /// A real setting is out of range or not a number.
    #[error("{task}: {field} = {value} is out of range: give a value {range}")]
    Range {
        /// The task's name.
        task: &'static str,
        /// The setting.
        field: &'static str,
        /// The value given.
        value: f64,
        /// The values allowed.
        range: &'static str,
    },
    /// The alphabets add up to more ids than fit below [`crate::IGNORE`].
    #[error("{task}: a vocabulary of {vocab} tokens does not fit in 32-bit ids: lower the alphabet sizes")]
    Vocabulary {
        /// The task's name.
        task: &'static str,
        /// The sum of the alphabets.
        vocab: u64,
    },
    /// Labels and predictions do not belong together.
    #[error("{op}: {targets} targets but {predictions} predictions: give one prediction per position")]
    Lengths {
        /// The score asked for.
        op: &'static str,
        /// Targets given.
        targets: usize,
        /// Predictions given.
        predictions: usize,
    },
    /// No position carries a label, so there is no share of right ones.
    #[error("{op}: none of the {targets} positions has a label: score the examples' own targets")]
    Unlabelled {
        /// The score asked for.
        op: &'static str,
        /// Targets given.
        targets: usize,
    },
}
