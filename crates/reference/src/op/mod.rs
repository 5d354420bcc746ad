//! Short convolutions as custom dfdx ops with hand-written backward passes, for use in dfdx models.
//!
//! `y[b,t,d] = sum_w taps[b,t,w,d] x[b,t-w,d]` with `x[t<0] = 0`: causal, depthwise, tap 0 on the token itself. The taps
//! are [the same at every token](static_conv), [one filter per token and head](head_wise_conv), or
//! [generated per channel from a low-rank code](low_rank_conv) without being materialised. A convolution is linear in
//! its taps, so a static part is added by adding its convolution, and a residual by adding x:
//!
//! ```
//! use dfdx::prelude::*;
//! use reference::op::{low_rank_conv, static_conv};
//!
//! // B=2 rows of 5 tokens of D=6 channels; W=4 taps of rank 3.
//! let dev = Cpu::default();
//! let x: Tensor<Rank3<2, 5, 6>, f32, _> = dev.sample_normal();
//! let z: Tensor<Rank3<2, 5, 3>, f32, _> = dev.sample_normal();
//! let u: Tensor<Rank2<3, 24>, f32, _> = dev.sample_normal();
//! let static_w: Tensor<Rank2<4, 6>, f32, _> = dev.sample_normal();
//!
//! let dynamic = low_rank_conv(x.leaky_trace(), z, u.clone())?;
//! let y = dynamic + static_conv(x.leaky_trace(), static_w.clone())? + x.clone();
//! let gradients = y.square().mean().backward();
//! assert_eq!(gradients.get(&u).array()[0].len(), 24);
//! assert_eq!(gradients.get(&static_w).array()[0].len(), 6);
//! # Ok::<(), reference::op::Error>(())
//! ```
//!
//! Source: arXiv 2606.03825, section on dynamic short convolutions; the layouts are those of its released kernels.

mod loops;

use dfdx::prelude::*;

use loops::{Filter, Sizes};

/// Why a convolution was not recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The shapes do not fit.
    #[error("{op}: {what}; {remedy}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The shapes at odds.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The device failed.
    #[error("{op}: {source}; use a smaller batch or model")]
    Device {
        /// The op.
        op: &'static str,
        /// What it reports.
        source: CpuError,
    },
}

/// Rows of S tokens of D channels each, of run-time or compile-time sizes.
pub type Rows<B, S, D, E, T> = Tensor<(B, S, D), E, Cpu, T>;

/// The convolution of `x [B, T, D]` with `w [W, D]`.
///
/// # Errors
/// [`Error::Shape`] if the channels differ.
pub fn static_conv<B: Dim, S: Dim, D: Dim, W: Dim, E, T, T2>(
    x: Rows<B, S, D, E, T>,
    w: Tensor<(W, D), E, Cpu, T2>,
) -> Result<Rows<B, S, D, E, T>, Error>
where
    E: Dtype,
    T: Tape<E, Cpu> + Merge<T2>,
    T2: Tape<E, Cpu>,
{
    const OP: &str = "static_conv";
    let (shape, [width, channels]) = (*x.shape(), w.shape().concrete());
    let sizes = Sizes::of(&shape, width);
    if channels != sizes.channels {
        let what = format!("w {:?} for x {:?}", [width, channels], shape.concrete());
        return Err(Error::Shape { op: OP, what, remedy: "give w [W, D] for x [B, T, D]" });
    }
    let ((x, tape), (w, tape2)) = (flat(OP, x)?, flat(OP, w)?);
    record(OP, sizes, Filter::Static, shape, x, [w], tape.merge(tape2))
}

/// The convolution of `x [B, T, D]` with `weight [B, T, H, W]`: one filter per token and head of `D / H` neighbouring
/// channels.
///
/// ```
/// use dfdx::prelude::*;
/// use reference::op::head_wise_conv;
///
/// // Every token's filter is tap 1 alone: y[t] = x[t-1].
/// let dev = Cpu::default();
/// let x = dev.tensor([[[1.0], [2.0], [3.0]]]);
/// let weight: Tensor<Rank4<1, 3, 1, 2>, f64, _> = dev.tensor([[[[0.0, 1.0]]; 3]]);
/// assert_eq!(head_wise_conv(x, weight)?.array(), [[[0.0], [1.0], [2.0]]]);
/// # Ok::<(), reference::op::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if rows or tokens differ, or the heads do not divide the channels.
pub fn head_wise_conv<B: Dim, S: Dim, D: Dim, H: Dim, W: Dim, E, T, T2>(
    x: Rows<B, S, D, E, T>,
    weight: Tensor<(B, S, H, W), E, Cpu, T2>,
) -> Result<Rows<B, S, D, E, T>, Error>
where
    E: Dtype,
    T: Tape<E, Cpu> + Merge<T2>,
    T2: Tape<E, Cpu>,
{
    const OP: &str = "head_wise_conv";
    let (shape, [batch, len, heads, width]) = (*x.shape(), weight.shape().concrete());
    let sizes = Sizes::of(&shape, width);
    let divides = heads > 0 && sizes.channels >= heads && sizes.channels.is_multiple_of(heads);
    if [batch, len] != [sizes.batch, sizes.len] || !divides {
        let what = format!("weight {:?} for x {:?}", [batch, len, heads, width], shape.concrete());
        return Err(Error::Shape { op: OP, what, remedy: "give weight [B, T, H, W] for x [B, T, D], H dividing D" });
    }
    let ((x, tape), (weight, tape2)) = (flat(OP, x)?, flat(OP, weight)?);
    record(OP, sizes, Filter::HeadWise { heads }, shape, x, [weight], tape.merge(tape2))
}

/// The convolution of `x [B, T, D]` with taps `z u`, `z [B, T, R]`, `u [R, W D]` tap-major: one filter per token and
/// channel.
///
/// # Errors
/// [`Error::Shape`] if rows, tokens or ranks differ, or u's columns are not a multiple of D.
pub fn low_rank_conv<B: Dim, S: Dim, D: Dim, R: Dim, WD: Dim, E, T, T2, T3>(
    x: Rows<B, S, D, E, T>,
    z: Tensor<(B, S, R), E, Cpu, T2>,
    u: Tensor<(R, WD), E, Cpu, T3>,
) -> Result<Rows<B, S, D, E, T>, Error>
where
    E: Dtype,
    T: Tape<E, Cpu> + Merge<T2> + Merge<T3>,
    T2: Tape<E, Cpu>,
    T3: Tape<E, Cpu>,
{
    const OP: &str = "low_rank_conv";
    let (shape, [batch, len, rank], [rows, columns]) = (*x.shape(), z.shape().concrete(), u.shape().concrete());
    let channels = shape.concrete()[2];
    let sizes = Sizes::of(&shape, columns.checked_div(channels).unwrap_or(0));
    if [batch, len] != [sizes.batch, sizes.len] || rank != rows || columns != sizes.width * channels {
        let what = format!("z {:?} and u {:?} for x {:?}", [batch, len, rank], [rows, columns], shape.concrete());
        return Err(Error::Shape { op: OP, what, remedy: "give z [B, T, R] and u [R, W D] for x [B, T, D]" });
    }
    let ((x, tape), (z, tape2), (u, tape3)) = (flat(OP, x)?, flat(OP, z)?, flat(OP, u)?);
    record(OP, sizes, Filter::LowRank { rank }, shape, x, [z, u], tape.merge(tape2).merge(tape3))
}

type Flat<E> = Tensor<(usize,), E, Cpu>;

/// An input as a contiguous vector, apart from its tape. A contiguous tensor keeps its id, and so its gradient.
fn flat<S: Shape, E: Dtype, T: Tape<E, Cpu>>(op: &'static str, x: Tensor<S, E, Cpu, T>) -> Result<(Flat<E>, T), Error> {
    let len = x.shape().num_elements();
    let x = x.try_reshape_like(&(len,)).map_err(|source| Error::Device { op, source })?;
    Ok(x.split_tape())
}

/// Runs the forward loops on x and the filter's parts, and puts the backward ones on the tape.
fn record<S: Shape, E: Dtype, T: Tape<E, Cpu>, const N: usize>(
    op: &'static str,
    sizes: Sizes,
    filter: Filter,
    shape: S,
    x: Flat<E>,
    parts: [Flat<E>; N],
    mut tape: T,
) -> Result<Tensor<S, E, Cpu, T>, Error> {
    let y = loops::forward(sizes, filter, &read(&x), &parts.each_ref().map(read));
    let y = x.device().try_tensor_from_vec(y, shape).map_err(|source| Error::Device { op, source })?;
    let output = y.ghost();
    tape.add_backward_op(move |gradients| {
        // Copied out: gradients of two tensors cannot be borrowed at once.
        let dy = gradients.get_or_alloc_mut(&output)?.to_vec();
        let (dx, dparts) = loops::backward(sizes, filter, &read(&x), &parts.each_ref().map(read), &dy);
        for (input, gradient) in std::iter::once((&x, dx)).chain(parts.iter().zip(dparts)) {
            let sum = gradients.get_or_alloc_mut(input)?;
            sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
        Ok(())
    });
    Ok(y.put_tape(tape))
}

fn read<E: Dtype>(x: &Flat<E>) -> Vec<E> {
    let mut values = vec![E::default(); x.shape().0];
    x.copy_into(&mut values);
    values
}
