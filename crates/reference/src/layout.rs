//! Where sequences begin among the tokens of a pass.
//!
//! Tokens are numbered 0..N through all rows. A causal op at token n reads back to `start(n)`, the first token of
//! n's sequence: the first of its row, or the last border of `cu_seqlens` at or before it.

use backend::{Batch, Result, Tape};

/// Rows, tokens of a row, and the first token of each token's sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    batch: usize,
    len: usize,
    starts: Vec<usize>,
}

impl Layout {
    /// `batch` rows of `len` tokens, each row a sequence.
    pub fn rows(batch: usize, len: usize) -> Self {
        Self { batch, len, starts: (0..batch * len).map(|n| n - n % len).collect() }
    }

    /// The layout of a batch run through a tape.
    ///
    /// # Errors
    /// [`backend::Error::Batch`] if the batch does not fit the tape or its borders are not `0 = c[0] < c[1] < ... = len`.
    pub fn of(tape: &Tape, batch: &Batch) -> Result<Self> {
        batch.check(tape)?;
        let mut layout = Self::rows(tape.batch(), tape.seq_len());
        if let Some(borders) = &batch.cu_seqlens {
            for pair in borders.windows(2) {
                layout.starts[pair[0]..pair[1]].fill(pair[0]);
            }
        }
        Ok(layout)
    }

    /// Rows.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens of a row.
    pub fn seq_len(&self) -> usize {
        self.len
    }

    /// Tokens of all rows, N.
    pub fn tokens(&self) -> usize {
        self.starts.len()
    }

    /// Position of each token in its sequence.
    pub fn positions(&self) -> Vec<usize> {
        self.starts.iter().enumerate().map(|(n, start)| n - start).collect()
    }

    /// Whether token n sees token m: `start(n) <= m <= n`.
    pub fn sees(&self, n: usize, m: usize) -> bool {
        self.starts[n] <= m && m <= n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(borders: &[usize]) -> Result<Layout> {
        let mut batch = Batch::new(vec![0; 5], vec![0; 5]);
        batch.cu_seqlens = Some(borders.to_vec());
        Layout::of(&Tape::new(1, 5)?, &batch)
    }

    #[test]
    fn positions_restart_at_rows_and_borders() {
        assert_eq!(Layout::rows(2, 3).positions(), [0, 1, 2, 0, 1, 2]);
        let layout = packed(&[0, 1, 3, 5]).unwrap();
        assert_eq!(layout.positions(), [0, 0, 1, 0, 1]);
        assert!(layout.sees(2, 1) && !layout.sees(2, 0) && !layout.sees(1, 2));
    }

    #[test]
    fn malformed_borders_are_refused() {
        for borders in [&[][..], &[0], &[0, 4], &[1, 5], &[0, 3, 3, 5], &[0, 4, 3, 5]] {
            let message = packed(borders).unwrap_err().to_string();
            assert!(message.contains("cu_seqlens"), "{message}");
        }
    }
}
