//! Launches of `kernels/attention_any.cu`: every type, head size and alignment, without tensor cores.

use super::super::device::Grid;
use super::super::error::CudaResult;
use super::params::Call;

pub(super) const FILE: &str = "attention_any.cu";

/// Rows and threads of a block.
const TILE: usize = 32;
const THREADS: usize = 4 * TILE;

/// Bytes of shared memory for so many tiles of rows and of scores.
fn shared(head_size: usize, planes: usize, scores: usize) -> u32 {
    (4 * TILE * (planes * (head_size + 1) + scores * (TILE + 1))) as u32
}

/// o and lse.
pub(super) fn forward(call: &mut Call<'_>) -> CudaResult<()> {
    let (tiles, _plan) = call.tiles(TILE)?;
    launch(call, "attention_any_fwd", tiles * call.shape.heads, shared(call.shape.head_size, 3, 1))
}

/// dq, dk, dv.
pub(super) fn backward(call: &mut Call<'_>) -> CudaResult<()> {
    let (heads, head_size) = (call.shape.heads, call.shape.head_size);
    let _delta = call.delta()?;
    let (tiles, _plan) = call.tiles(TILE)?;
    // The kernel's DELTA_LANES.
    let lanes = 1 << (head_size / 4).ilog2();
    launch(call, "attention_delta", (heads * call.shape.rows()).div_ceil(THREADS / lanes), 0)?;
    launch(call, "attention_any_dq", tiles * heads, shared(head_size, 4, 1))?;
    call.p.group = call.p.group.min((call.shape.batch * call.shape.kv_heads) as i32);
    launch(call, "attention_any_dkdv", tiles * call.shape.kv_heads, shared(head_size, 4, 2))
}

fn launch(call: &mut Call<'_>, entry: &'static str, blocks: usize, shared: u32) -> CudaResult<()> {
    let grid = Grid { blocks: (blocks as u32, 1), threads: (THREADS as u32, 1), shared };
    // SAFETY: the argument of every entry; sizes were checked by the caller, the grid covers the tiles of every head once.
    unsafe { call.launch(FILE, entry, &[], grid, &[]) }
}
