//! What a caller passes in and gets back.

use crate::Sequences;

/// The sizes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape<'a> {
    /// The sequences, whose N tokens are the rows of every operand. Packed ones may be empty.
    pub seqs: Sequences<'a>,
    /// D, channels, at least 1.
    pub d: usize,
    /// W, taps, 1 to [`MAX_WIDTH`](super::MAX_WIDTH).
    pub width: usize,
}

/// What is done with the sum over the taps: y = act(conv(x)) + x. The residual is added after the activation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Adds x.
    pub residual: bool,
    /// act = SiLU, v / (1 + e^-v); otherwise the identity.
    pub silu: bool,
}

/// Rows of a (possibly wider) row-major buffer: row i is `data[i * stride..][..row width]`, so a slice of the
/// columns of a fused buffer needs no copy.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// From the first element of the first row to at least the last element of the last.
    pub data: &'a [f32],
    /// Elements from one row to the next, at least the row width.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `width` elements that follow each other without a gap.
    pub fn packed(data: &'a [f32], width: usize) -> Self {
        Self { data, stride: width }
    }

    /// The elements `columns` of row `i`.
    #[inline(always)]
    pub(super) fn row(&self, i: usize, columns: std::ops::Range<usize>) -> &'a [f32] {
        let start = i * self.stride;
        &self.data[start + columns.start..start + columns.end]
    }
}

/// Rows to be written: as [`Rows`]. What lies between the rows is left alone.
#[derive(Debug)]
pub struct RowsMut<'a> {
    /// From the first element of the first row to at least the last element of the last.
    pub data: &'a mut [f32],
    /// Elements from one row to the next, at least the row width.
    pub stride: usize,
}

impl<'a> RowsMut<'a> {
    /// Rows of `width` elements that follow each other without a gap.
    pub fn packed(data: &'a mut [f32], width: usize) -> Self {
        Self { data, stride: width }
    }
}

/// Where the taps come from.
#[derive(Debug, Clone, Copy)]
pub enum Filter<'a> {
    /// The same taps for every token.
    Static {
        /// `[W, D]`.
        w: &'a [f32],
    },
    /// One filter per token and head of `head_size` neighbouring channels.
    HeadWise {
        /// `[N, H, W]`, W innermost, H = D / head_size: rows of H * W.
        weight: Rows<'a>,
        /// Channels that share a filter; divides D.
        head_size: usize,
        /// `[W, D]`, added to every token's taps.
        static_w: Option<&'a [f32]>,
    },
    /// Taps z U, of rank R, one filter per token and channel.
    LowRank {
        /// `[N, R]`: rows of R.
        z: Rows<'a>,
        /// `[R, W * D]`, tap-major: tap k of channel d is column `k * D + d`.
        u: &'a [f32],
        /// R, 1 to [`MAX_RANK`](super::MAX_RANK).
        rank: usize,
        /// `[W, D]`, added to every token's taps.
        static_w: Option<&'a [f32]>,
    },
}

impl Filter<'_> {
    /// R, 0 if the filter is not low-rank.
    pub(super) fn rank(&self) -> usize {
        if let Self::LowRank { rank, .. } = *self { rank } else { 0 }
    }

    /// Channels that share a filter, 1 if the filter is not head-wise.
    pub(super) fn head_size(&self) -> usize {
        if let Self::HeadWise { head_size, .. } = *self { head_size } else { 1 }
    }
}

/// The gradient of a [`Filter`]: the same kind, with `dstatic_w` exactly where the filter has `static_w`.
#[derive(Debug)]
pub enum FilterGrad<'a> {
    /// Of [`Filter::Static`].
    Static {
        /// `[W, D]`.
        dw: &'a mut [f32],
    },
    /// Of [`Filter::HeadWise`].
    HeadWise {
        /// `[N, H, W]`.
        dweight: RowsMut<'a>,
        /// `[W, D]`.
        dstatic_w: Option<&'a mut [f32]>,
    },
    /// Of [`Filter::LowRank`].
    LowRank {
        /// `[N, R]`.
        dz: RowsMut<'a>,
        /// `[R, W * D]`.
        du: &'a mut [f32],
        /// `[W, D]`.
        dstatic_w: Option<&'a mut [f32]>,
    },
}

/// The operands of [`forward`](super::forward) and [`backward`](super::backward).
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// `[N, D]`.
    pub x: Rows<'a>,
    /// The taps.
    pub filter: Filter<'a>,
    /// `[S, W - 1, D]`: the inputs before each sequence's first token, oldest first. Zeros if absent.
    pub initial_state: Option<&'a [f32]>,
}

/// The results of [`forward`](super::forward).
#[derive(Debug)]
pub struct Output<'a> {
    /// `[N, D]`.
    pub y: RowsMut<'a>,
    /// `[S, W - 1, D]`: each sequence's last W - 1 inputs, oldest first, those of its initial state included where it
    /// is shorter: the `initial_state` of what follows.
    pub final_state: Option<&'a mut [f32]>,
}

/// The gradients that [`backward`](super::backward) starts from.
#[derive(Debug, Clone, Copy)]
pub struct OutputGrad<'a> {
    /// `[N, D]`.
    pub dy: Rows<'a>,
    /// `[S, W - 1, D]`; zeros if absent.
    pub dfinal_state: Option<&'a [f32]>,
}

/// The gradients that [`backward`](super::backward) computes.
#[derive(Debug)]
pub struct InputGrad<'a> {
    /// `[N, D]`.
    pub dx: RowsMut<'a>,
    /// Of the taps.
    pub filter: FilterGrad<'a>,
    /// `[S, W - 1, D]`; may be asked for without an initial state, which then counts as zeros.
    pub dinitial_state: Option<&'a mut [f32]>,
}
