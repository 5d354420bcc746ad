//! The data of one pass.

use crate::{Error, Result};

/// The label of a position that is not scored.
pub const IGNORE: u32 = u32::MAX;

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

    /// Checks the sizes against a tape of `batch` rows of `len` tokens.
    ///
    /// # Errors
    /// [`Error::Batch`] naming the sizes at odds. Borders are checked by the ops that use them.
    pub fn check(&self, batch: usize, len: usize) -> Result<()> {
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
        if self.cu_seqlens.is_some() && batch != 1 {
            return Err(Error::Batch {
                what: format!("cu_seqlens given for a tape of {batch} rows"),
                remedy: "pack the sequences into one row",
            });
        }
        Ok(())
    }
}
