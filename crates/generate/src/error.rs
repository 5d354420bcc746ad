//! What generation refuses, and what to do about it.

use std::path::PathBuf;

/// A refused checkpoint or prompt, or a model that has no next token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint is damaged or absent.
    #[error(transparent)]
    Train(#[from] train::Error),
    /// The device is absent.
    #[error(transparent)]
    Device(#[from] cli::Error),
    /// The model does not run.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The tokenizer, or a text that it does not know.
    #[error(transparent)]
    Text(#[from] data::text::Error),
    /// The checkpoint says of no model that this program knows.
    #[error("checkpoint {}: {what}; {remedy}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The prompt cannot be fed.
    #[error("prompt: {what}; {remedy}")]
    Prompt {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A logit is not a finite number.
    #[error("token {position}: logits are not finite; use a checkpoint from before the run diverged")]
    NotFinite {
        /// The token after which.
        position: usize,
    },
}

/// The result of generation, or of a part of it.
pub type Result<T> = std::result::Result<T, Error>;
