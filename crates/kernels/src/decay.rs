//! What the chunked recurrences share: chunks of 64 tokens and the decay of a state along one.
//!
//! With g[t] <= 0 the log of a token's decay and G its running sum in the chunk, a state decays by `e^G[t]` from the
//! chunk's start, by `e^(G[t] - G[s])` from token s to t, and by `e^(G[last] - G[t])` to the chunk's end: all at most 1,
//! so none overflows. G is summed in f64 and kept in two f32 parts, or differences of large sums would lose the decay of
//! the tokens between.

use std::ops::Range;

use crate::Sequences;
use crate::simd::{LANES, exp, vectorized};

/// Tokens of a chunk.
pub(crate) const CHUNK: usize = 64;

/// Largest log of a rate of decay: `e^60` forgets everything within a token, and its products stay finite.
const MAX_LOG_RATE: f32 = 60.0;

/// Most negative log of a token's decay.
const MIN_LOG_DECAY: f32 = -1e30;

/// Index of each sequence's first chunk, and the number of chunks in all.
pub(crate) fn first_chunks(seqs: Sequences) -> (Vec<usize>, usize) {
    let mut chunks = 0;
    let firsts = seqs.spans().map(|span| {
        let first = chunks;
        chunks += span.len().div_ceil(CHUNK);
        first
    });
    (firsts.collect(), chunks)
}

/// The chunks of a sequence's rows: the number of each, its first row and its tokens.
pub(crate) fn chunks(rows: &Range<usize>) -> impl DoubleEndedIterator<Item = (usize, usize, usize)> + use<> {
    let Range { start, end } = *rows;
    (start..end).step_by(CHUNK).enumerate().map(move |(chunk, row)| (chunk, row, CHUNK.min(end - row)))
}

/// `e^a_log`.
pub(crate) fn rate(a_log: f32) -> f32 {
    a_log.min(MAX_LOG_RATE).exp()
}

/// The log of the decay at this rate for a time of `dt`.
pub(crate) fn log_decay(rate: f32, dt: f32) -> f32 {
    (-rate * dt).max(MIN_LOG_DECAY)
}

/// `ln(1 + e^x)`.
pub(crate) fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Its slope.
pub(crate) fn softplus_slope(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The decays of one head in one chunk.
pub(crate) struct Decay {
    tokens: usize,
    high: [f32; CHUNK],
    low: [f32; CHUNK],
    /// `e^G[t]`.
    pub(crate) from_start: [f32; CHUNK],
    /// `e^(G[last] - G[t])`.
    pub(crate) to_end: [f32; CHUNK],
    /// `e^G[last]`.
    pub(crate) whole: f32,
}

impl Decay {
    /// Of `tokens` tokens, `g(t)` the log of each one's decay.
    pub(crate) fn new(tokens: usize, g: impl Fn(usize) -> f32) -> Self {
        let (mut high, mut low) = ([0.0; CHUNK], [0.0; CHUNK]);
        let mut total = 0.0f64;
        for t in 0..tokens {
            total += f64::from(g(t));
            high[t] = total as f32;
            low[t] = (total - f64::from(high[t])) as f32;
        }
        let last = (high[tokens - 1], low[tokens - 1]);
        let (mut from_start, mut to_end) = ([0.0; CHUNK], [0.0; CHUNK]);
        vectorized(
            #[inline(always)]
            || {
                for t in 0..CHUNK {
                    from_start[t] = exp(high[t] + low[t]);
                    let left = (last.0 - high[t]) + (last.1 - low[t]);
                    to_end[t] = exp(if left < 0.0 { left } else { 0.0 });
                }
            },
        );
        Self { tokens, high, low, from_start, to_end, whole: from_start[tokens - 1] }
    }

    /// `out[t][s] = e^(G[t] - G[s])` where `s <= t`, 0 elsewhere; rows [`CHUNK`] apart.
    pub(crate) fn pairs(&self, out: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || {
                for (t, row) in out.as_chunks_mut::<CHUNK>().0.iter_mut().take(self.tokens).enumerate() {
                    let groups = t / LANES + 1;
                    for s in 0..groups * LANES {
                        let d = (self.high[t] - self.high[s]) + (self.low[t] - self.low[s]);
                        row[s] = exp(if d < 0.0 { d } else { 0.0 });
                    }
                    row[t + 1..].fill(0.0);
                }
            },
        );
    }

    /// The gradient by each g, from the gradient by each G: `dg[t] = sum_{s >= t} dG[s]`, in place.
    pub(crate) fn gradient(sums: &mut [f64]) {
        let mut total = 0.0;
        for sum in sums.iter_mut().rev() {
            total += *sum;
            *sum = total;
        }
    }
}

/// Adds to dG what products of the decays of pairs pass back: `m[t][s]` is the product of `e^(G[t] - G[s])` and its own
/// gradient, which raises `dG[t]` and lowers `dG[s]`. Of `m = a b + c d`, only `s < t` counts: the diagonal does not decay.
#[inline(always)]
pub(crate) fn add_pair_gradients<const K: usize>(factors: [(&[f32], &[f32]); K], sums: &mut [f64]) {
    let mut columns = [0.0f64; CHUNK];
    for (t, sum) in sums.iter_mut().enumerate() {
        let mut lanes = [0.0f64; LANES];
        for group in 0..t.div_ceil(LANES) {
            let at = t * CHUNK + group * LANES;
            let mut m = [0.0f32; LANES];
            for (a, b) in factors {
                let (a, b) = (&a[at..at + LANES], &b[at..at + LANES]);
                for i in 0..LANES {
                    m[i] += a[i] * b[i];
                }
            }
            for i in 0..LANES {
                let product = if group * LANES + i < t { f64::from(m[i]) } else { 0.0 };
                lanes[i] += product;
                columns[group * LANES + i] += product;
            }
        }
        *sum += lanes.iter().sum::<f64>();
    }
    for (sum, column) in sums.iter_mut().zip(columns) {
        *sum -= column;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decays_between_tokens_survive_a_large_sum() {
        // After a decay of e^-3000 the next tokens' differ in the seventh digit of the sum.
        let g = |t: usize| if t == 2 { -3000.0 } else { -0.01 };
        let decay = Decay::new(40, g);
        let mut pairs = vec![f32::NAN; CHUNK * CHUNK];
        decay.pairs(&mut pairs);
        let want = (-0.01f64 * 30.0).exp();
        assert!((f64::from(pairs[39 * CHUNK + 9]) / want - 1.0).abs() < 1e-6);
        assert_eq!((pairs[39 * CHUNK + 1], pairs[5 * CHUNK + 6], pairs[5 * CHUNK + 5]), (0.0, 0.0, 1.0));
        assert_eq!((decay.whole, decay.from_start[3], decay.to_end[1]), (0.0, 0.0, 0.0));
        assert!((f64::from(decay.to_end[9]) / want - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_largest_rates_are_finite() {
        let decay = Decay::new(CHUNK, |_| log_decay(rate(1e9), 1e30));
        let mut pairs = vec![f32::NAN; CHUNK * CHUNK];
        decay.pairs(&mut pairs);
        assert!(pairs.iter().enumerate().all(|(i, &v)| v == f32::from(u8::from(i / CHUNK == i % CHUNK))));
        assert!(rate(f32::INFINITY).is_finite() && softplus(1e38).is_finite());
    }
}
