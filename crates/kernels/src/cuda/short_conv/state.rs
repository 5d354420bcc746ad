//! Launches of `kernels/short_conv_state.cu`: final state, its gradient, a decode step.

use super::super::compile::Defines;
use super::super::device::Grid;
use super::super::error::CudaResult;
use super::params::{Call, Kind, Op, Place};

pub(super) const FILE: &str = "short_conv_state.cu";

pub(super) fn defines(op: &Op) -> Defines {
    let kind = match op.kind {
        Kind::Static => 0,
        Kind::HeadWise { .. } => 1,
        Kind::LowRank { .. } => 2,
    };
    op.defines(&[("KIND", kind), ("RANK", op.rank() as i64)])
}

fn grid(call: &Call<'_>) -> Grid {
    let threads = call.sequences.count * call.op.shape.d;
    Grid { blocks: (threads.div_ceil(128) as u32, call.op.shape.streams as u32), threads: (128, 1), shared: 0 }
}

/// The last W-1 inputs of each sequence.
pub(super) fn final_state(call: &Call<'_>, out: u64) -> CudaResult<()> {
    let mut p = call.operands();
    p.state_out = out;
    // SAFETY: the argument of conv_final_state; `out` holds [streams, S, W-1, D].
    unsafe { call.launch(FILE, "conv_final_state", &defines(&call.op), grid(call), &mut p) }
}

/// The initial state's gradient, and the final state's added to dx; after the backward kernel.
pub(super) fn gradient(call: &Call<'_>, dy: Place, dx: Place, dfinal: Option<u64>, out: Option<u64>) -> CudaResult<()> {
    let mut p = call.operands();
    (p.dy, p.lddy, p.s_dy) = (dy.at, dy.ld, dy.stream);
    (p.y, p.ldy, p.s_y) = (dx.at, dx.ld, dx.stream);
    (p.dfinal, p.state_out) = (dfinal.unwrap_or(0), out.unwrap_or(0));
    // SAFETY: the argument of conv_state_grad; both states hold [streams, S, W-1, D].
    unsafe { call.launch(FILE, "conv_state_grad", &defines(&call.op), grid(call), &mut p) }
}

/// One token of each sequence; `state` moves up by it.
pub(super) fn step(call: &Call<'_>, state: u64, y: Place) -> CudaResult<()> {
    let mut p = call.operands();
    p.state_out = state;
    (p.y, p.ldy, p.s_y) = (y.at, y.ld, y.stream);
    // SAFETY: the argument of conv_step; `state` holds [streams, B, W-1, D].
    unsafe { call.launch(FILE, "conv_step", &defines(&call.op), grid(call), &mut p) }
}
