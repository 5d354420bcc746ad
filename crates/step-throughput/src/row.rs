//! What a row of `table-4.toml` says.

use backend::{Error, Tape};
use model::{Conv, Transformer};
use serde::{Deserialize, Serialize};

fn one() -> usize {
    1
}

/// A model and the shape of its batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The model.
    pub model: Transformer,
    /// Rows of a batch.
    pub batch: usize,
    /// Passes that a batch is taken in, a divisor of it: see [`train::TrainConfig::accumulate`].
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Whether activations are made again in the backward pass: see [`backend::Tape::set_recompute`].
    #[serde(default)]
    pub recompute: bool,
    /// Tokens of a row.
    pub len: usize,
    /// Steps that are timed, after [`Row::warmup`].
    pub steps: usize,
    /// Steps before the first timed one.
    pub warmup: usize,
}

impl Row {
    /// The tape of a pass of the step.
    ///
    /// # Errors
    /// If the model's sizes do not fit, or the passes do not divide the batch.
    pub fn tape(&self) -> backend::Result<Tape> {
        if self.accumulate == 0 || !self.batch.is_multiple_of(self.accumulate) {
            let what = format!("{} rows in {} passes", self.batch, self.accumulate);
            return Err(Error::Batch { what, remedy: "accumulate over a divisor of the batch" });
        }
        let mut tape = self.model.record(self.batch / self.accumulate, self.len)?;
        tape.set_recompute(self.recompute);
        Ok(tape)
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.batch * self.len
    }

    /// The same row without convolutions: what its throughput is held against.
    pub fn without(&self) -> Self {
        Self { model: Transformer { conv: Conv::default(), ..self.model.clone() }, ..self.clone() }
    }
}
