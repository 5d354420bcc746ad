//! Launches of `kernels/short_conv_lowrank_fwd_hopper.cu` and `short_conv_lowrank_bwd_hopper.cu`: sm_90a, bf16, the common ranks and widths.

use super::super::compile::Defines;
use super::super::device::Grid;
use super::super::error::CudaResult;
use super::headwise::alignment;
use super::low_rank::outside;
use super::params::{Call, Op, Params};

pub(super) const FORWARD: &str = "short_conv_lowrank_fwd_hopper.cu";
pub(super) const BACKWARD: &str = "short_conv_lowrank_bwd_hopper.cu";

/// What they are compiled for.
pub(super) const ARCH: &str = "sm_90a";

/// Tokens of a tile, channels of a block, ranks of a product; threads forward and backward; tiles of x in flight forward.
pub(super) const ROWS: usize = 64;
pub(super) const CHANNELS: usize = 256;
pub(super) const RANKS: usize = 16;
pub(super) const FORWARD_THREADS: usize = 640;
const BACKWARD_THREADS: usize = 512;
pub(super) const STAGES: usize = 4;

/// Whether these kernels take the call: `aligned` says that rows of D are copied 16 bytes at a time.
pub(super) fn takes(op: &Op, arch: &str, aligned: bool) -> bool {
    // At width 3 registers spill; narrower inputs would leave most of a block's channels empty.
    let shape = matches!(op.shape.width, 1 | 2 | 4) && op.rank() <= RANKS && op.shape.d > CHANNELS / 2;
    arch == ARCH && aligned && op.code == 1 && shape
}

/// Bytes of U in shared memory, of a fetched row of 256 channels, and of one of z.
pub(super) fn sizes(op: &Op) -> (usize, usize, usize) {
    let (plane, width) = (CHANNELS * RANKS * 2, op.shape.width);
    // static_w apart from the ranks: a plane, and for each w the operand that picks its row of it.
    let apart = if outside(op) { plane + width * ROWS * RANKS * 2 } else { 0 };
    (width * plane + apart, (CHANNELS + 8) * 2, (RANKS + 8) * 2)
}

fn forward_shared(op: &Op) -> usize {
    let (u, row, z) = sizes(op);
    u + STAGES * (ROWS + op.shape.width - 1) * (row + z)
}

/// Two stages of x, dy and z, dz of two tiles, and dstatic_w where it is apart from the ranks.
fn backward_shared(op: &Op) -> usize {
    let (u, row, z) = sizes(op);
    u + 2 * (ROWS + op.shape.width - 1) * (2 * row + z)
        + 2 * ROWS * RANKS * 4
        + if outside(op) { BACKWARD_THREADS * 16 } else { 0 }
}

pub(super) fn defines(op: &Op, z_aligned: bool, more: &[(&'static str, i64)]) -> Defines {
    let common = [("RANK", op.rank() as i64), ("CW", 32), ("ALIGNED", 1), ("Z_ALIGNED", i64::from(z_aligned))];
    op.defines(&[&common[..], more].concat())
}

pub(super) fn forward_defines(op: &Op, z_aligned: bool, gradient: bool) -> Defines {
    let more = [("THREADS", FORWARD_THREADS as i64), ("STAGES", STAGES as i64), ("GRAD", i64::from(gradient))];
    defines(op, z_aligned, &more)
}

pub(super) fn backward_defines(op: &Op, z_aligned: bool) -> Defines {
    let res_in = op.options.silu && op.options.residual;
    defines(op, z_aligned, &[("THREADS", BACKWARD_THREADS as i64), ("RES_IN", i64::from(res_in))])
}

fn z_aligned(call: &Call<'_>) -> bool {
    call.op.rank() == RANKS && alignment(&[call.weight], call.op.element) >= 16
}

/// Column tiles of a stream, and spans of rows that give each multiprocessor one block, over all streams.
pub(super) fn blocks(call: &Call<'_>, chunks: i32) -> (usize, usize) {
    let tiles = call.op.shape.d.div_ceil(CHANNELS);
    let spans = call.device.multiprocessors() / (tiles * call.op.shape.streams);
    (tiles, spans.clamp(1, chunks.max(1) as usize))
}

/// y, or g with `gradient`; `p` has chunks of [`ROWS`] rows and the operands.
pub(super) fn forward(call: &Call<'_>, p: &mut Params, gradient: bool) -> CudaResult<()> {
    let (tiles, spans) = blocks(call, p.chunks);
    (p.col_tiles, p.spans) = (tiles as i32, spans as i32);
    let grid = Grid {
        blocks: ((tiles * spans) as u32, call.op.shape.streams as u32),
        threads: (FORWARD_THREADS as u32, 1),
        shared: forward_shared(&call.op) as u32,
    };
    let defines = forward_defines(&call.op, z_aligned(call), gradient);
    // SAFETY: the argument of conv_lowrank_fwd; sizes were checked by the caller, the spans cover the rows once.
    unsafe { call.launch(FORWARD, "conv_lowrank_fwd", &defines, grid, p) }
}

/// dx and the partial sums of [`RANKS`] ranks; `p` has them, chunks of [`ROWS`] rows, and tiles and spans from [`blocks`].
pub(super) fn backward(call: &Call<'_>, p: &mut Params) -> CudaResult<()> {
    let grid = Grid {
        blocks: ((p.col_tiles * p.spans) as u32, call.op.shape.streams as u32),
        threads: (BACKWARD_THREADS as u32, 1),
        shared: backward_shared(&call.op) as u32,
    };
    let defines = backward_defines(&call.op, z_aligned(call));
    // SAFETY: the argument of conv_lowrank_bwd; sizes were checked by the caller, partial sums have a place per block.
    unsafe { call.launch(BACKWARD, "conv_lowrank_bwd", &defines, grid, p) }
}

#[cfg(test)]
mod tests {
    use super::super::args::{Options, Shape};
    use super::super::params::Kind;
    use super::*;

    fn op(code: i64, width: usize, rank: usize, static_w: bool, d: usize) -> Op {
        let shape = Shape { streams: 1, batch: 2, len: 100, d, width };
        let (kind, options) = (Kind::LowRank { rank }, Options { residual: false, silu: false });
        Op { shape, options, kind, code, element: 2, packed: false, state: false, static_w }
    }

    #[test]
    fn only_what_the_kernels_compile_for_is_taken() {
        let usual = op(1, 4, 16, false, 2048);
        assert!(takes(&usual, ARCH, true) && takes(&op(1, 2, 15, true, 136), ARCH, true));
        assert!(takes(&op(1, 4, 16, true, 2048), ARCH, true));
        assert!(!takes(&usual, "sm_80", true) && !takes(&usual, ARCH, false));
        for other in [
            op(2, 4, 16, false, 2048),
            op(1, 3, 16, false, 2048),
            op(1, 5, 16, false, 2048),
            op(1, 4, 17, false, 2048),
            op(1, 4, 16, false, 128),
        ] {
            assert!(!takes(&other, ARCH, true), "{other:?}");
        }
    }

    #[test]
    fn shared_memory_is_what_a_block_may_have() {
        // The layouts of the kernels at width 4, byte by byte, and the 227 KiB of sm_90 less the kernels' own barriers.
        let widest = op(1, 4, 16, false, 2048);
        assert_eq!(forward_shared(&widest), 32768 + 4 * 67 * (528 + 48));
        assert_eq!(backward_shared(&widest), 32768 + 2 * 67 * (528 + 528 + 48) + 2 * 4096);
        let apart = op(1, 4, 16, true, 2048);
        assert_eq!(forward_shared(&apart), forward_shared(&widest) + 8192 + 4 * 2048);
        assert_eq!(backward_shared(&apart), backward_shared(&widest) + 8192 + 4 * 2048 + 256 * 32);
        assert_eq!(forward_shared(&op(1, 4, 15, true, 2048)), forward_shared(&widest));
        assert!(forward_shared(&apart).max(backward_shared(&apart)) < 226 * 1024);
    }
}
