//! What a row of `table-4.toml` says.

use backend::Tape;
use model::{Conv, Transformer};
use serde::{Deserialize, Serialize};

/// A model and the shape of its batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The model.
    pub model: Transformer,
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of a row.
    pub len: usize,
    /// Steps that are timed, after [`Row::warmup`].
    pub steps: usize,
    /// Steps before the first timed one.
    pub warmup: usize,
}

impl Row {
    /// The step's tape.
    ///
    /// # Errors
    /// If the model's sizes do not fit.
    pub fn tape(&self) -> backend::Result<Tape> {
        self.model.record(self.batch, self.len)
    }

    /// The same row without convolutions: what its throughput is held against.
    pub fn without(&self) -> Self {
        Self { model: Transformer { conv: Conv::default(), ..self.model.clone() }, ..self.clone() }
    }
}
