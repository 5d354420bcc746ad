//! The forward pass.

use rayon::prelude::*;

use super::args::{Options, Saved, Shape, Weights};
use super::experts::{Block, blocks, combine, gather, rows_of, times_transposed};
use super::route::route;
use crate::gemm::Mat;
use crate::simd::{sigmoid, vectorized};
use crate::{Result, check, scratch};

/// `y`, and in `saved` what the backward needs, the load of each expert and the auxiliary losses. `bias` is added to
/// the probabilities to choose by, not to weigh by.
///
/// # Errors
/// A slice whose size does not fit; more choices than experts; a dimension of 0.
pub fn forward(
    s: Shape,
    o: Options,
    x: &[f32],
    logits: &[f32],
    bias: Option<&[f32]>,
    w: Weights,
    y: &mut [f32],
    saved: &mut Saved,
) -> Result<()> {
    const OP: &str = "moe";
    s.check(OP, &[("x", x.len(), s.d), ("logits", logits.len(), s.experts), ("y", y.len(), s.d)])?;
    s.check_weights(OP, &w)?;
    if let Some(bias) = bias {
        check::size(OP, "bias", bias.len(), &[("experts", s.experts)])?;
    }
    route(s, o, logits, bias, saved);
    for (buffer, width) in
        [(&mut saved.x, s.d), (&mut saved.gate, s.ffn), (&mut saved.up, s.ffn), (&mut saved.out, s.d)]
    {
        buffer.resize(s.pairs() * width, 0.0);
    }
    tasks(s, saved).into_par_iter().for_each(|task| task.run(s, x, w));
    combine(s, saved, |pair| saved.weights[pair], y);
    Ok(())
}

/// A block and its rows of the buffers.
struct Task<'a> {
    block: Block,
    pairs: &'a [u32],
    x: &'a mut [f32],
    gate: &'a mut [f32],
    up: &'a mut [f32],
    out: &'a mut [f32],
}

fn tasks(s: Shape, saved: &mut Saved) -> Vec<Task<'_>> {
    let pairs = &saved.pairs;
    let (mut x, mut out) = (&mut saved.x[..], &mut saved.out[..]);
    let (mut gate, mut up) = (&mut saved.gate[..], &mut saved.up[..]);
    let task = |block: Block| Task {
        pairs: &pairs[block.first..][..block.rows],
        x: rows_of(&mut x, block.rows, s.d),
        gate: rows_of(&mut gate, block.rows, s.ffn),
        up: rows_of(&mut up, block.rows, s.ffn),
        out: rows_of(&mut out, block.rows, s.d),
        block,
    };
    blocks(&saved.firsts).into_iter().map(task).collect()
}

impl Task<'_> {
    fn run(self, s: Shape, x: &[f32], w: Weights) {
        let size = s.ffn * s.d;
        let Block { expert, rows, .. } = self.block;
        let of = expert * size..(expert + 1) * size;
        gather(s, self.pairs, x, self.x);
        scratch::with([size, rows * s.ffn], |[wt, hidden]| {
            let x = Mat::new(self.x, rows, s.d);
            times_transposed(self.gate, x, Mat::new(&w.gate[of.clone()], s.ffn, s.d), wt);
            times_transposed(self.up, x, Mat::new(&w.up[of.clone()], s.ffn, s.d), wt);
            vectorized(
                #[inline(always)]
                || {
                    for ((h, &g), &u) in hidden.iter_mut().zip(&*self.gate).zip(&*self.up) {
                        *h = g * sigmoid(g) * u;
                    }
                },
            );
            times_transposed(self.out, Mat::new(hidden, rows, s.ffn), Mat::new(&w.down[of], s.d, s.ffn), wt);
        });
    }
}
