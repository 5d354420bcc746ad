//! The short convolution on matrices: one or several streams (q, k, v) side by side in one launch.

use super::{check, check_flat, refused};
use crate::cuda::memory::Alias;
use crate::cuda::short_conv::{
    Element, Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape, backward,
    forward, swiglu, swiglu_backward,
};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

const OP: &str = "cuda short_conv";
const SWIGLU: &str = "cuda short_conv_swiglu";

/// A convolution of `streams` neighbouring blocks of columns, each with taps of its own.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// Blocks of columns.
    pub streams: usize,
    /// Sequences of equal length; 1 with `cu_seqlens`.
    pub batch: usize,
    /// Taps, 1 to 8.
    pub width: usize,
    /// Residual, SiLU.
    pub options: Options,
    /// Borders of packed sequences, u32.
    pub cu_seqlens: Option<&'a Tensor>,
    /// `[N, streams D]`.
    pub x: &'a Tensor,
    /// Where the taps come from.
    pub taps: Taps<'a>,
}

/// The taps of every stream, one stream's after the other's.
#[derive(Debug, Clone, Copy)]
pub enum Taps<'a> {
    /// `[streams, W, D]`.
    Static(&'a Tensor),
    /// Filters `[N, streams H W]` and static taps.
    HeadWise(&'a Tensor, usize, Option<&'a Tensor>),
    /// Codes `[N, streams R]`, generators `[streams, R, W D]` and static taps.
    LowRank(&'a Tensor, &'a Tensor, Option<&'a Tensor>),
}

/// Where the backward writes: dx and the gradients of the taps, shaped like them.
#[derive(Debug, Clone, Copy)]
pub struct ConvGrad<'a> {
    /// `[N, streams D]`.
    pub dx: &'a Tensor,
    /// Of the taps.
    pub taps: TapsGrad<'a>,
}

/// The gradients of [`Taps`].
pub type TapsGrad<'a> = Taps<'a>;

/// `y = act(conv(x)) (+ x)`.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn short_conv(device: &Device, conv: Conv<'_>, y: &Tensor) -> CudaResult<()> {
    check(OP, conv.x.rows, conv.x.cols, conv.x.dtype, &[("y", y)])?;
    match conv.x.dtype {
        Dtype::F32 => run::<f32>(device, conv, Pass::Forward(y)),
        _ => run::<half::bf16>(device, conv, Pass::Forward(y)),
    }
}

/// Every gradient.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn short_conv_backward(device: &Device, conv: Conv<'_>, dy: &Tensor, grad: ConvGrad<'_>) -> CudaResult<()> {
    check(OP, conv.x.rows, conv.x.cols, conv.x.dtype, &[("dy", dy), ("dx", grad.dx)])?;
    match conv.x.dtype {
        Dtype::F32 => run::<f32>(device, conv, Pass::Backward(dy, grad)),
        _ => run::<half::bf16>(device, conv, Pass::Backward(dy, grad)),
    }
}

/// `h = silu(a) b`, `[N, D]`, of the outputs a and b of two low-rank convolutions side by side, which are kept nowhere. The bits
/// are those of [`short_conv`] and [`super::swiglu`].
///
/// # Errors
/// Shapes or types that do not fit; a convolution that [`crate::cuda::short_conv::takes_swiglu`] refuses.
pub fn short_conv_swiglu(device: &Device, conv: Conv<'_>, h: &Tensor) -> CudaResult<()> {
    check(SWIGLU, conv.x.rows, conv.x.cols / 2, Dtype::Bf16, &[("h", h)])?;
    check(SWIGLU, conv.x.rows, conv.x.cols, Dtype::Bf16, &[("x", conv.x)])?;
    run::<half::bf16>(device, conv, Pass::SwiGlu(h))
}

/// The gradients `[N, 2 D]` of a and b of [`short_conv_swiglu`], side by side, from the gradient of h.
///
/// # Errors
/// As [`short_conv_swiglu`].
pub fn short_conv_swiglu_backward(device: &Device, conv: Conv<'_>, dh: &Tensor, dab: &Tensor) -> CudaResult<()> {
    check(SWIGLU, conv.x.rows, conv.x.cols / 2, Dtype::Bf16, &[("dh", dh)])?;
    check(SWIGLU, conv.x.rows, conv.x.cols, Dtype::Bf16, &[("x", conv.x), ("dab", dab)])?;
    run::<half::bf16>(device, conv, Pass::SwiGluBackward(dh, dab))
}

enum Pass<'a> {
    Forward(&'a Tensor),
    Backward(&'a Tensor, ConvGrad<'a>),
    SwiGlu(&'a Tensor),
    SwiGluBackward(&'a Tensor, &'a Tensor),
}

/// The operands of [`Taps`] as slices; static taps are the only ones of [`Taps::Static`].
struct Slices<T> {
    code: Option<Alias<T>>,
    generator: Option<Alias<T>>,
    fixed: Option<Alias<T>>,
}

impl<T: Element> Slices<T> {
    /// # Safety
    /// T is the type of x; what is queued on the slices is as the caller planned.
    unsafe fn of(device: &Device, x: &Tensor, taps: Taps<'_>) -> CudaResult<Self> {
        let (code, generator, fixed) = match taps {
            Taps::Static(w) => (None, None, Some(w)),
            Taps::HeadWise(w, _, fixed) => (Some(w), None, fixed),
            Taps::LowRank(z, u, fixed) => (Some(z), Some(u), fixed),
        };
        if let Some(code) = code {
            check(OP, x.rows, code.cols, x.dtype, &[("taps", code)])?;
        }
        for flat in [generator, fixed].into_iter().flatten() {
            check_flat(OP, "taps", flat, flat.rows * flat.cols, x.dtype)?;
        }
        // SAFETY: the type was checked here; the rest by the caller.
        let [code, generator, fixed] = [code, generator, fixed].map(|t| t.map(|t| unsafe { t.slice::<T>(device) }));
        Ok(Self { code, generator, fixed })
    }
}

fn run<T: Element>(device: &Device, conv: Conv<'_>, pass: Pass<'_>) -> CudaResult<()> {
    let Conv { streams, batch, width, options, cu_seqlens, x, taps } = conv;
    if streams == 0 || batch == 0 || !x.cols.is_multiple_of(streams) || !x.rows.is_multiple_of(batch) {
        let what = format!("{} x {} in {batch} sequences and {streams} streams", x.rows, x.cols);
        return Err(refused(OP, what, "choose sizes that divide"));
    }
    let d = x.cols / streams;
    let shape = Shape { streams, batch, len: x.rows / batch, d, width };
    let absent = || refused(OP, "taps of no kind".into(), "pass static, head-wise or low-rank taps");
    // SAFETY: every slice is of its tensor's own type, which `run`'s callers and `Slices::of` check; outputs are the caller's to
    // overwrite. That the launch stays inside of the slices is checked there.
    let (slices, xs, cu) = unsafe {
        (Slices::<T>::of(device, x, taps)?, x.slice::<T>(device), cu_seqlens.map(|t| t.slice::<i32>(device)))
    };
    let static_w = slices.fixed.as_ref().map(|s| s.0.as_view());
    let filter = match (taps, &slices.code, &slices.generator) {
        (Taps::HeadWise(w, head_size, _), Some(code), _) => Filter::HeadWise {
            weight: Rows { data: code.0.as_view(), stride: w.stride, stream: w.cols / streams },
            head_size,
            static_w,
        },
        (Taps::LowRank(z, ..), Some(code), Some(u)) => Filter::LowRank {
            z: Rows { data: code.0.as_view(), stride: z.stride, stream: z.cols / streams },
            u: u.0.as_view(),
            rank: z.cols / streams,
            static_w,
        },
        _ => Filter::Static { w: static_w.ok_or_else(absent)? },
    };
    let input = Input {
        x: Rows { data: xs.0.as_view(), stride: x.stride, stream: d },
        filter,
        cu_seqlens: cu.as_ref().map(|c| c.0.as_view()),
        initial_state: None,
    };
    match pass {
        Pass::Forward(y) => {
            // SAFETY: as above.
            let mut ys = unsafe { y.slice::<T>(device) };
            let y = RowsMut { data: ys.0.as_view_mut(), stride: y.stride, stream: d };
            forward(device, shape, options, &input, Output { y, final_state: None })
        }
        Pass::SwiGlu(h) => {
            // SAFETY: as above.
            let mut hs = unsafe { h.slice::<T>(device) };
            let h = RowsMut { data: hs.0.as_view_mut(), stride: h.stride, stream: 0 };
            swiglu(device, shape, options, &input, h)
        }
        Pass::SwiGluBackward(dh, dab) => {
            // SAFETY: as above.
            let (dhs, mut dabs) = unsafe { (dh.slice::<T>(device), dab.slice::<T>(device)) };
            let dh = Rows { data: dhs.0.as_view(), stride: dh.stride, stream: 0 };
            let dab = RowsMut { data: dabs.0.as_view_mut(), stride: dab.stride, stream: d };
            swiglu_backward(device, shape, options, &input, dh, dab)
        }
        Pass::Backward(dy, grad) => {
            // SAFETY: as above.
            let (mut slices, dys, mut dxs) =
                unsafe { (Slices::<T>::of(device, x, grad.taps)?, dy.slice::<T>(device), grad.dx.slice::<T>(device)) };
            let dstatic_w = slices.fixed.as_mut().map(|s| s.0.as_view_mut());
            let filter = match (grad.taps, &mut slices.code, &mut slices.generator) {
                (Taps::HeadWise(w, ..), Some(code), _) => FilterGrad::HeadWise {
                    dweight: RowsMut { data: code.0.as_view_mut(), stride: w.stride, stream: w.cols / streams },
                    dstatic_w,
                },
                (Taps::LowRank(z, ..), Some(code), Some(u)) => FilterGrad::LowRank {
                    dz: RowsMut { data: code.0.as_view_mut(), stride: z.stride, stream: z.cols / streams },
                    du: u.0.as_view_mut(),
                    dstatic_w,
                },
                _ => FilterGrad::Static { dw: dstatic_w.ok_or_else(absent)? },
            };
            let output =
                OutputGrad { dy: Rows { data: dys.0.as_view(), stride: dy.stride, stream: d }, dfinal_state: None };
            let dx = RowsMut { data: dxs.0.as_view_mut(), stride: grad.dx.stride, stream: d };
            backward(device, shape, options, &input, output, InputGrad { dx, filter, dinitial_state: None })
        }
    }
}
