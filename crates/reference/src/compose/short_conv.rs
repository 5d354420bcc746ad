//! Causal depthwise convolutions, static and dynamic: `y[n,d] = sum_w taps[n,w,d] x[n-w,d]`, tap 0 on the token itself.
//!
//! Taps are the sum of a dynamic part, materialised in full, and a static one. What lies before the first token of n's
//! sequence counts as 0. N tokens, D channels, W width, H = D / head size, R rank.

use dfdx::prelude::*;

use super::{Matrix, scale_rows};
use crate::{Layout, Real};

/// The part of the taps that differs from token to token.
#[derive(Debug)]
pub enum Dynamic<E: Dtype, D: Device<E>, T = NoneTape> {
    /// `[N, H W]`, W innermost: one filter per token and head of `D / H` neighbouring channels.
    HeadWise(Matrix<E, D, T>),
    /// Codes `[N, R]` times a generator `[R, W D]`, tap-major: one filter per token and channel.
    LowRank(Matrix<E, D, T>, Matrix<E, D, T>),
}

/// Convolves `x [N, D]` with the sum of the taps given, `static_w [W, D]`; none at all are taps of 0.
///
/// # Errors
/// If the device fails.
pub fn short_conv<E: Real, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    dynamic: Option<Dynamic<E, D, T>>,
    static_w: Option<Matrix<E, D, T>>,
    width: usize,
    layout: &Layout,
) -> Result<Matrix<E, D, T>, D::Err> {
    let shape @ (n, d) = *x.shape();
    let (x, tape) = x.split_tape();
    let mut y = x.device().try_zeros_like(&shape)?.put_tape(tape);
    // Each part's own tape joins y's, and the part is then picked from tap by tap.
    if let Some(static_w) = static_w {
        let (static_w, tape) = static_w.split_tape();
        y = join(y, tape);
        for w in 0..width.min(n) {
            let tap: Tensor<(usize,), E, D, T> = static_w.retaped::<T>().try_select(index(&x, w)?)?;
            let shifted = shift(x.retaped::<T>(), w, layout)?;
            y = y.try_add(shifted.try_mul(tap.try_broadcast_like::<_, Axis<0>>(&shape)?)?)?;
        }
    }
    let Some(dynamic) = dynamic else { return Ok(y) };
    let by_token = match dynamic {
        Dynamic::HeadWise(weight) => {
            let heads = weight.shape().1 / width;
            weight.try_reshape_like(&(n, heads, width))?.try_permute::<(usize, usize, usize), Axes3<2, 0, 1>>()?
        }
        Dynamic::LowRank(z, u) => {
            let taps = z.try_matmul(u)?.try_reshape_like(&(n, width, d))?;
            taps.try_permute::<(usize, usize, usize), Axes3<1, 0, 2>>()?
        }
    };
    let (by_token, tape) = by_token.split_tape();
    y = join(y, tape);
    let groups = by_token.shape().2;
    for w in 0..width.min(n) {
        let tap: Matrix<E, D, T> = by_token.retaped::<T>().try_select(index(&x, w)?)?;
        let tap = tap.try_broadcast_like::<_, Axis<2>>(&(n, groups, d / groups))?.try_reshape_like(&shape)?;
        y = y.try_add(shift(x.retaped::<T>(), w, layout)?.try_mul(tap)?)?;
    }
    Ok(y)
}

/// `x[n-w]` at token n, 0 where that is not in n's sequence.
fn shift<E: Real, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    w: usize,
    layout: &Layout,
) -> Result<Matrix<E, D, T>, D::Err> {
    let seen = |n: usize| n.checked_sub(w).is_some_and(|m| layout.sees(n, m));
    let mask = (0..layout.tokens()).map(|n| E::lift(f64::from(u8::from(seen(n))))).collect();
    scale_rows(x.try_roll::<Axis<0>>(w)?, mask)
}

fn index<E: Dtype, D: Device<E>>(x: &Matrix<E, D>, i: usize) -> Result<Tensor<(), usize, D>, D::Err> {
    x.device().try_tensor_from_vec(vec![i], ())
}

fn join<E: Dtype, D: Device<E>, T: Tape<E, D>>(x: Matrix<E, D, T>, other: T) -> Matrix<E, D, T> {
    let (x, tape) = x.split_tape();
    x.put_tape(tape.merge(other))
}
