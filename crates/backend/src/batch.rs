//! The data of one pass.

/// The label of a position that is not scored.
pub use kernels::cross_entropy::IGNORE;

use crate::tape::Tape;
use crate::{Error, Result};

/// Token ids and labels of one pass, `batch * len` each, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Input tokens.
    pub ids: Vec<u32>,
    /// The label of the prediction made at each position; [`IGNORE`] where none is scored.
    pub targets: Vec<u32>,
    /// Borders of packed sequences, `0 = c[0] < c[1] < ... = len`; only for a tape of batch 1.
    pub cu_seqlens: Option<Vec<usize>>,
}

impl Batch {
    /// A batch of rows of equal length.
    pub fn new(ids: Vec<u32>, targets: Vec<u32>) -> Self {
        Self { ids, targets, cu_seqlens: None }
    }

    /// Checks the sizes against a tape.
    ///
    /// # Errors
    /// [`Error::Batch`] naming the sizes at odds.
    pub fn check(&self, tape: &Tape) -> Result<()> {
        let (batch, len) = (tape.batch(), tape.seq_len());
        let want = batch * len;
        if self.ids.len() != want || self.targets.len() != want {
            return Err(Error::Batch {
                what: format!(
                    "{} ids and {} targets for a tape of {batch} x {len} = {want} tokens",
                    self.ids.len(),
                    self.targets.len()
                ),
                remedy: "record a tape for this batch and length",
            });
        }
        let Some(borders) = &self.cu_seqlens else { return Ok(()) };
        if batch != 1 {
            let what = format!("cu_seqlens given for a tape of {batch} rows");
            return Err(Error::Batch { what, remedy: "pack the sequences into one row" });
        }
        let ascending = borders.windows(2).all(|w| w[0] < w[1]);
        if borders.len() < 2 || borders[0] != 0 || borders.last() != Some(&len) || !ascending {
            let what = format!("cu_seqlens {borders:?} do not rise from 0 to {len}");
            return Err(Error::Batch { what, remedy: "give 0, the end of each sequence, and the row's length last" });
        }
        Ok(())
    }
}
