//! A model that says what may come next.

use backend::{Backend, Batch, Decoder, IGNORE, State};
use model::{Positions, Transformer};

use crate::Result;

/// Rows of a full pass grow by so many tokens at a time: a device makes a program for each length.
const ROW: usize = 64;

/// A model at some token of one sequence.
pub enum Model {
    /// On the CPU: keys, values and states of the tokens so far are kept.
    Decoder(Box<Decoder>),
    /// On any backend: every token is a full pass over all tokens before it.
    Whole(Box<Whole>),
}

/// A model without a memory beside the tokens so far.
pub struct Whole {
    model: Transformer,
    backend: Box<dyn Backend>,
    ids: Vec<u32>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("vocab", &self.vocab()).field("position", &self.position()).finish()
    }
}

impl Whole {
    /// The model at its start.
    ///
    /// # Errors
    /// If the backend cannot hold the parameters.
    pub fn new(model: Transformer, mut backend: Box<dyn Backend>, state: State) -> Result<Self> {
        backend.load(state)?;
        Ok(Self { model, backend, ids: Vec::new() })
    }

    /// The logits after the last token. A causal model does not see what fills the row behind it.
    fn logits(&mut self) -> Result<Vec<f32>> {
        let n = self.ids.len();
        let most = if self.model.positions == Positions::Learned { self.model.max_len } else { usize::MAX };
        let len = n.next_multiple_of(ROW).min(most).max(n);
        let tape = self.model.record(1, len)?;
        let mut ids = self.ids.clone();
        ids.resize(len, 0);
        // A pass scores at least one row.
        let mut targets = vec![IGNORE; len];
        targets[n - 1] = 0;
        self.backend.evaluate(&tape, &Batch::new(ids, targets))?;
        let Some(logits) = tape.logits() else { return Ok(Vec::new()) };
        let vocab = self.model.vocab;
        Ok(self.backend.read(logits)?[(n - 1) * vocab..n * vocab].to_vec())
    }
}

impl Model {
    /// Number of logits.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Decoder(decoder) => decoder.vocab(),
            Self::Whole(whole) => whole.model.vocab,
        }
    }

    /// Tokens so far.
    pub fn position(&self) -> usize {
        match self {
            Self::Decoder(decoder) => decoder.position(),
            Self::Whole(whole) => whole.ids.len(),
        }
    }

    /// Takes in the first tokens.
    ///
    /// # Errors
    /// As [`Decoder::prefill`].
    pub fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        match self {
            Self::Decoder(decoder) => decoder.prefill(ids)?,
            Self::Whole(whole) => whole.ids.extend(ids),
        }
        Ok(())
    }

    /// The logits after one more token.
    ///
    /// # Errors
    /// As [`Decoder::step`]; those of the backend, among them that a pass was too large for its values to be kept.
    pub fn step(&mut self, id: u32) -> Result<Vec<f32>> {
        match self {
            Self::Decoder(decoder) => Ok(decoder.step(&[id])?.to_vec()),
            Self::Whole(whole) => {
                whole.ids.push(id);
                whole.logits()
            }
        }
    }
}
