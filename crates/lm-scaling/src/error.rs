//! What a row refuses or stops at.

/// A refused row or a failed run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the row.
    #[error("{field}: {what}; {remedy}")]
    Row {
        /// The field.
        field: &'static str,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The text.
    #[error(transparent)]
    Text(#[from] data::text::Error),
    /// The model's sizes.
    #[error(transparent)]
    Model(#[from] backend::Error),
    /// The training configuration, or a checkpoint.
    #[error(transparent)]
    Train(#[from] train::Error),
    /// A run failed; the seed says which.
    #[error("row {row}, seed {seed}: {source}")]
    Run {
        /// The row's id.
        row: String,
        /// The seed.
        seed: u64,
        /// Why.
        source: Box<train::Error>,
    },
}

/// The result of checking or measuring a row.
pub type Result<T> = std::result::Result<T, Error>;
