//! The forward pass.

use rayon::prelude::*;

use super::{Input, Shape, Task};
use crate::decay::{CHUNK, Decay, chunks};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::shared::Shared;
use crate::simd::vectorized;
use crate::{Result, Store, scratch};

/// y, the states after the last tokens if asked for, and in `saved` what the backward needs.
///
/// # Errors
/// A slice whose size does not fit; groups that do not divide the heads; malformed sequences; a dimension of 0.
pub fn forward(
    s: &Shape,
    input: &Input,
    y: &mut [f32],
    final_state: Option<&mut [f32]>,
    saved: &mut [f32],
) -> Result<()> {
    const OP: &str = "ssd";
    s.check(OP, input)?;
    s.check_x(OP, &[("y", y.len())])?;
    s.check_state(OP, "final_state", final_state.as_ref().map(|f| f.len()))?;
    s.check_saved(OP, saved.len())?;
    let (y, saved, final_state) = (Shared::new(y), Shared::new(saved), final_state.map(Shared::new));
    s.tasks().into_par_iter().for_each(|task| task.forward(s, input, &y, final_state.as_ref(), &saved));
    Ok(())
}

impl Task {
    fn forward(&self, s: &Shape, input: &Input, y: &Shared, final_state: Option<&Shared>, saved: &Shared) {
        let (size, states, cols, heads) = (s.head_size, s.state_size, self.cols(s), self.heads.len());
        // SAFETY: this tile's part of the kept states, which no other task touches.
        let state = |chunk: usize| unsafe { saved.slice(self.saved(s, chunk).start, states * cols) };
        let first_state = state(0);
        match input.initial_state {
            Some(initial) => {
                self.state_rows(s).for_each(|(from, to)| {
                    first_state[to..to + size].copy_from_slice(&initial[from..from + size]);
                });
            }
            None => first_state.fill(0.0),
        }
        let most = CHUNK.min(self.rows.len());
        let mut decays = Vec::with_capacity(heads);
        let lens = [heads * CHUNK, most * cols, most * CHUNK, most * CHUNK, states * cols];
        scratch::with(lens, |[dt, xdt, products, pairs, last]| {
            for (chunk, row, n) in chunks(&self.rows) {
                self.gates(s, input, row, n, dt, &mut decays);
                let after = if row + n < self.rows.end { state(chunk + 1) } else { &mut *last };
                self.forward_chunk(s, input, row, n, state(chunk), after, &decays, [dt, xdt, products, pairs], y);
            }
            if let Some(final_state) = final_state {
                for (to, from) in self.state_rows(s) {
                    // SAFETY: rows of this tile's heads, which no other task touches.
                    unsafe { final_state.slice(to, size) }.copy_from_slice(&last[from..from + size]);
                }
            }
        });
    }
    /// y of the chunk's `n` rows from `row` on, and the state after them.
    fn forward_chunk(
        &self,
        s: &Shape,
        input: &Input,
        row: usize,
        n: usize,
        before: &[f32],
        after: &mut [f32],
        decays: &[Decay],
        [dt, xdt, products, pairs]: [&mut [f32]; 4],
        y: &Shared,
    ) {
        let (size, states, cols) = (s.head_size, s.state_size, self.cols(s));
        let (width, bc_width, one) = (s.width(), s.groups * states, Threads::One);
        let bc_start = row * bc_width + self.group * states;
        let b = Mat::strided(&input.b[bc_start..], n, states, bc_width);
        let c = Mat::strided(&input.c[bc_start..], n, states, bc_width);
        let start = row * width + self.heads.start * size;
        // SAFETY: this tile's columns of the chunk's rows, which no other task touches; so below.
        let y_rows = unsafe { y.mat(start, n, cols, width) };
        gemm(one, y_rows, Store::Overwrite, 1.0, c, Mat::new(before, states, cols));
        gemm(one, MatMut::strided(products, n, n, CHUNK), Store::Overwrite, 1.0, c, b.t());

        for (i, decay) in decays.iter().enumerate() {
            let d = input.d[self.heads.start + i];
            decay.pairs(pairs);
            vectorized(
                #[inline(always)]
                || {
                    for t in 0..n {
                        for (p, x) in pairs[t * CHUNK..][..n].iter_mut().zip(&products[t * CHUNK..][..n]) {
                            *p *= x;
                        }
                        let x = &input.x[start + t * width + i * size..][..size];
                        // SAFETY: as above.
                        let y = unsafe { y.slice(start + t * width + i * size, size) };
                        let (dt, decay) = (dt[i * CHUNK + t], decay.from_start[t]);
                        let xdt = &mut xdt[t * cols + i * size..][..size];
                        for ((y, xdt), x) in y.iter_mut().zip(xdt).zip(x) {
                            *y = decay * *y + d * x;
                            *xdt = dt * x;
                        }
                    }
                },
            );
            let xdt = Mat::strided(&xdt[i * size..], n, size, cols);
            // SAFETY: as above.
            let y = unsafe { y.mat(start + i * size, n, size, width) };
            gemm(one, y, Store::Accumulate, 1.0, Mat::strided(pairs, n, n, CHUNK), xdt);
        }

        vectorized(
            #[inline(always)]
            || {
                for (after, before) in after.chunks_exact_mut(cols).zip(before.chunks_exact(cols)) {
                    for (i, decay) in decays.iter().enumerate() {
                        let head = i * size..(i + 1) * size;
                        for (after, before) in after[head.clone()].iter_mut().zip(&before[head]) {
                            *after = decay.whole * before;
                        }
                    }
                }
                for (t, row) in xdt.chunks_exact_mut(cols).take(n).enumerate() {
                    for (head, decay) in row.chunks_exact_mut(size).zip(decays) {
                        head.iter_mut().for_each(|x| *x *= decay.to_end[t]);
                    }
                }
            },
        );
        let xdt = Mat::new(&xdt[..n * cols], n, cols);
        gemm(one, MatMut::new(after, states, cols), Store::Accumulate, 1.0, b.t(), xdt);
    }
}
