//! How the rows of a batch divide into sequences.

use std::ops::Range;

use crate::{Error, Result, check};

/// Sequences side by side in the rows of a tensor. No op mixes rows of two sequences, and positions count from 0 in
/// each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences<'a> {
    /// `batch` sequences of `len` tokens.
    Equal {
        /// Number of sequences (B).
        batch: usize,
        /// Tokens of each (T).
        len: usize,
    },
    /// Sequences of any length without gaps: the i-th is rows `cu_seqlens[i]..cu_seqlens[i + 1]`.
    Packed {
        /// Ascending row indices, from 0 to the number of rows.
        cu_seqlens: &'a [usize],
    },
}

impl<'a> Sequences<'a> {
    /// Rows in all.
    pub fn rows(&self) -> usize {
        match self {
            Self::Equal { batch, len } => batch * len,
            Self::Packed { cu_seqlens } => cu_seqlens.last().copied().unwrap_or(0),
        }
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        match self {
            Self::Equal { batch, .. } => *batch,
            Self::Packed { cu_seqlens } => cu_seqlens.len().saturating_sub(1),
        }
    }

    /// The rows of sequence i.
    pub fn span(&self, i: usize) -> Range<usize> {
        match self {
            Self::Equal { len, .. } => i * len..(i + 1) * len,
            Self::Packed { cu_seqlens } => cu_seqlens[i]..cu_seqlens[i + 1],
        }
    }

    /// The rows of each sequence, in order.
    pub fn spans(self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        (0..self.count()).map(move |i| self.span(i))
    }

    /// Position of a row in its sequence.
    #[inline(always)]
    pub(crate) fn position(&self, row: usize) -> usize {
        match self {
            Self::Equal { len, .. } => row % len,
            Self::Packed { cu_seqlens } => row - cu_seqlens[cu_seqlens.partition_point(|&start| start <= row) - 1],
        }
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.spans().map(|s| s.len()).max().unwrap_or(0)
    }

    /// Refuses what is not a division into sequences of at least one token.
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        match self {
            Self::Equal { batch, len } => {
                check::positive(op, "batch", *batch)?;
                check::positive(op, "len", *len)
            }
            Self::Packed { cu_seqlens } => {
                let ascending = cu_seqlens.windows(2).all(|w| w[0] < w[1]);
                if cu_seqlens.len() >= 2 && cu_seqlens[0] == 0 && ascending {
                    return Ok(());
                }
                Err(Error::Argument {
                    op,
                    what: format!("cu_seqlens {:?} is not strictly ascending from 0", cu_seqlens),
                    remedy: "give the first row of each sequence and then the number of rows",
                })
            }
        }
    }
}
