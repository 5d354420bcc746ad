//! The dynamic short convolution: a causal depthwise convolution whose taps may differ from token to token.
//!
//! ```text
//! c[t, d] = sum_{k < W} taps[t, k, d] * x[t - k, d]          tap 0 meets the token itself; x[t < 0] = 0
//! y       = act(c) (+ x)                                     act: identity or SiLU; the residual after it
//!
//! static      taps[t, k, d] = w[k, d]
//! head-wise   taps[t, k, d] = weight[t, d / head_size, k] + static_w[k, d]
//! low-rank    taps[t, k, d] = sum_r z[t, r] * u[r, k * D + d] + static_w[k, d]
//! ```
//!
//! Shapes, for S sequences of N tokens in all: x, y `[N, D]`; w, static_w `[W, D]`; weight `[N, H, W]` with H = D /
//! head_size; z `[N, R]`; u `[R, W * D]`; states `[S, W - 1, D]`, oldest input first. All are row-major `f32`. x, weight, z,
//! y and their gradients may be columns of wider buffers ([`Rows`]). Low-rank taps are never stored for more than a
//! few tokens.
//!
//! [`forward`] computes y, [`backward`] all gradients, [`step`] one token of each sequence. Sequences may be packed
//! ([`Sequences`](crate::Sequences)) and continued ([`Input::initial_state`], [`Output::final_state`]).
//!
//! Every output is overwritten. An argument that does not fit is an [`Error`](crate::Error), never a panic. Bits do
//! not depend on the number of threads or on the vector instructions of the machine; y and dx of a sequence do not
//! depend on what else is in the batch; [`step`] gives the bits of [`forward`]. Rows that start at multiples of 64
//! bytes are the fastest to read and write.
//!
//! Per element of x and at least: a static filter moves 8 bytes forward and 12 backward, a head-wise one 4 W /
//! head_size more and twice that more; both are bound by memory. A low-rank one does 2 R W + 2 W operations forward
//! and 6 R W + 3 W backward and is bound by arithmetic.
//!
//! Source: arXiv 2606.03825 and its released kernels, whose layouts and tap order these are.
//!
//! ```
//! use kernels::Sequences;
//! use kernels::short_conv::{Filter, Input, Options, Output, Rows, RowsMut, Shape, forward};
//!
//! let shape = Shape { seqs: Sequences::Equal { batch: 1, len: 3 }, d: 2, width: 2 };
//! let x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
//! let w = [1.0, 1.0, 0.5, -1.0];
//! let input = Input {
//!     x: Rows::packed(&x, 2),
//!     filter: Filter::Static { w: &w },
//!     initial_state: None,
//! };
//! let mut y = [0.0; 6];
//! forward(shape, Options::default(), &input, Output { y: RowsMut::packed(&mut y, 2), final_state: None })?;
//! assert_eq!(y, [1.0, 10.0, 2.5, 10.0, 4.0, 10.0]);
//! # Ok::<(), kernels::Error>(())
//! ```

mod args;
mod backward;
mod check;
mod cotangent;
mod forward;
mod lanes;
mod low_rank;
mod plan;
mod products;
mod scratch;
mod silu;
mod sums;
mod tap_grads;
mod taps;
#[cfg(test)]
mod tests;

pub use args::{Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape};

use check::Check;
use plan::Plan;

use crate::error::Result;

/// The widest filter.
pub const MAX_WIDTH: usize = 8;
/// The highest rank of a low-rank filter.
pub const MAX_RANK: usize = 128;

/// Writes y, and the final state where it is asked for.
pub fn forward(shape: Shape, options: Options, input: &Input, output: Output) -> Result<()> {
    let check = Check::input("short_conv::forward", shape, input)?;
    check.output(&output)?;
    forward::forward(&Plan::new(shape, options, input), output);
    Ok(())
}

/// Writes the gradients of x, of the filter and, where it is asked for, of the initial state. `shape`, `options` and
/// `input` are those of the forward; nothing else of it is kept.
pub fn backward(shape: Shape, options: Options, input: &Input, output: OutputGrad, grad: InputGrad) -> Result<()> {
    let check = Check::input("short_conv::backward", shape, input)?;
    check.gradients(&input.filter, &output, &grad)?;
    backward::backward(&Plan::new(shape, options, input), output, grad);
    Ok(())
}

/// One token of each of B sequences, equal ones of length 1: writes y `[B, D]` and moves `state`, `[B, W - 1, D]`, on by
/// the token. The bits are those of [`forward`] over the whole sequences.
pub fn step(shape: Shape, options: Options, x: Rows, filter: Filter, state: &mut [f32], y: RowsMut) -> Result<()> {
    let input = Input { x, filter, initial_state: None };
    let check = Check::input("short_conv::step", shape, &input)?;
    check.step_state(state)?;
    let output = Output { y, final_state: None };
    check.output(&output)?;
    forward::forward(&Plan::new(shape, options, &Input { initial_state: Some(state), ..input }), output);
    let (rows, d) = (shape.width - 1, shape.d);
    if rows > 0 {
        for (b, state) in state.chunks_exact_mut(rows * d).enumerate() {
            state.copy_within(d.., 0);
            state[(rows - 1) * d..].copy_from_slice(x.row(b, 0..d));
        }
    }
    Ok(())
}
