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

/// What a training pass is of its step: a batch too large for the device is taken in parts, one after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// What the pass's losses are multiplied by: its labels over those of the whole batch. Auxiliary losses, which are no mean
    /// over labels, are then those of the parts by the same shares, not those of the whole.
    pub share: f32,
    /// Whether the gradients are added to those of the pass before.
    pub add: bool,
}

impl Part {
    /// A batch in one pass.
    pub const WHOLE: Self = Self { share: 1.0, add: false };
}

/// A machine that runs tapes. It holds the parameters, their moments and the gradients of its last pass.
///
/// There is no default for any method but [`Backend::gradients`] and [`Backend::update`], each made of two others, and each backend matches on
/// [`crate::Op`] exhaustively: an op cannot be added without a forward and a backward everywhere.
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

    /// Begins a forward and a backward pass: gradients of the part's share of the mean loss and the auxiliary losses. A device
    /// works on by itself until [`Backend::scores`] asks for the outcome.
    ///
    /// # Errors
    /// As [`Backend::evaluate`]; also if the tape has no loss, or there are no gradients to add to.
    fn begin(&mut self, tape: &Tape, batch: &Batch, part: Part) -> Result<()>;

    /// Says what the next [`Backend::begin`] will be given, which a device can take in while it works. Another batch then
    /// is no error, and no number depends on it.
    ///
    /// # Errors
    /// If the batch does not fit the tape.
    fn prepare(&mut self, tape: &Tape, batch: &Batch, part: Part) -> Result<()>;

    /// Waits for the pass begun last: its own scores, not multiplied by its share.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] if none was begun since the last call.
    fn scores(&mut self) -> Result<Scores>;

    /// A whole batch: the gradients replace those of the pass before.
    ///
    /// # Errors
    /// As [`Backend::begin`].
    fn gradients(&mut self, tape: &Tape, batch: &Batch) -> Result<Scores> {
        self.begin(tape, batch, Part::WHOLE)?;
        self.scores()
    }

    /// A copy of the gradients of the passes since the last that did not add.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] before the first one.
    fn read_gradients(&self) -> Result<Params>;

    /// A copy of a value of the last [`Backend::evaluate`], `[tokens, cols]`.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] if that pass has no such value.
    fn read(&self, x: Var) -> Result<Vec<f32>>;

    /// Clips the gradients and applies the rule; gradients that are not finite leave parameters and moments as they were. A device
    /// works on by itself until [`Backend::grad_norm`] asks for the outcome.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] before the first [`Backend::begin`].
    fn apply(&mut self, rule: &AdamW) -> Result<()>;

    /// Waits for the rule applied last: the global norm of its gradients before clipping.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] if none was applied since the last call.
    fn grad_norm(&mut self) -> Result<f32>;

    /// Applies the rule and returns the gradients' global norm before clipping.
    ///
    /// # Errors
    /// As [`Backend::apply`].
    fn update(&mut self, rule: &AdamW) -> Result<f32> {
        self.apply(rule)?;
        self.grad_norm()
    }
}
