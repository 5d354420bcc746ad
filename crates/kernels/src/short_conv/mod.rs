//! Dynamic short convolution.
pub const MAX_WIDTH: usize = 8;
pub const MAX_RANK: usize = 128;

mod args;
mod backward;
mod check;
mod forward;
mod lanes;
mod low_rank;
mod partials;
mod plan;
mod scratch;
mod silu;
mod tap_grads;
mod taps;

pub use args::{Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape};
use check::Check;
use plan::Plan;

use crate::error::Result;

/// Writes y, and the final state where asked for.
pub fn forward(shape: Shape, options: Options, input: &Input, output: Output) -> Result<()> {
    let check = Check::input("short_conv::forward", shape, input)?;
    check.output(&output)?;
    forward::forward(&Plan::new(shape, options, input), output);
    Ok(())
}

/// Writes all gradients.
pub fn backward(shape: Shape, options: Options, input: &Input, output: OutputGrad, grad: InputGrad) -> Result<()> {
    let check = Check::input("short_conv::backward", shape, input)?;
    check.gradients(&input.filter, &output, &grad)?;
    backward::backward(&Plan::new(shape, options, input), output, grad);
    Ok(())
}

/// One token of each of B sequences.
pub fn step(shape: Shape, options: Options, x: Rows, filter: Filter, state: &mut [f32], y: RowsMut) -> Result<()> {
    let input = Input { x, filter, cu_seqlens: None, initial_state: None };
    let check = Check::input("short_conv::step", shape, &input)?;
    let output = Output { y, final_state: None };
    check.output(&output)?;
    check.step_state(state)?;
    let input = Input { initial_state: Some(state), ..input };
    forward::forward(&Plan::new(shape, options, &input), output);
    let (rows, d) = (shape.width - 1, shape.d);
    if rows > 0 {
        for (b, state) in state.chunks_exact_mut(rows * d).enumerate() {
            state.copy_within(d.., 0);
            state[(rows - 1) * d..].copy_from_slice(x.row(b, 0..d));
        }
    }
    Ok(())
}
