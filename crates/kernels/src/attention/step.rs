//! One token of a sequence against the keys and values before it.

use rayon::prelude::*;

use crate::simd::{dot, exp, sum, vectorized};
use crate::{Result, check, scratch};

/// `o = softmax(q k^T / sqrt(head_size)) v` of the newest token: q and o `[heads, head_size]`, k and v
/// `[T, kv_heads, head_size]`, the token's own last.
///
/// # Errors
/// A slice whose size does not fit; key heads that do not divide the heads; no key.
pub fn step(
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    o: &mut [f32],
) -> Result<()> {
    const OP: &str = "attention step";
    check::positive(OP, "heads", heads)?;
    check::positive(OP, "head_size", head_size)?;
    let remedy = "give each key head the same number of query heads";
    check::divides(OP, ("heads", heads), ("kv_heads", kv_heads), remedy)?;
    let width = kv_heads * head_size;
    let keys = k.len() / width;
    check::positive(OP, "keys", keys)?;
    for (name, len) in [("q", q.len()), ("o", o.len())] {
        check::size(OP, name, len, &[("heads", heads), ("head_size", head_size)])?;
    }
    for (name, len) in [("k", k.len()), ("v", v.len())] {
        check::size(OP, name, len, &[("keys", keys), ("kv_heads", kv_heads), ("head_size", head_size)])?;
    }
    let scale = 1.0 / (head_size as f32).sqrt();
    o.par_chunks_mut(head_size).zip(q.par_chunks(head_size)).enumerate().for_each(|(head, (o, q))| {
        let column = head / (heads / kv_heads) * head_size;
        scratch::with([keys], |[scores]| {
            vectorized(
                #[inline(always)]
                || {
                    let mut max = f32::NEG_INFINITY;
                    for (score, k) in scores.iter_mut().zip(k.chunks_exact(width)) {
                        *score = scale * dot(q, &k[column..][..head_size]);
                        max = if *score > max { *score } else { max };
                    }
                    for score in scores.iter_mut() {
                        *score = exp(*score - max);
                    }
                    let total = sum(
                        [scores],
                        #[inline(always)]
                        |[p]| p,
                    );
                    o.fill(0.0);
                    for (p, v) in scores.iter().zip(v.chunks_exact(width)) {
                        let p = p / total;
                        for (o, v) in o.iter_mut().zip(&v[column..][..head_size]) {
                            *o += p * v;
                        }
                    }
                },
            );
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{Shape, forward};
    use crate::testing::*;
    use crate::{Error, Sequences};

    #[test]
    fn token_by_token_is_the_whole_pass() {
        for (heads, kv_heads, head_size, len) in [(1, 1, 1, 1), (4, 2, 5, 9), (2, 2, 16, 70)] {
            let (width, kv_width) = (heads * head_size, kv_heads * head_size);
            let (q, k, v) = (random(len * width, 1), random(len * kv_width, 2), random(len * kv_width, 3));
            let shape = Shape { seqs: Sequences::Equal { batch: 1, len }, heads, kv_heads, head_size };
            let (mut whole, mut lse) = (poisoned(q.len()), poisoned(heads * len));
            forward(&shape, &q, &k, &v, &mut whole, &mut lse).unwrap();
            for t in 0..len {
                let (mut o, seen) = (poisoned(width), (t + 1) * kv_width);
                step(heads, kv_heads, head_size, &q[t * width..][..width], &k[..seen], &v[..seen], &mut o).unwrap();
                assert_close(&format!("token {t}"), &o, &wide(&whole[t * width..][..width]));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let run = |q: usize, k: usize| step(2, 1, 3, &[0.0; 8][..q], &[0.0; 8][..k], &[0.0; 6], &mut [0.0; 6]);
        assert!(matches!(run(6, 0), Err(Error::Range { name: "keys", .. })));
        assert!(matches!(run(5, 6), Err(Error::Size { name: "q", .. })));
        assert!(matches!(run(6, 7), Err(Error::Size { name: "k", .. })));
        assert!(matches!(run(6, 3), Err(Error::Size { name: "v", .. })));
    }
}
