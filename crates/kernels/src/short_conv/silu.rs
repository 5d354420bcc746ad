//! SiLU, v / (1 + e^-v), and its derivative, along rows.

/// e^x within 2 ulp for |x| <= 87, clamped there: x = n ln 2 + r, e^r by the polynomial of Cephes (S. Moshier, expf.c).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LIMIT: f32 = 87.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > LIMIT { LIMIT } else { x };
    let x = if x < -LIMIT { -LIMIT } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_1e-1;
    let e = p * r * r + r + 1.0;
    f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[inline(always)]
fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + exp(-v))
}

/// v <- silu(v)
#[inline(always)]
pub(super) fn silu(v: &mut [f32]) {
    for v in v {
        *v *= sigmoid(*v);
    }
}

/// v <- silu(v) + x
#[inline(always)]
pub(super) fn silu_residual(v: &mut [f32], x: &[f32]) {
    for (v, x) in v.iter_mut().zip(x) {
        *v = *v * sigmoid(*v) + x;
    }
}

/// v <- dy silu'(v), with silu'(v) = s (1 + v (1 - s)), s = 1 / (1 + e^-v)
#[inline(always)]
pub(super) fn silu_grad(v: &mut [f32], dy: &[f32]) {
    for (v, dy) in v.iter_mut().zip(dy) {
        let s = sigmoid(*v);
        *v = dy * (s * (1.0 + *v * (1.0 - s)));
    }
}
