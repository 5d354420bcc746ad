//! Launches of `kernels/short_conv_headwise.cu`: static and head-wise.

use super::super::compile::Defines;
use super::super::device::Grid;
use super::super::error::CudaResult;
use super::params::{Call, Kind, Op, Place};
use super::sums::{self, Sum};

pub(super) const FILE: &str = "short_conv_headwise.cu";

/// How threads lie over channels and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    backward: bool,
    /// Neighbouring channels of a thread.
    vec: usize,
    /// Threads of a block across channels, and chunks of rows in a block.
    lanes: usize,
    groups: usize,
    /// Blocks across the channels.
    tiles: usize,
    /// Bytes of a filter load.
    filter_align: usize,
    /// Rows of a chunk, rows of a step, and whether the next step's are fetched early.
    chunk: usize,
    step: usize,
    prefetch: bool,
    /// How a head is summed: 0 within a thread, 1 by shuffles, 2 through shared memory.
    head_sum: usize,
}

impl Layout {
    /// `align`: bytes that all rows of D start at a multiple of; `filter_align`: all rows of H * W.
    pub(super) fn new(op: &Op, backward: bool, align: usize, filter_align: usize) -> Self {
        let (d, w, e) = (op.shape.d, op.shape.width, op.element);
        let mut vec = (align / e).clamp(1, 16 / e).min(1 << d.trailing_zeros().min(4));
        if let Kind::HeadWise { head_size } = op.kind {
            while !head_size.is_multiple_of(vec) && !vec.is_multiple_of(head_size) {
                vec /= 2;
            }
            // A filter load of at most 16 bytes a row.
            while vec > 1 && vec / head_size * w * e > 16 {
                vec /= 2;
            }
        }
        // Wider inputs of these need more registers than there are.
        if backward && w > 4 {
            vec = vec.min(if op.static_w { 2 } else { 4 });
        }
        let many_heads = op.head_size() > 0 && op.head_size() < vec;
        if backward && op.static_w && (op.options.silu || op.code == 2 || many_heads || !w.is_power_of_two()) {
            vec = vec.min(4);
        }
        // Measured (kernels/NOTES.md): static taps pay for longer chunks, everything else is best as one tile of 4 rows. Beside
        // the filters of head-wise taps 16 rows do not fit the registers.
        let (mut step, mut chunk, prefetch) = match (backward, op.static_w) {
            (false, true) if op.head_size() == 0 => (16, 16, false),
            (false, true) if many_heads => (8, 16, false),
            (false, true) => (12, 12, false),
            (true, true) => (4, 128, true),
            _ => (4, 4, false),
        };
        if w > 4 {
            step = 4;
            chunk = if chunk > 16 { chunk } else { step };
        }
        let head_size = if op.head_size() > 0 { op.head_size() } else { 1 };
        let per_head = if op.head_size() > 0 { (head_size / vec).max(1) } else { 1 };
        let head_sum = match per_head {
            _ if !backward => 0,
            1 => 0,
            l if l <= 32 && l.is_power_of_two() => 1,
            _ => 2,
        };
        let across = d.div_ceil(vec);
        let (lanes, groups) = match head_sum {
            2 if per_head <= 256 => ((256 / per_head * per_head).min(across.div_ceil(per_head) * per_head), 1),
            2 => (256, 1),
            _ => {
                let lanes = across.next_power_of_two().min(32);
                (lanes, 128 / lanes)
            }
        };
        let tiles = if head_sum == 2 && per_head > lanes {
            d / head_size * per_head.div_ceil(lanes)
        } else {
            across.div_ceil(lanes)
        };
        let filter_bytes = (vec / head_size).max(1) * w * e;
        let filter_align = filter_align.min(1 << filter_bytes.trailing_zeros().min(4));
        Self { backward, vec, lanes, groups, tiles, filter_align, chunk, step, prefetch, head_sum }
    }

    pub(super) fn defines(&self, op: &Op) -> Defines {
        let head_size = if op.head_size() > 0 { op.head_size() } else { self.vec };
        op.defines(&[
            ("BACKWARD", i64::from(self.backward)),
            ("HEADWISE", i64::from(op.head_size() > 0)),
            ("VEC", self.vec as i64),
            ("TPT", self.step as i64),
            ("CHUNK", self.chunk as i64),
            ("NH", (self.vec / head_size).max(1) as i64),
            ("LPH", (head_size / self.vec).max(1) as i64),
            ("W_ALIGN", self.filter_align as i64),
            ("HEAD_SUM", self.head_sum as i64),
            ("THREADS", (self.lanes * self.groups).max(32) as i64),
            // 0: as many blocks a multiprocessor as the compiler likes, who spills registers for them at some other widths.
            ("MIN_BLOCKS", i64::from(self.backward || op.shape.width != 4)),
            ("PREFETCH", i64::from(self.prefetch)),
        ])
    }

    /// Blocks that share one head, when it is wider than a block.
    fn tiles_per_head(&self, op: &Op) -> usize {
        if self.head_sum == 2 { (self.tiles / (op.shape.d / op.head_size())).max(1) } else { 1 }
    }
}

/// The alignment shared by all of some operands.
pub(super) fn alignment(rows: &[Option<Place>], element: usize) -> usize {
    rows.iter().flatten().map(|r| r.alignment(element)).min().unwrap_or(16)
}

/// y.
pub(super) fn forward(call: &Call<'_>, y: Place) -> CudaResult<()> {
    let op = &call.op;
    let rows = [Some(call.x), Some(y), call.static_w.map(|a| call.rows_of_d(a))];
    let layout = Layout::new(op, false, alignment(&rows, op.element), alignment(&[call.weight], op.element));
    let (mut p, _plan) = call.params(layout.chunk)?;
    (p.y, p.ldy, p.s_y, p.col_tiles) = (y.at, y.ld, y.stream, layout.tiles as i32);
    let blocks = layout.tiles * (p.chunks as usize).div_ceil(layout.groups);
    let grid = Grid {
        blocks: (blocks as u32, op.shape.streams as u32),
        threads: (layout.lanes as u32, layout.groups as u32),
        shared: 0,
    };
    // SAFETY: the argument of conv_fwd; sizes were checked by the caller, the grid covers them once.
    unsafe { call.launch(FILE, "conv_fwd", &layout.defines(op), grid, &mut p) }
}

/// dx, dweight, dstatic_w.
pub(super) fn backward(
    call: &Call<'_>,
    dy: Place,
    dx: Place,
    dweight: Option<Place>,
    dstatic_w: Option<u64>,
) -> CudaResult<()> {
    let op = &call.op;
    let (d, w, streams) = (op.shape.d, op.shape.width, op.shape.streams);
    let rows = [Some(call.x), Some(dy), Some(dx), call.static_w.map(|a| call.rows_of_d(a))];
    let layout = Layout::new(op, true, alignment(&rows, op.element), alignment(&[call.weight, dweight], op.element));
    let (mut p, _plan) = call.params(layout.chunk)?;
    (p.dy, p.lddy, p.s_dy) = (dy.at, dy.ld, dy.stream);
    (p.y, p.ldy, p.s_y, p.col_tiles) = (dx.at, dx.ld, dx.stream, layout.tiles as i32);
    let spans = (p.chunks as usize).div_ceil(layout.groups);
    let (mut jobs, mut shared, mut scratch) = (Vec::new(), 0, Vec::new());
    if let Some(dstatic_w) = dstatic_w {
        let (memory, address) = call.partial(streams * spans * w * d)?;
        scratch.push(memory);
        (p.part_cols, p.s_cols) = (address, (spans * w * d) as i64);
        shared = layout.lanes * layout.groups * layout.vec * 4;
        let cols = (w * d) as i32;
        jobs.push(Sum {
            part: address,
            out: dstatic_w,
            part_stride: cols.into(),
            s_part: p.s_cols,
            s_out: p.s_static,
            rows: 1,
            cols,
            parts: spans as i32,
            ..Sum::default()
        });
    }
    if let Some(dweight) = dweight {
        (p.dweight, p.lddw, p.s_dw) = (dweight.at, dweight.ld, dweight.stream);
        let (parts, cols) = (layout.tiles_per_head(op), p.heads as usize * w);
        if layout.head_sum == 2 {
            shared = shared.max(layout.step * w * layout.lanes * 4);
        }
        if parts > 1 {
            let (memory, address) = call.partial(streams * parts * op.rows() * cols)?;
            scratch.push(memory);
            (p.part_rows, p.s_rows) = (address, (parts * op.rows() * cols) as i64);
            let stride = (op.rows() * cols) as i64;
            let (rows, cols) = (op.rows() as i64, cols as i32);
            jobs.push(Sum {
                part: address,
                out: dweight.at,
                part_stride: stride,
                part_pitch: cols.into(),
                ld_out: dweight.ld,
                s_part: p.s_rows,
                s_out: dweight.stream,
                rows,
                cols,
                parts: parts as i32,
                ..Sum::default()
            });
        }
    }
    let entry = if layout.chunk == layout.step { "conv_bwd_tile" } else { "conv_bwd" };
    let grid = Grid {
        blocks: ((layout.tiles * spans) as u32, streams as u32),
        threads: (layout.lanes as u32, layout.groups as u32),
        shared: shared as u32,
    };
    // SAFETY: the argument of both entries; sizes were checked by the caller, partial sums have a place per block.
    unsafe { call.launch(FILE, entry, &layout.defines(op), grid, &mut p)? };
    if jobs.is_empty() { Ok(()) } else { sums::add(call, &jobs) }
}
