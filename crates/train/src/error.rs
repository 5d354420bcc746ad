//! What training refuses or stops at, and what to do about it.

use std::path::PathBuf;

/// A refused configuration, a failed batch or step, a damaged checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model, its parameters or the device.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A field of [`crate::TrainConfig`] is out of range.
    #[error("train.{field}: {what}; {remedy}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value and what is wrong with it.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A source could not make a batch.
    #[error("{what}: {source}")]
    Source {
        /// Which batch.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The loss or the gradient is no longer a finite number.
    #[error("step {step}: loss {loss}, gradient norm {grad_norm}, not finite; {tensors}\nhint: {hint}")]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// Its loss.
        loss: f32,
        /// The global gradient norm of the step, NaN if it was not reached.
        grad_norm: f32,
        /// How many parameters and gradients are not finite, and the largest of the others by norm.
        tensors: String,
        /// What to try.
        hint: String,
    },
    /// No thread could be started.
    #[error("{threads} threads: {what}; lower --threads")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        what: String,
    },
    /// A checkpoint is damaged, is another run's, or could not be written or read.
    #[error("checkpoint {}: {what}; {remedy}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The tensor or field, and what is wrong with it.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// The result of training, or of a part of it.
pub type Result<T> = std::result::Result<T, Error>;
