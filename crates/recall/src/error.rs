//! What a row refuses or stops at.

/// A refused row or a failed run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the row.
    #[error("{field}: {what}; {remedy}")]
    Row {
        /// The field.
        field: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The task's settings.
    #[error(transparent)]
    Task(#[from] data::Error),
    /// The model's sizes.
    #[error(transparent)]
    Model(#[from] backend::Error),
    /// The training configuration.
    #[error(transparent)]
    Train(#[from] train::Error),
    /// A run failed; the seed and trial say which.
    #[error("row {row}, seed {seed}{trial}: {source}")]
    Run {
        /// The row's id.
        row: String,
        /// The seed.
        seed: u64,
        /// The trial of a grid, with a comma and a space before it; empty without a grid.
        trial: String,
        /// Why.
        source: Box<train::Error>,
    },
}

/// The result of checking or measuring a row.
pub type Result<T> = std::result::Result<T, Error>;
