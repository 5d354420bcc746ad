//! Which tokens a training step and an evaluation row read: positions alone.

use rand::RngExt;

use super::{Error, Result};
use crate::recall::stream::{Purpose, member, stream};

/// Windows of `len + 1` tokens (inputs and, one later, labels) over a split.
///
/// Training: epoch e cuts the split into `n = max(1, (tokens - len) / len)` windows side by side, from an offset below
/// `len` that (seed, e) draws, and visits them in a pseudorandom order of its own. The window of index i is a pure
/// function of (seed, i): a run resumes at any step without state. Evaluation: windows side by side from token 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    tokens: u64,
    len: u64,
}

impl Windows {
    /// Windows of `len` inputs over so many tokens.
    ///
    /// # Errors
    /// [`Error::Short`] if there is not one.
    pub fn new(tokens: u64, len: usize) -> Result<Self> {
        let len = len as u64;
        let need = len + 1;
        if len == 0 || tokens < need {
            let remedy = "use a context from 1 on that is shorter than the text";
            return Err(Error::Short { op: "windows", have: tokens, need, remedy });
        }
        Ok(Self { tokens, len })
    }

    /// Windows of an epoch.
    pub fn per_epoch(&self) -> u64 {
        ((self.tokens - self.len) / self.len).max(1)
    }

    /// First token of training window `index`.
    pub fn train(&self, seed: u64, index: u64) -> u64 {
        let n = self.per_epoch();
        let room = (self.tokens - n * self.len).min(self.len);
        let offset = stream(seed, Purpose::Offset, index / n).random_range(0..room);
        offset + member(seed, index, n) * self.len
    }

    /// Evaluation windows that there are.
    pub fn evaluations(&self) -> u64 {
        (self.tokens - 1) / self.len
    }

    /// First token of evaluation window `index`.
    ///
    /// # Errors
    /// [`Error::Short`] past the last.
    pub fn evaluation(&self, index: u64) -> Result<u64> {
        if index >= self.evaluations() {
            let need = (index + 1) * self.len + 1;
            let remedy = "lower train.eval_examples or the context";
            return Err(Error::Short { op: "evaluation", have: self.tokens, need, remedy });
        }
        Ok(index * self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_every_window_once_and_stays_inside() {
        for (tokens, len) in [(2, 1), (65, 64), (100, 64), (129, 64), (1000, 64), (12_345, 17)] {
            let windows = Windows::new(tokens, len).unwrap();
            let n = windows.per_epoch();
            for epoch in 0..3 {
                let mut starts: Vec<u64> = (0..n).map(|i| windows.train(7, epoch * n + i)).collect();
                starts.sort_unstable();
                assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == len as u64), "{tokens} by {len}");
                assert!(starts[n as usize - 1] + (len as u64) < tokens, "{tokens} by {len}: {starts:?}");
            }
        }
    }

    #[test]
    fn order_and_offset_change_with_seed_and_epoch() {
        let windows = Windows::new(10_000, 50).unwrap();
        let n = windows.per_epoch();
        let epoch = |seed, epoch: u64| -> Vec<u64> { (0..n).map(|i| windows.train(seed, epoch * n + i)).collect() };
        assert_eq!(epoch(0, 1), epoch(0, 1));
        assert_ne!(epoch(0, 0), epoch(0, 1));
        assert_ne!(epoch(0, 0), epoch(1, 0));
        assert_ne!(windows.train(0, 0) % 50, windows.train(0, n) % 50);
    }

    #[test]
    fn evaluation_reads_from_the_start_to_the_end() {
        let windows = Windows::new(129, 64).unwrap();
        assert_eq!((windows.evaluations(), windows.evaluation(1)), (2, Ok(64)));
        let message = windows.evaluation(2).unwrap_err().to_string();
        assert_eq!(message, "evaluation: 129 tokens, but 193 are needed; lower train.eval_examples or the context");
        assert!(Windows::new(64, 64).is_err() && Windows::new(64, 0).is_err());
    }
}
