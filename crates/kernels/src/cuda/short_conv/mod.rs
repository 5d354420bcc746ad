//! Dynamic short convolution on the GPU: the CPU op's formulas and options ([`args`]), in f32, bf16 and f16.
//!
//! Calls queue their kernels on the device's stream and return; errors of a kernel come out at the next synchronisation.
//! Scratch is allocated in stream order, so a call can be captured in a graph once its kernels are compiled (run it once before).
//! Two runs give the same bits.

mod args;
mod check;
mod headwise;
mod low_rank;
mod low_rank_hopper;
mod params;
mod state;
mod sums;
mod swiglu;
mod variants;

pub use args::{Element, Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape};
pub use swiglu::{swiglu, swiglu_backward, takes_swiglu};
pub use variants::{Variant, variants};

use std::collections::BTreeMap;

use cudarc::driver::CudaViewMut;

use super::arguments::{at, at_mut};
use super::device::Device;
use super::error::CudaResult;
use check::Check;
use params::{Call, Kind, Place};

/// SHA-256 of each source of this op's kernels, by file.
pub fn source_hashes() -> BTreeMap<String, String> {
    let shared = ["common.cuh", "mma.cuh", "hopper.cuh", "lowrank_hopper.cuh", "sums.cu", "plan.cu"];
    super::source::hashes_of(|name| name.starts_with("short_conv") || shared.contains(&name))
}

/// Writes y, and the final state where asked for.
pub fn forward<T: Element>(
    device: &Device,
    shape: Shape,
    options: Options,
    input: &Input<'_, T>,
    mut output: Output<'_, T>,
) -> CudaResult<()> {
    Check::input("cuda::short_conv::forward", shape, input)?.output(&output)?;
    let (call, stream) = (Call::new(device, shape, options, input), device.stream());
    let y = Place::of_mut(&mut output.y, stream);
    match call.op.kind {
        Kind::LowRank { .. } => low_rank::forward(&call, y, None)?,
        _ => headwise::forward(&call, y)?,
    }
    match output.final_state {
        Some(mut out) if shape.width > 1 => state::final_state(&call, at_mut(&mut out, stream)),
        _ => Ok(()),
    }
}

/// Writes all gradients.
pub fn backward<T: Element>(
    device: &Device,
    shape: Shape,
    options: Options,
    input: &Input<'_, T>,
    output: OutputGrad<'_, T>,
    mut grad: InputGrad<'_, T>,
) -> CudaResult<()> {
    Check::input("cuda::short_conv::backward", shape, input)?.gradients(&input.filter, &output, &grad)?;
    let (call, stream) = (Call::new(device, shape, options, input), device.stream());
    let (dy, dx) = (Place::of(&output.dy, stream), Place::of_mut(&mut grad.dx, stream));
    match &mut grad.filter {
        FilterGrad::Static { dw } => headwise::backward(&call, dy, dx, None, Some(at_mut(dw, stream)))?,
        FilterGrad::HeadWise { dweight, dstatic_w } => {
            let dstatic_w = dstatic_w.as_mut().map(|v| at_mut(v, stream));
            headwise::backward(&call, dy, dx, Some(Place::of_mut(dweight, stream)), dstatic_w)?;
        }
        FilterGrad::LowRank { dz, du, dstatic_w } => {
            let dstatic_w = dstatic_w.as_mut().map(|v| at_mut(v, stream));
            let rows = shape.batch * shape.len * shape.d;
            let mut scratch = if options.silu { Some(device.scratch::<T>(shape.streams * rows)?) } else { None };
            let g = scratch.as_mut().map(|g| Place {
                at: at_mut(&mut g.as_view_mut(), stream),
                ld: shape.d as i64,
                stream: rows as i64,
            });
            low_rank::backward(&call, dy, g, dx, Place::of_mut(dz, stream), at_mut(du, stream), dstatic_w)?;
        }
    }
    let dfinal = output.dfinal_state.as_ref().map(|v| at(v, stream));
    let dinitial = grad.dinitial_state.as_mut().map(|v| at_mut(v, stream));
    if shape.width == 1 || (dfinal.is_none() && dinitial.is_none()) {
        return Ok(());
    }
    state::gradient(&call, dy, dx, dfinal, dinitial)
}

/// One token of each of B sequences; `state` `[streams, B, W - 1, D]` moves up by it.
pub fn step<T: Element>(
    device: &Device,
    shape: Shape,
    options: Options,
    x: Rows<'_, T>,
    filter: Filter<'_, T>,
    state: &mut CudaViewMut<'_, T>,
    y: RowsMut<'_, T>,
) -> CudaResult<()> {
    let input = Input { x, filter, cu_seqlens: None, initial_state: None };
    let check = Check::input("cuda::short_conv::step", shape, &input)?;
    let mut output = Output { y, final_state: None };
    check.output(&output)?;
    check.step(state.len())?;
    let stream = device.stream();
    let call = Call::new(device, shape, options, &input);
    state::step(&call, at_mut(state, stream), Place::of_mut(&mut output.y, stream))
}
