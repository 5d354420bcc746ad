//! The backward pass, in two parts as that of [`crate::linear`]: inputs first, then each weight.

use rayon::prelude::*;

use super::args::{Options, Saved, Shape, Weight, Weights};
use super::experts::{Block, blocks, combine, gather, rows_of};
use super::route;
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::silu::slope;
use crate::simd::{dot, sigmoid, vectorized};
use crate::{Result, Store, check, scratch};

/// Gradients of x and of the logits, the auxiliary losses' included; `saved` is the forward's, and afterwards what
/// [`backward_weight`] needs.
///
/// # Errors
/// A slice whose size does not fit; a `saved` of another shape.
pub fn backward_input(
    s: Shape,
    o: Options,
    w: Weights,
    saved: &mut Saved,
    dy: &[f32],
    dx: &mut [f32],
    dlogits: &mut [f32],
) -> Result<()> {
    const OP: &str = "moe backward";
    s.check(OP, &[("dy", dy.len(), s.d), ("dx", dx.len(), s.d), ("dlogits", dlogits.len(), s.experts)])?;
    s.check_weights(OP, &w)?;
    check_saved(OP, s, saved)?;
    saved.dy.resize(s.pairs() * s.d, 0.0);
    saved.hidden.resize(s.pairs() * s.ffn, 0.0);
    saved.dweights.resize(s.pairs(), 0.0);
    tasks(s, saved).into_par_iter().for_each(|task| task.run(s, dy, w));
    combine(s, saved, |_| 1.0, dx);
    route::backward(s, o, saved, dlogits);
    Ok(())
}

/// Gradient of one weight, after [`backward_input`].
///
/// # Errors
/// As [`backward_input`].
pub fn backward_weight(s: Shape, saved: &Saved, weight: Weight, dw: &mut [f32], store: Store) -> Result<()> {
    const OP: &str = "moe backward";
    s.check(OP, &[])?;
    check_saved(OP, s, saved)?;
    check::size(OP, "dw", dw.len(), &[("experts", s.experts), ("ffn", s.ffn), ("d", s.d)])?;
    let (dout, outputs, input, inputs) = match weight {
        Weight::Gate => (&saved.gate, s.ffn, &saved.x, s.d),
        Weight::Up => (&saved.up, s.ffn, &saved.x, s.d),
        Weight::Down => (&saved.dy, s.d, &saved.hidden, s.ffn),
    };
    check::size(OP, "gradients by slot", dout.len(), &[("pairs", s.pairs()), ("columns", outputs)])?;
    dw.par_chunks_mut(s.ffn * s.d).zip(saved.firsts.par_windows(2)).for_each(|(dw, range)| {
        let (first, rows) = (range[0], range[1] - range[0]);
        if rows == 0 {
            if store == Store::Overwrite {
                dw.fill(0.0);
            }
            return;
        }
        let dout = Mat::new(&dout[first * outputs..], rows, outputs);
        let input = Mat::new(&input[first * inputs..], rows, inputs);
        gemm(Threads::One, MatMut::new(dw, outputs, inputs), store, 1.0, dout.t(), input);
    });
    Ok(())
}

fn check_saved(op: &'static str, s: Shape, saved: &Saved) -> Result<()> {
    check::size(op, "saved probabilities", saved.probs.len(), &[("tokens", s.tokens), ("experts", s.experts)])?;
    check::size(op, "saved inputs", saved.x.len(), &[("pairs", s.pairs()), ("d", s.d)])?;
    check::size(op, "saved gates", saved.gate.len(), &[("pairs", s.pairs()), ("ffn", s.ffn)])
}

/// A block and its rows of the buffers.
struct Task<'a> {
    block: Block,
    pairs: &'a [u32],
    /// Of all pairs, by pair.
    weights: &'a [f32],
    dy: &'a mut [f32],
    gate: &'a mut [f32],
    up: &'a mut [f32],
    hidden: &'a mut [f32],
    dx: &'a mut [f32],
    dweights: &'a mut [f32],
}

fn tasks(s: Shape, saved: &mut Saved) -> Vec<Task<'_>> {
    let (pairs, weights) = (&saved.pairs, &saved.weights);
    let (mut dy, mut dx, mut dweights) = (&mut saved.dy[..], &mut saved.out[..], &mut saved.dweights[..]);
    let (mut gate, mut up, mut hidden) = (&mut saved.gate[..], &mut saved.up[..], &mut saved.hidden[..]);
    let task = |block: Block| Task {
        pairs: &pairs[block.first..][..block.rows],
        weights,
        dy: rows_of(&mut dy, block.rows, s.d),
        gate: rows_of(&mut gate, block.rows, s.ffn),
        up: rows_of(&mut up, block.rows, s.ffn),
        hidden: rows_of(&mut hidden, block.rows, s.ffn),
        dx: rows_of(&mut dx, block.rows, s.d),
        dweights: rows_of(&mut dweights, block.rows, 1),
        block,
    };
    blocks(&saved.firsts).into_iter().map(task).collect()
}

impl Task<'_> {
    fn run(mut self, s: Shape, dy: &[f32], w: Weights) {
        let Block { expert, rows, .. } = self.block;
        let size = s.ffn * s.d;
        let of = expert * size..(expert + 1) * size;
        gather(s, self.pairs, dy, self.dy);
        scratch::with([rows * s.ffn], |[dhidden]| {
            let down = Mat::new(&w.down[of.clone()], s.d, s.ffn);
            let product = MatMut::new(dhidden, rows, s.ffn);
            gemm(Threads::One, product, Store::Overwrite, 1.0, Mat::new(self.dy, rows, s.d), down);
            vectorized(
                #[inline(always)]
                || self.through_swiglu(s.ffn, dhidden),
            );
        });
        for (dout, w, store) in [(&self.gate, w.gate, Store::Overwrite), (&self.up, w.up, Store::Accumulate)] {
            let w = Mat::new(&w[of.clone()], s.ffn, s.d);
            gemm(Threads::One, MatMut::new(self.dx, rows, s.d), store, 1.0, Mat::new(dout, rows, s.ffn), w);
        }
    }

    /// Gradients of gate, up and the pair's weight, and the weighted hidden values; `dhidden` is unweighted.
    #[inline(always)]
    fn through_swiglu(&mut self, ffn: usize, dhidden: &[f32]) {
        for (i, dh) in dhidden.chunks_exact(ffn).enumerate() {
            let weight = self.weights[self.pairs[i] as usize];
            let row = i * ffn..(i + 1) * ffn;
            let (gate, up) = (&mut self.gate[row.clone()], &mut self.up[row.clone()]);
            let hidden = &mut self.hidden[row][..ffn];
            for c in 0..ffn {
                let sg = sigmoid(gate[c]);
                let (g, u) = (gate[c] * sg, up[c]);
                hidden[c] = g * u;
                gate[c] = weight * dh[c] * u * slope(gate[c], sg);
                up[c] = weight * dh[c] * g;
            }
            self.dweights[i] = dot(dh, hidden);
            hidden.iter_mut().for_each(|h| *h *= weight);
        }
    }
}
