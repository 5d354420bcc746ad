//! Launches of `kernels/short_conv_headwise.cu`: static and head-wise.

use super::super::device::Grid;
use super::super::error::CudaResult;
use super::params::{Call, Kind, Place, at_mut};
use super::sums::{self, Sum};

const FILE: &str = "short_conv_headwise.cu";

/// How the threads of a block lie over channels and chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Neighbouring channels of a thread.
    vec: usize,
    /// Threads across channels, and chunks, of a block.
    lanes: usize,
    chunks: usize,
    /// Blocks across the channels.
    tiles: usize,
    /// Bytes of a filter load.
    filter_align: usize,
    /// Rows of a chunk and of a step.
    chunk: usize,
    step: usize,
    /// 0 = a head within a thread, 1 = by shuffles, 2 = through shared memory.
    head_sum: usize,
}

impl Layout {
    /// `rows`: all operands of D channels; `filters`: all of H * W.
    fn new(call: &Call<'_>, backward: bool, rows: &[Place], filters: &[Place]) -> Self {
        let (d, w, e) = (call.shape.d, call.shape.width, call.element);
        let align = rows.iter().map(|r| r.alignment(e)).min().unwrap_or(16);
        let mut vec = (align / e).clamp(1, 16 / e).min(1 << d.trailing_zeros().min(4));
        if backward && w > 4 {
            vec = vec.min(4);
        }
        let Kind::HeadWise { head_size } = call.kind else {
            return Self::spread(call, backward, vec, 1, 0, e);
        };
        while head_size % vec != 0 && vec % head_size != 0 {
            vec /= 2;
        }
        // A filter load of at most 16 bytes a row.
        while vec > head_size && vec / head_size * w * e > 16 {
            vec /= 2;
        }
        let heads = (vec / head_size).max(1);
        let lanes_per_head = (head_size / vec).max(1);
        let head_sum = match lanes_per_head {
            _ if !backward => 0,
            1 => 0,
            l if l <= 32 && l.is_power_of_two() => 1,
            _ => 2,
        };
        let bytes = heads * w * e;
        let natural = 1usize << bytes.trailing_zeros().min(4);
        let filter_align = filters.iter().map(|f| f.alignment(e)).min().unwrap_or(16).min(natural);
        Self::spread(call, backward, vec, lanes_per_head, head_sum, filter_align)
    }

    fn spread(call: &Call<'_>, backward: bool, vec: usize, per_head: usize, head_sum: usize, filter_align: usize) -> Self {
        let across = call.shape.d.div_ceil(vec);
        let (chunk, step, threads) = tuning(call, backward);
        let (lanes, chunks) = match head_sum {
            2 if per_head <= 256 => ((256 / per_head * per_head).min(across.div_ceil(per_head) * per_head), 1),
            2 => (256, 1),
            _ => {
                let lanes = threads.min(across.next_power_of_two());
                (lanes, threads / lanes)
            }
        };
        let heads = if let Kind::HeadWise { head_size } = call.kind { call.shape.d / head_size } else { 1 };
        let tiles = if head_sum == 2 && per_head > lanes { heads * per_head.div_ceil(lanes) } else { across.div_ceil(lanes) };
        Self { vec, lanes, chunks, tiles, filter_align, chunk, step, head_sum }
    }

    /// Blocks that share one head, when it is wider than a block.
    fn tiles_per_head(&self, heads: usize) -> usize {
        if self.head_sum == 2 { (self.tiles / heads).max(1) } else { 1 }
    }

    fn defines(&self, call: &Call<'_>, min_blocks: i64) -> super::super::compile::Defines {
        let head_size = if let Kind::HeadWise { head_size } = call.kind { head_size } else { self.vec };
        call.defines(&[
            ("HEADWISE", i64::from(matches!(call.kind, Kind::HeadWise { .. }))),
            ("VEC", self.vec as i64),
            ("TPT", self.step as i64),
            ("CHUNK", self.chunk as i64),
            ("NH", (self.vec / head_size).max(1) as i64),
            ("LPH", (head_size / self.vec).max(1) as i64),
            ("W_ALIGN", self.filter_align as i64),
            ("HEAD_SUM", self.head_sum as i64),
            ("THREADS", (self.lanes * self.chunks).max(32) as i64),
            ("MIN_BLOCKS", min_blocks),
        ])
    }
}
