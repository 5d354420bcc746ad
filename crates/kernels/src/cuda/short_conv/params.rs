//! The argument block of `kernels/common.cuh`, and the plan that all launches of one call share.

use cudarc::driver::{CudaSlice, CudaStream};

use super::super::arguments::{Sequences, at, at_mut, pointer, scratch};
use super::super::compile::Defines;
use super::super::device::{Device, Grid};
use super::super::error::CudaResult;
use super::args::{Element, Filter, Input, Options, Rows, RowsMut, Shape};

/// `struct Params`: field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Params {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) u: u64,
    pub(super) static_w: u64,
    pub(super) state: u64,
    pub(super) dy: u64,
    pub(super) res: u64,
    pub(super) y: u64,
    pub(super) dweight: u64,
    pub(super) part_rows: u64,
    pub(super) part_cols: u64,
    pub(super) cu_seqlens: u64,
    pub(super) dfinal: u64,
    pub(super) state_out: u64,
    pub(super) plan: u64,
    pub(super) ldx: i64,
    pub(super) ldw: i64,
    pub(super) ldy: i64,
    pub(super) lddy: i64,
    pub(super) lddw: i64,
    pub(super) ldres: i64,
    pub(super) s_x: i64,
    pub(super) s_w: i64,
    pub(super) s_y: i64,
    pub(super) s_dy: i64,
    pub(super) s_dw: i64,
    pub(super) s_u: i64,
    pub(super) s_static: i64,
    pub(super) s_state: i64,
    pub(super) s_rows: i64,
    pub(super) s_cols: i64,
    pub(super) s_res: i64,
    pub(super) rows: i32,
    pub(super) seqs: i32,
    pub(super) seq_len: i32,
    pub(super) chunks_per_seq: i32,
    pub(super) chunks: i32,
    pub(super) d_model: i32,
    pub(super) heads: i32,
    pub(super) head_size: i32,
    pub(super) rank: i32,
    pub(super) col_tiles: i32,
    pub(super) spans: i32,
    pub(super) rank_tile0: i32,
    pub(super) write_dx: i32,
}

/// Rows as address, row stride, stream stride.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) ld: i64,
    pub(super) stream: i64,
}

impl Place {
    pub(super) fn of<T>(rows: &Rows<'_, T>, stream: &CudaStream) -> Self {
        Self { at: at(&rows.data, stream), ld: rows.stride as i64, stream: rows.stream as i64 }
    }

    pub(super) fn of_mut<T>(rows: &mut RowsMut<'_, T>, stream: &CudaStream) -> Self {
        Self { at: at_mut(&mut rows.data, stream), ld: rows.stride as i64, stream: rows.stream as i64 }
    }

    /// Bytes, up to 16, that every row and stream starts at a multiple of.
    pub(super) fn alignment(&self, element: usize) -> usize {
        let all = self.at | (self.ld as u64 * element as u64) | (self.stream as u64 * element as u64) | 16;
        1 << all.trailing_zeros()
    }
}

/// The kind of filter, with what only that kind has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Static,
    HeadWise { head_size: usize },
    LowRank { rank: usize },
}

/// What a call is, apart from its operands: all that chooses kernels and layouts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op {
    pub(super) shape: Shape,
    pub(super) options: Options,
    pub(super) kind: Kind,
    /// DTYPE, and its bytes.
    pub(super) code: i64,
    pub(super) element: usize,
    pub(super) packed: bool,
    pub(super) state: bool,
    pub(super) static_w: bool,
}

impl Op {
    /// The defines that every kernel of this call takes, and `more`.
    pub(super) fn defines(&self, more: &[(&'static str, i64)]) -> Defines {
        let flag = i64::from;
        let common = [
            ("DTYPE", self.code),
            ("W", self.shape.width as i64),
            ("PACKED", flag(self.packed)),
            ("STATE", flag(self.state)),
            ("STATIC", flag(self.static_w)),
            ("RESIDUAL", flag(self.options.residual)),
            ("SILU", flag(self.options.silu)),
        ];
        Defines::new(&[&common[..], more].concat())
    }

    /// Channels that share a filter, R: 0 where the kind has none.
    pub(super) fn head_size(&self) -> usize {
        if let Kind::HeadWise { head_size } = self.kind { head_size } else { 0 }
    }

    pub(super) fn rank(&self) -> usize {
        if let Kind::LowRank { rank } = self.kind { rank } else { 0 }
    }

    /// Tokens.
    pub(super) fn rows(&self) -> usize {
        self.shape.batch * self.shape.len
    }
}

/// One call: what it is, and its operands by address.
#[derive(Debug)]
pub(super) struct Call<'d> {
    pub(super) device: &'d Device,
    pub(super) op: Op,
    pub(super) x: Place,
    pub(super) weight: Option<Place>,
    pub(super) u: u64,
    pub(super) static_w: Option<u64>,
    pub(super) sequences: Sequences,
    state: Option<u64>,
}

impl<'d> Call<'d> {
    pub(super) fn new<T: Element>(device: &'d Device, shape: Shape, options: Options, input: &Input<'_, T>) -> Self {
        let s = device.stream();
        let (kind, weight, u, static_w) = match &input.filter {
            Filter::Static { w } => (Kind::Static, None, 0, Some(at(w, s))),
            Filter::HeadWise { weight, head_size, static_w } => (
                Kind::HeadWise { head_size: *head_size },
                Some(Place::of(weight, s)),
                0,
                static_w.as_ref().map(|v| at(v, s)),
            ),
            Filter::LowRank { z, u, rank, static_w } => {
                (Kind::LowRank { rank: *rank }, Some(Place::of(z, s)), at(u, s), static_w.as_ref().map(|v| at(v, s)))
            }
        };
        let sequences = Sequences::new(shape.batch, shape.len, input.cu_seqlens.as_ref(), s);
        // With W = 1 there is no state to read.
        let state = input.initial_state.as_ref().filter(|_| shape.width > 1).map(|v| at(v, s));
        let op = Op {
            shape,
            options,
            kind,
            code: T::CODE,
            element: size_of::<T>(),
            packed: sequences.packed(),
            state: state.is_some(),
            static_w: static_w.is_some(),
        };
        Self { device, op, x: Place::of(&input.x, s), weight, u, static_w, sequences, state }
    }

    /// An operand of `[streams, W, D]` or `[streams, R, W, D]` as rows of D.
    pub(super) fn rows_of_d(&self, address: u64) -> Place {
        Place { at: address, ld: self.op.shape.d as i64, stream: 0 }
    }

    /// The operands and sizes, with no chunks of rows.
    pub(super) fn operands(&self) -> Params {
        let Shape { len, d, width, .. } = self.op.shape;
        let head_size = if self.op.head_size() > 0 { self.op.head_size() } else { d };
        let weight = self.weight.unwrap_or(Place { at: 0, ld: 0, stream: 0 });
        Params {
            x: self.x.at,
            ldx: self.x.ld,
            s_x: self.x.stream,
            weight: weight.at,
            ldw: weight.ld,
            s_w: weight.stream,
            u: self.u,
            s_u: (self.op.rank() * width * d) as i64,
            static_w: self.static_w.unwrap_or(0),
            s_static: (width * d) as i64,
            state: self.state.unwrap_or(0),
            s_state: (self.sequences.count * (width - 1) * d) as i64,
            cu_seqlens: self.sequences.cu_seqlens.unwrap_or(0),
            rows: self.op.rows() as i32,
            seqs: self.sequences.count as i32,
            seq_len: len as i32,
            d_model: d as i32,
            heads: (d / head_size) as i32,
            head_size: head_size as i32,
            rank: self.op.rank() as i32,
            ..Params::default()
        }
    }

    /// The arguments of a launch over chunks of `chunk` rows; for packed sequences with the plan of chunks, made on the device
    /// and kept until the launch is queued.
    pub(super) fn params(&self, chunk: usize) -> CudaResult<(Params, Option<CudaSlice<i32>>)> {
        let mut p = self.operands();
        let chunks = self.sequences.chunks(self.device, chunk)?;
        (p.chunks_per_seq, p.chunks, p.plan) = (chunks.per_sequence as i32, chunks.count as i32, chunks.plan);
        Ok((p, chunks.memory))
    }

    /// Launches a kernel that takes `Params`.
    ///
    /// # Safety
    /// As [`Device::launch`].
    pub(super) unsafe fn launch(
        &self,
        file: &'static str,
        entry: &'static str,
        defines: &Defines,
        grid: Grid,
        p: &mut Params,
    ) -> CudaResult<()> {
        // SAFETY: by the caller.
        unsafe { self.device.launch(file, entry, defines, grid, &mut [pointer(p)]) }
    }

    /// fp32 scratch and its address.
    pub(super) fn partial(&self, len: usize) -> CudaResult<(CudaSlice<f32>, u64)> {
        scratch(self.device, len)
    }
}
