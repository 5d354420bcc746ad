//! Mean negative log likelihood of targets under softmax(logits).
//!
//! logits `[rows, vocab]`, targets `[rows]`; rows whose target is [`IGNORE`] count for nothing.
//! `nll[n] = log sum_v exp(logits[n, v]) - logits[n, target]`, the loss is its mean over the counted rows, and its
//! gradient `(softmax(logits) - onehot(target)) / counted`, written over the logits themselves: for the paper's
//! vocabulary they are the largest tensor of a step.

use rayon::prelude::*;

use crate::simd::{LANES, exp, sum, vectorized};
use crate::{Error, Result, blocks, check};

/// The target of a row that is not scored.
pub const IGNORE: u32 = u32::MAX;

/// What is known of each row besides the loss.
pub struct Rows<'a> {
    /// Negative log likelihood `[rows]`, 0 where ignored.
    pub nll: &'a mut [f32],
    /// Index of the largest logit `[rows]`, the first of equals.
    pub argmax: &'a mut [u32],
}

/// The mean loss.
///
/// # Errors
/// No target to score; a target outside of the vocabulary; a slice whose size does not fit.
pub fn forward(logits: &[f32], targets: &[u32], vocab: usize, out: Rows) -> Result<f32> {
    check("cross_entropy", logits.len(), targets, vocab, &out)?;
    let block = blocks::rows(vocab);
    let rows = out.nll.par_chunks_mut(block).zip(out.argmax.par_chunks_mut(block));
    rows.zip(targets.par_chunks(block)).zip(logits.par_chunks(block * vocab)).for_each(
        |(((nll, argmax), targets), logits)| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = nll.iter_mut().zip(argmax).zip(targets).zip(logits.chunks_exact(vocab));
                    for (((nll, argmax), &target), logits) in rows {
                        let max = maximum(logits);
                        *argmax = first_index(logits, max);
                        let total = sum(
                            [logits],
                            #[inline(always)]
                            |[v]| exp(v - max),
                        );
                        *nll = if target == IGNORE { 0.0 } else { (max - logits[target as usize]) + total.ln() };
                    }
                },
            );
        },
    );
    Ok(mean(out.nll, targets))
}

/// The mean loss; logits become their gradient.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward(logits: &mut [f32], targets: &[u32], vocab: usize, out: Rows) -> Result<f32> {
    check("cross_entropy", logits.len(), targets, vocab, &out)?;
    let block = blocks::rows(vocab);
    let weight = 1.0 / counted(targets) as f32;
    let rows = out.nll.par_chunks_mut(block).zip(out.argmax.par_chunks_mut(block));
    rows.zip(targets.par_chunks(block)).zip(logits.par_chunks_mut(block * vocab)).for_each(
        |(((nll, argmax), targets), logits)| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = nll.iter_mut().zip(argmax).zip(targets).zip(logits.chunks_exact_mut(vocab));
                    for (((nll, argmax), &target), logits) in rows {
                        let max = maximum(logits);
                        *argmax = first_index(logits, max);
                        if target == IGNORE {
                            *nll = 0.0;
                            logits.fill(0.0);
                        } else {
                            *nll = row_gradient(logits, target as usize, max, weight);
                        }
                    }
                },
            );
        },
    );
    Ok(mean(out.nll, targets))
}

/// Turns a row's logits into their gradient and returns its negative log likelihood.
#[inline(always)]
fn row_gradient(logits: &mut [f32], target: usize, max: f32, weight: f32) -> f32 {
    let below = max - logits[target];
    for v in logits.iter_mut() {
        *v = exp(*v - max);
    }
    let total = sum(
        [logits],
        #[inline(always)]
        |[v]| v,
    );
    let scale = weight / total;
    for v in logits.iter_mut() {
        *v *= scale;
    }
    logits[target] -= weight;
    below + total.ln()
}

/// Largest element; NaN is passed over here and shows in the sum.
#[inline(always)]
fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], c[i]);
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// First index of `value`; 0 if it is not there, as in a row of NaN.
#[inline(always)]
fn first_index(x: &[f32], value: f32) -> u32 {
    let (chunks, _) = x.as_chunks::<LANES>();
    let holds_value = |c: &[f32; LANES]| c.iter().fold(false, |any, &v| any | (v == value));
    let start = chunks.iter().position(holds_value).unwrap_or(chunks.len()) * LANES;
    x[start..].iter().position(|&v| v == value).map_or(0, |i| (start + i) as u32)
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&t| t != IGNORE).count()
}

fn mean(nll: &[f32], targets: &[u32]) -> f32 {
    let total: f64 = nll.iter().map(|&v| f64::from(v)).sum();
    (total / counted(targets) as f64) as f32
}

fn check(op: &'static str, logits: usize, targets: &[u32], vocab: usize, out: &Rows) -> Result<()> {
    check::positive(op, "vocab", vocab)?;
    let rows = ("rows", targets.len());
    check::size(op, "logits", logits, &[rows, ("vocab", vocab)])?;
    check::size(op, "nll", out.nll.len(), &[rows])?;
    check::size(op, "argmax", out.argmax.len(), &[rows])?;
    let outside = |&t: &u32| t != IGNORE && t as usize >= vocab;
    if let Some(n) = targets.iter().position(outside) {
        let what = format!("target {} of row {n} is outside of a vocabulary of {vocab}", targets[n]);
        return Err(Error::Argument { op, what, remedy: "use the tokenizer the model was made for" });
    }
    if counted(targets) == 0 {
        let what = format!("none of {} rows has a target", targets.len());
        return Err(Error::Argument { op, what, remedy: "score at least one row of a batch" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    /// Mean loss and each row's, in f64.
    fn reference(logits: &[f64], targets: &[u32], vocab: usize) -> (f64, Vec<f64>) {
        let row = |(x, &t): (&[f64], &u32)| match t {
            IGNORE => 0.0,
            t => x.iter().map(|v| v.exp()).sum::<f64>().ln() - x[t as usize],
        };
        let nll: Vec<f64> = logits.chunks(vocab).zip(targets).map(row).collect();
        (nll.iter().sum::<f64>() / counted(targets) as f64, nll)
    }

    #[test]
    fn loss_rows_and_gradient() {
        for (rows, vocab) in [(1, 1), (2, 3), (5, 16), (9, 37), (3, 130)] {
            let logits: Vec<f32> = random(rows * vocab, 1).iter().map(|v| 6.0 * v).collect();
            let mut targets: Vec<u32> = (0..rows).map(|n| (n * 7 % vocab) as u32).collect();
            if rows > 2 {
                targets[1] = IGNORE;
            }
            let (mut nll, mut argmax) = (poisoned(rows), vec![u32::MAX; rows]);
            let loss = forward(&logits, &targets, vocab, Rows { nll: &mut nll, argmax: &mut argmax }).unwrap();
            let (want, rows_want) = reference(&wide(&logits), &targets, vocab);
            if vocab > 1 {
                assert_close("loss", &[loss], &[want]);
                assert_close("nll", &nll, &rows_want);
            }
            for (row, &best) in logits.chunks(vocab).zip(&argmax) {
                assert!(row.iter().all(|&v| v <= row[best as usize]));
            }

            let (mut grad, mut nll_again, mut argmax_again) = (logits.clone(), poisoned(rows), vec![0; rows]);
            let out = Rows { nll: &mut nll_again, argmax: &mut argmax_again };
            let loss_again = forward_backward(&mut grad, &targets, vocab, out).unwrap();
            assert_eq!((loss, &nll, &argmax), (loss_again, &nll_again, &argmax_again));
            if vocab > 1 {
                let want = gradient(&logits, |x| reference(x, &targets, vocab).0);
                assert_close("dlogits", &grad, &want);
            }
            if rows > 2 {
                assert!(grad[vocab..2 * vocab].iter().all(|&g| g == 0.0), "an ignored row");
                assert_eq!(nll[1], 0.0);
            }
        }
    }

    #[test]
    fn large_logits_and_ties() {
        let (mut nll, mut argmax) = ([0.0; 2], [9; 2]);
        let logits = [1e4, 1e4, -1e4, 0.0, f32::NEG_INFINITY, 0.0];
        let loss = forward(&logits, &[0, 2], 3, Rows { nll: &mut nll, argmax: &mut argmax }).unwrap();
        assert_eq!(argmax, [0, 0], "the first of equals");
        assert!((loss - 2f32.ln()).abs() < 1e-6, "{loss}");
        let bad = forward(&[f32::NAN; 3], &[0], 3, Rows { nll: &mut nll[..1], argmax: &mut argmax[..1] });
        assert!(bad.unwrap().is_nan(), "NaN logits must show in the loss");
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let (rows, vocab) = (700, 101);
        let logits = random(rows * vocab, 1);
        let targets: Vec<u32> = (0..rows as u32).map(|n| if n % 5 == 0 { IGNORE } else { n % 101 }).collect();
        assert_same_bits_at_any_thread_count(|| {
            let (mut grad, mut nll, mut argmax) = (logits.clone(), poisoned(rows), vec![0; rows]);
            let out = Rows { nll: &mut nll, argmax: &mut argmax };
            let loss = forward_backward(&mut grad, &targets, vocab, out).unwrap();
            vec![grad, nll, vec![loss]]
        });
    }

    #[test]
    fn batches_without_labels_and_foreign_targets_are_refused() {
        let (mut nll, mut argmax) = ([0.0; 2], [0; 2]);
        let mut call = |targets: &[u32]| {
            let out = Rows { nll: &mut nll, argmax: &mut argmax };
            forward(&[0.0; 6], targets, 3, out).map_err(|e| e.to_string())
        };
        assert_eq!(
            call(&[IGNORE, IGNORE]).unwrap_err(),
            "cross_entropy: none of 2 rows has a target; score at least one row of a batch"
        );
        assert_eq!(
            call(&[0, 3]).unwrap_err(),
            "cross_entropy: target 3 of row 1 is outside of a vocabulary of 3; \
             use the tokenizer the model was made for"
        );
        assert_eq!(
            call(&[0]).unwrap_err(),
            "cross_entropy: logits has 6 elements, expected 3 for shape [rows=1, vocab=3]"
        );
    }
}
