//! What a caller passes in and gets back: the CPU op's arguments, on the device, with strided rows.

use cudarc::driver::{CudaView, CudaViewMut};

/// The sizes of one call; with `cu_seqlens` batch is 1 and len the number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// B.
    pub batch: usize,
    /// T, tokens per batch element.
    pub len: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns of a head: a multiple of 8, at most 128.
    pub head_size: usize,
}

impl Shape {
    /// N, tokens in all.
    pub fn rows(&self) -> usize {
        self.batch * self.len
    }
}

/// Rows of a (possibly wider) row-major buffer: q, k and v may be columns of one.
#[derive(Debug)]
pub struct Rows<'a, T> {
    /// From the first element of the first row to at least the last element of the last.
    pub data: CudaView<'a, T>,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// Rows to be written; what lies between them is left alone.
#[derive(Debug)]
pub struct RowsMut<'a, T> {
    /// As [`Rows::data`].
    pub data: CudaViewMut<'a, T>,
    /// As [`Rows::stride`].
    pub stride: usize,
}

/// The operands of forward and backward.
#[derive(Debug)]
pub struct Input<'a, T> {
    /// Queries `[N, heads, head_size]`.
    pub q: Rows<'a, T>,
    /// Keys `[N, kv_heads, head_size]`.
    pub k: Rows<'a, T>,
    /// Values `[N, kv_heads, head_size]`.
    pub v: Rows<'a, T>,
    /// Packed sequences: S + 1 offsets on the device, the first 0, the last N, never decreasing. Not read by the host, so a
    /// captured graph serves any offsets; offsets that break the rule read and write out of place.
    pub cu_seqlens: Option<CudaView<'a, i32>>,
}

/// The results of forward.
#[derive(Debug)]
pub struct Output<'a, T> {
    /// `[N, heads, head_size]`.
    pub o: RowsMut<'a, T>,
    /// The log of the softmax's denominator, `[heads, N]`: for one sequence that is the CPU op's order.
    pub lse: CudaViewMut<'a, f32>,
}

/// What backward needs of the forward, and the gradient that it starts from.
#[derive(Debug)]
pub struct OutputGrad<'a, T> {
    /// Forward's output `[N, heads, head_size]`.
    pub o: Rows<'a, T>,
    /// Forward's `[heads, N]`.
    pub lse: CudaView<'a, f32>,
    /// `[N, heads, head_size]`.
    pub d_o: Rows<'a, T>,
}

/// Where backward writes dq `[N, heads, head_size]`, dk and dv `[N, kv_heads, head_size]`.
#[derive(Debug)]
pub enum InputGrad<'a, T> {
    /// Columns of one buffer of rows `stride` apart, which begin at the given columns and may not overlap.
    Fused {
        /// From the first element of the first row to at least the last element of the last.
        data: CudaViewMut<'a, T>,
        /// Elements from one row to the next.
        stride: usize,
        /// First column of dq.
        dq: usize,
        /// First column of dk.
        dk: usize,
        /// First column of dv.
        dv: usize,
    },
    /// Three buffers.
    Apart {
        /// Of the queries.
        dq: RowsMut<'a, T>,
        /// Of the keys.
        dk: RowsMut<'a, T>,
        /// Of the values.
        dv: RowsMut<'a, T>,
    },
}
