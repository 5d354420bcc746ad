//! Launches of `kernels/short_conv_lowrank_fwd.cu` and `short_conv_lowrank_bwd.cu`.

use super::super::compile::Defines;
use super::super::device::Grid;
use super::super::error::CudaResult;
use super::headwise::alignment;
use super::low_rank_hopper as hopper;
use super::params::{Call, Op, Place};
use super::sums::{self, Sum};

pub(super) const FORWARD: &str = "short_conv_lowrank_fwd.cu";
pub(super) const BACKWARD: &str = "short_conv_lowrank_bwd.cu";

/// Rows of a forward step and of a backward tile.
const ROWS: usize = 32;

/// The tile of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Channels of a warp, and warps across channels.
    channels: usize,
    warps: usize,
    /// Rows of a chunk (forward), stages of the pipeline and rank tiles of a pass (backward).
    chunk: usize,
    stages: usize,
    rank_tiles: usize,
    /// Bytes of shared memory.
    shared: usize,
}

/// Ranks in tiles of 8, static_w among them unless it is [`outside`], and bf16 parts of an element.
fn ranks(op: &Op) -> (usize, usize) {
    let inside = usize::from(op.static_w && !outside(op));
    ((op.rank() + inside).div_ceil(8), [3, 1, 2][op.code as usize])
}

/// Whether static_w would take a tile of ranks for itself, and the kernels treat it apart (`OUTSIDE`).
pub(super) fn outside(op: &Op) -> bool {
    op.static_w && op.rank().is_multiple_of(8)
}

/// Rows of U and static_w in shared memory.
fn u_rows(op: &Op) -> usize {
    op.shape.width * ranks(op).0 * 8 + if outside(op) { 8 } else { 0 }
}

impl Tile {
    fn columns(&self) -> usize {
        self.channels * self.warps
    }

    /// As many warps as the channels can use and shared memory can hold.
    pub(super) fn forward(op: &Op, limit: usize) -> Self {
        let ((tiles, parts), w) = (ranks(op), op.shape.width);
        let channels = if op.code == 1 && w <= 4 { 32 } else { 16 };
        let chunk = if tiles > 4 { 64 } else { 128 };
        let chunk = if op.packed { chunk } else { chunk.min(op.shape.len.div_ceil(ROWS) * ROWS) };
        let shared = |warps: usize| {
            parts * (u_rows(op) * (channels * warps + 8) + chunk * tiles * 8) * 2
                + warps * 96 * (channels * op.element + 16)
        };
        let mut warps = 8;
        while warps > 1 && (shared(warps) > limit || channels * (warps / 2) >= op.shape.d) {
            warps /= 2;
        }
        Self { channels, warps, chunk, stages: 0, rank_tiles: tiles, shared: shared(warps) }
    }

    /// Two blocks on a multiprocessor where they fit: they hide each other's latency.
    pub(super) fn forward_defines(&self, op: &Op, aligned: bool, z_aligned: bool, gradient: bool) -> Defines {
        let room = op.code == 1 && op.shape.width <= 4 && (aligned || !outside(op));
        let two = room && self.warps == 8 && self.shared < 113 * 1024;
        op.defines(&[
            ("RANK", op.rank() as i64),
            ("THREADS", 32 * self.warps as i64),
            ("CW", self.channels as i64),
            ("CHUNK", self.chunk as i64),
            ("ALIGNED", i64::from(aligned)),
            ("Z_ALIGNED", i64::from(z_aligned)),
            ("GRAD", i64::from(gradient)),
            ("MIN_BLOCKS", if two { 2 } else { 1 }),
        ])
    }

    /// The widest tile whose dU fits the registers and whose stages fit shared memory.
    pub(super) fn backward(op: &Op, limit: usize) -> Self {
        let ((tiles, parts), w, e) = (ranks(op), op.shape.width, op.element);
        let narrow = op.code == 1 && w <= 4 && tiles <= 2;
        // dstatic_w apart from dU does not fit the registers of 32 channels.
        let channels = if narrow && !outside(op) { 32 } else { 16 };
        let rank_tiles = tiles.min(if w <= 4 && channels == 16 { 4 } else { 2 });
        let halo = ROWS + w - 1;
        let shared = |warps: usize, stages: usize| {
            let columns = channels * warps;
            let u = parts * u_rows(op) * (columns + 8) * 2;
            let z = 2 * parts * halo.div_ceil(4) * 4 * (tiles * 8 + 8) * 2;
            u + stages * 2 * halo * (columns + 16 / e) * e + z + 2 * warps * ROWS * (rank_tiles * 8 + 4) * 4
        };
        let (mut warps, mut stages) = (if narrow { 8 } else { 4 }, 3);
        loop {
            let fits = shared(warps, stages) <= limit;
            if !fits && stages > 2 {
                stages -= 1;
            } else if warps > 1 && (!fits || channels * (warps / 2) >= op.shape.d) {
                (warps, stages) = (warps / 2, 3);
            } else {
                break;
            }
        }
        Self { channels, warps, chunk: ROWS, stages, rank_tiles, shared: shared(warps, stages) }
    }

    pub(super) fn backward_defines(&self, op: &Op, aligned: bool) -> Defines {
        op.defines(&[
            ("RANK", op.rank() as i64),
            ("THREADS", 64 * self.warps as i64),
            ("CW", self.channels as i64),
            ("STAGES", self.stages as i64),
            ("ALIGNED", i64::from(aligned)),
            ("RES_IN", i64::from(op.options.silu && op.options.residual)),
            ("QT", self.rank_tiles as i64),
            ("MIN_BLOCKS", 1),
        ])
    }
}

/// Whether rows of D can be copied 16 bytes at a time.
pub(super) fn aligned(call: &Call<'_>, rows: &[Place]) -> bool {
    let fixed = [Some(call.x), Some(call.rows_of_d(call.u)), call.static_w.map(|a| call.rows_of_d(a))];
    let all: Vec<_> = fixed.into_iter().chain(rows.iter().copied().map(Some)).collect();
    call.op.shape.d.is_multiple_of(8) && alignment(&all, call.op.element) >= 16
}

/// y; with `gradient`, dy act'(conv(x)) for that dy instead.
pub(super) fn forward(call: &Call<'_>, y: Place, gradient: Option<Place>) -> CudaResult<()> {
    let op = &call.op;
    let rows: Vec<_> = std::iter::once(y).chain(gradient).collect();
    let aligned = aligned(call, &rows);
    let tile = Tile::forward(op, call.device.shared_per_block() - 1024);
    let on_hopper = hopper::takes(op, call.device.arch(), aligned);
    let (mut p, _plan) = call.params(if on_hopper { hopper::ROWS } else { tile.chunk })?;
    (p.y, p.ldy, p.s_y, p.col_tiles) = (y.at, y.ld, y.stream, op.shape.d.div_ceil(tile.columns()) as i32);
    if let Some(dy) = gradient {
        (p.dy, p.lddy, p.s_dy) = (dy.at, dy.ld, dy.stream);
    }
    if on_hopper {
        return hopper::forward(call, &mut p, gradient.is_some());
    }
    let z_aligned = op.rank().is_multiple_of(8) && alignment(&[call.weight], op.element) >= 16;
    let defines = tile.forward_defines(op, aligned, z_aligned, gradient.is_some());
    let grid = Grid {
        blocks: ((p.col_tiles * p.chunks) as u32, op.shape.streams as u32),
        threads: (32 * tile.warps as u32, 1),
        shared: tile.shared as u32,
    };
    // SAFETY: the argument of conv_lowrank_fwd; sizes were checked by the caller, the grid covers them once.
    unsafe { call.launch(FORWARD, "conv_lowrank_fwd", &defines, grid, &mut p) }
}

/// dx, dz, dU, dstatic_w. `g`: room for [streams, N, D], with SiLU only.
pub(super) fn backward(
    call: &Call<'_>,
    dy: Place,
    g: Option<Place>,
    dx: Place,
    dz: Place,
    du: u64,
    dstatic_w: Option<u64>,
) -> CudaResult<()> {
    let op = &call.op;
    let (d, w, streams, rows) = (op.shape.d, op.shape.width, op.shape.streams, op.rows());
    if let Some(g) = g {
        forward(call, g, Some(dy))?;
    }
    let g = g.unwrap_or(dy);
    // dy is read as rows of D too where SiLU's residual passes it on.
    let aligned = aligned(call, &[g, dx, dy]);
    let tile = Tile::backward(op, call.device.shared_per_block() - 1024);
    let on_hopper = hopper::takes(op, call.device.arch(), aligned);
    let rank_tiles = ranks(op).0;
    let ranks = if on_hopper { hopper::RANKS } else { rank_tiles * 8 };
    let u_ranks = ranks + usize::from(outside(op));
    let (mut p, _plan) = call.params(if on_hopper { hopper::ROWS } else { ROWS })?;
    // One block on each multiprocessor, all of them busy for the same number of rows.
    let (tiles, spans) = if on_hopper {
        hopper::blocks(call, p.chunks)
    } else {
        let tiles = d.div_ceil(tile.columns());
        (tiles, (call.device.multiprocessors() / tiles).clamp(1, p.chunks.max(1) as usize))
    };
    (p.dy, p.lddy, p.s_dy) = (g.at, g.ld, g.stream);
    (p.res, p.ldres, p.s_res) = (dy.at, dy.ld, dy.stream);
    (p.y, p.ldy, p.s_y) = (dx.at, dx.ld, dx.stream);
    (p.col_tiles, p.spans) = (tiles as i32, spans as i32);
    let (_rows, part_rows) = call.partial(streams * tiles * rows * ranks)?;
    let (_cols, part_cols) = call.partial(streams * spans * u_ranks * w * d)?;
    (p.part_rows, p.s_rows) = (part_rows, (tiles * rows * ranks) as i64);
    (p.part_cols, p.s_cols) = (part_cols, (spans * u_ranks * w * d) as i64);
    if on_hopper {
        hopper::backward(call, &mut p)?;
    } else {
        let defines = tile.backward_defines(op, aligned);
        let grid = Grid {
            blocks: ((tiles * spans) as u32, streams as u32),
            threads: (64 * tile.warps as u32, 1),
            shared: tile.shared as u32,
        };
        for first in (0..rank_tiles).step_by(tile.rank_tiles) {
            (p.rank_tile0, p.write_dx) = (first as i32, i32::from(first == 0));
            // SAFETY: the argument of conv_lowrank_bwd; sizes were checked by the caller, partial sums have a place per block.
            unsafe { call.launch(BACKWARD, "conv_lowrank_bwd", &defines, grid, &mut p)? };
        }
    }
    let stride = (u_ranks * w * d) as i64;
    let of_u = |part, out, rank: usize, s_out| {
        let (pitch, cols) = ((w * d) as i64, (w * d) as i32);
        Sum {
            part,
            out,
            part_stride: stride,
            part_pitch: pitch,
            ld_out: pitch,
            s_part: p.s_cols,
            s_out,
            rows: rank as i64,
            cols,
            parts: spans as i32,
            ..Sum::default()
        }
    };
    let of_z = Sum {
        part: part_rows,
        out: dz.at,
        part_stride: (rows * ranks) as i64,
        part_pitch: ranks as i64,
        ld_out: dz.ld,
        s_part: p.s_rows,
        s_out: dz.stream,
        rows: rows as i64,
        cols: op.rank() as i32,
        parts: tiles as i32,
        ..Sum::default()
    };
    let mut jobs = vec![of_z, of_u(part_cols, du, op.rank(), p.s_u)];
    if let Some(out) = dstatic_w {
        let row = if outside(op) { ranks } else { op.rank() };
        jobs.push(of_u(part_cols + (row * w * d * 4) as u64, out, 1, p.s_static));
    }
    sums::add(call, &jobs)
}
