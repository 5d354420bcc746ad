//! Where batches come from.

use backend::Batch;

/// Training and evaluation rows of one length, by position: asking twice gives the same rows.
pub trait Source {
    /// Tokens of a row.
    fn row_len(&self) -> usize;

    /// The batch of a training step, counted from 1.
    ///
    /// # Errors
    /// If the data cannot be read.
    fn train(&self, step: u64, rows: usize) -> Result<Batch, Box<dyn std::error::Error + Send + Sync>>;

    /// Evaluation rows `first .. first + rows`. Only positions to be scored have a label.
    ///
    /// # Errors
    /// If the data cannot be read, or ends before.
    fn eval(&self, first: usize, rows: usize) -> Result<Batch, Box<dyn std::error::Error + Send + Sync>>;
}
