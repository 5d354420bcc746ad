//! The seam between models and machines.

use crate::Result;
use crate::batch::Batch;
use crate::op::Var;
use crate::optim::{AdamW, State};
use crate::params::Params;
use crate::tape::Tape;

/// What a pass says of the batch's labels and of its experts. Empty vectors where the tape has no loss or no experts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// Mean negative log likelihood over the labelled positions, in nats.
    pub loss: f32,
    /// The same per position; 0 where the label is ignored.
    pub nll: Vec<f32>,
    /// The likeliest token per position.
    pub predictions: Vec<u32>,
    /// Auxiliary losses of all mixtures of experts, weighted; gradients are those of `loss + aux`.
    pub aux: f32,
    /// Tokens that each expert got, one list per mixture in the order of the tape.
    pub load: Vec<Vec<usize>>,
}

/// A machine that runs tapes. It holds the parameters, their moments and the gradients of its last pass.
///
/// There is no default for any method, and each backend matches on [`crate::Op`] exhaustively: an op cannot be
/// added without a forward and a backward everywhere.
pub trait Backend {
    /// What runs, for records: `cpu`, `dfdx-f64`.
    fn name(&self) -> String;

    /// Takes over parameters and optimizer state.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] if the device cannot hold them.
    fn load(&mut self, state: State) -> Result<()>;

    /// A copy of parameters and optimizer state.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] before the first [`Backend::load`].
    fn state(&self) -> Result<State>;

    /// Forward pass without gradients.
    ///
    /// # Errors
    /// If the parameters or the batch do not fit the tape.
    fn evaluate(&mut self, tape: &Tape, batch: &Batch) -> Result<Scores>;

    /// Forward and backward pass; the gradients of the mean loss and the auxiliary losses replace those of the pass before.
    ///
    /// # Errors
    /// As [`Backend::evaluate`]; also if the tape has no loss.
    fn gradients(&mut self, tape: &Tape, batch: &Batch) -> Result<Scores>;

    /// A copy of the gradients of the last [`Backend::gradients`].
    ///
    /// # Errors
    /// [`crate::Error::Backend`] before the first one.
    fn read_gradients(&self) -> Result<Params>;

    /// A copy of a value of the last [`Backend::evaluate`], `[tokens, cols]`.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] if that pass has no such value.
    fn read(&self, x: Var) -> Result<Vec<f32>>;

    /// Clips the gradients, applies the rule, and returns their global norm before clipping.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] before the first [`Backend::gradients`].
    fn update(&mut self, rule: &AdamW) -> Result<f32>;
}
