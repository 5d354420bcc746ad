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
    /// Sequences of any length without gaps: the i-th is rows `cu_seqlens[i]..cu_seqlens[i + 1]`. Empty ones are taken by
    /// the short convolution alone.
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

    /// Number of sequences whose first row comes before this one.
    pub(crate) fn starting_before(&self, row: usize) -> usize {
        match self {
            Self::Equal { batch, len } => row.div_ceil(*len).min(*batch),
            Self::Packed { cu_seqlens } => cu_seqlens[..self.count()].partition_point(|&start| start < row),
        }
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
        self.check_with_empty(op)?;
        self.check_steps(op, 1, "give every sequence at least one row")
    }

    /// Refuses what is not a division of at least one row into sequences; packed ones may be empty.
    pub(crate) fn check_with_empty(&self, op: &'static str) -> Result<()> {
        match *self {
            Self::Equal { batch, len } => {
                check::positive(op, "batch", batch)?;
                check::positive(op, "len", len)?;
                let what = || format!("batch = {batch} times len = {len} overflows");
                let remedy = "pass smaller dimensions";
                batch.checked_mul(len).map(drop).ok_or_else(|| Error::Argument { op, what: what(), remedy })
            }
            Self::Packed { cu_seqlens } => {
                let what = match (cu_seqlens.first(), cu_seqlens.last()) {
                    (Some(0), Some(1..)) => return self.check_steps(op, 0, "list the offsets in ascending order"),
                    (Some(first), Some(last)) => format!("cu_seqlens runs from {first} to {last}"),
                    _ => "cu_seqlens is empty".into(),
                };
                Err(Error::Argument { op, what, remedy: "start it at 0 and end it at the number of rows" })
            }
        }
    }

    /// Every packed sequence has at least so many rows.
    fn check_steps(&self, op: &'static str, least: usize, remedy: &'static str) -> Result<()> {
        let Self::Packed { cu_seqlens } = self else { return Ok(()) };
        let Some(i) = cu_seqlens.windows(2).position(|w| w[1] < w[0].saturating_add(least)) else { return Ok(()) };
        let what = format!("cu_seqlens goes from {} to {} at entry {}", cu_seqlens[i], cu_seqlens[i + 1], i + 1);
        Err(Error::Argument { op, what, remedy })
    }
}
