//! What a caller passes in and gets back: the CPU op's arguments, on the device.

use cudarc::driver::{CudaView, CudaViewMut, DeviceRepr, ValidAsZeroBits};

/// An element type of the kernels; sums are fp32 in all.
pub trait Element: DeviceRepr + ValidAsZeroBits + Copy + Default + PartialEq + 'static {
    /// The kernels' DTYPE define.
    const CODE: i64;

    /// The nearest value.
    fn from_f32(value: f32) -> Self;

    /// The value.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const CODE: i64 = 0;

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for half::bf16 {
    const CODE: i64 = 1;

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

impl Element for half::f16 {
    const CODE: i64 = 2;

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// The sizes of one call; with `cu_seqlens` batch is 1 and len the number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Independent convolutions in one launch (q, k, v): each operand's next stream is `stream` elements further on.
    pub streams: usize,
    /// B.
    pub batch: usize,
    /// T, tokens per batch element.
    pub len: usize,
    /// D, channels.
    pub d: usize,
    /// W, taps, 1 to 8.
    pub width: usize,
}

/// y = act(conv(x)) + x: the residual is added after the activation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Adds x.
    pub residual: bool,
    /// act = SiLU; otherwise the identity.
    pub silu: bool,
}

/// Rows of a (possibly wider) row-major buffer.
#[derive(Debug)]
pub struct Rows<'a, T> {
    /// From the first element of the first row to at least the last element of the last.
    pub data: CudaView<'a, T>,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements from one stream's first row to the next stream's.
    pub stream: usize,
}

/// Rows to be written; what lies between them is left alone.
#[derive(Debug)]
pub struct RowsMut<'a, T> {
    /// As [`Rows::data`].
    pub data: CudaViewMut<'a, T>,
    /// As [`Rows::stride`].
    pub stride: usize,
    /// As [`Rows::stream`].
    pub stream: usize,
}

/// Where the taps come from.
#[derive(Debug)]
pub enum Filter<'a, T> {
    /// The same taps for every token.
    Static {
        /// `[streams, W, D]`.
        w: CudaView<'a, T>,
    },
    /// One filter per token and head of `head_size` neighbouring channels.
    HeadWise {
        /// `[B, T, H, W]`, W innermost: rows of H * W.
        weight: Rows<'a, T>,
        /// Channels that share a filter; divides D.
        head_size: usize,
        /// `[streams, W, D]`, added to every token's taps.
        static_w: Option<CudaView<'a, T>>,
    },
    /// Taps z U, of rank R.
    LowRank {
        /// `[B, T, R]`: rows of R.
        z: Rows<'a, T>,
        /// `[streams, R, W * D]`, tap-major.
        u: CudaView<'a, T>,
        /// R, 1 to 128.
        rank: usize,
        /// `[streams, W, D]`.
        static_w: Option<CudaView<'a, T>>,
    },
}

/// The gradient of a [`Filter`]: the same kind, with `dstatic_w` exactly where the filter has `static_w`.
#[derive(Debug)]
pub enum FilterGrad<'a, T> {
    /// Of [`Filter::Static`].
    Static {
        /// `[streams, W, D]`.
        dw: CudaViewMut<'a, T>,
    },
    /// Of [`Filter::HeadWise`].
    HeadWise {
        /// `[B, T, H, W]`.
        dweight: RowsMut<'a, T>,
        /// `[streams, W, D]`.
        dstatic_w: Option<CudaViewMut<'a, T>>,
    },
    /// Of [`Filter::LowRank`].
    LowRank {
        /// `[B, T, R]`.
        dz: RowsMut<'a, T>,
        /// `[streams, R, W * D]`.
        du: CudaViewMut<'a, T>,
        /// `[streams, W, D]`.
        dstatic_w: Option<CudaViewMut<'a, T>>,
    },
}

/// The operands of forward and backward.
#[derive(Debug)]
pub struct Input<'a, T> {
    /// `[B, T, D]`.
    pub x: Rows<'a, T>,
    /// The taps.
    pub filter: Filter<'a, T>,
    /// Packed sequences: S + 1 offsets on the device, the first 0, the last T, never decreasing. Not read by the host, so a
    /// captured graph serves any offsets; offsets that break the rule read and write out of place.
    pub cu_seqlens: Option<CudaView<'a, i32>>,
    /// `[streams, S, W - 1, D]`: the inputs before each sequence's first token, oldest first. Zeros if absent.
    pub initial_state: Option<CudaView<'a, T>>,
}

/// The results of forward.
#[derive(Debug)]
pub struct Output<'a, T> {
    /// `[B, T, D]`.
    pub y: RowsMut<'a, T>,
    /// `[streams, S, W - 1, D]`: each sequence's last W - 1 inputs, those of its initial state included.
    pub final_state: Option<CudaViewMut<'a, T>>,
}

/// The gradients that backward starts from.
#[derive(Debug)]
pub struct OutputGrad<'a, T> {
    /// `[B, T, D]`.
    pub dy: Rows<'a, T>,
    /// `[streams, S, W - 1, D]`; zeros if absent.
    pub dfinal_state: Option<CudaView<'a, T>>,
}

/// The gradients that backward computes.
#[derive(Debug)]
pub struct InputGrad<'a, T> {
    /// `[B, T, D]`.
    pub dx: RowsMut<'a, T>,
    /// Of the taps.
    pub filter: FilterGrad<'a, T>,
    /// `[streams, S, W - 1, D]`.
    pub dinitial_state: Option<CudaViewMut<'a, T>>,
}
