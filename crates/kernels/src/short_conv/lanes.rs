//! Vectors of channels. Buffers of our own keep channels in groups of [`LANES`], whatever the width of the machine's
//! vectors, so that the order of every sum, and with it every bit, is the same with AVX-512, AVX2 and none.

use pulp::Simd;

/// Channels in a group: one AVX-512 register.
pub(super) const LANES: usize = 16;

/// The vector at `row[i..]`, zero past the end of the row.
#[inline(always)]
pub(super) fn load<S: Simd>(s: S, row: &[f32], i: usize) -> S::f32s {
    match row.get(i..i + S::F32_LANES) {
        Some(full) => S::as_simd_f32s(full).0[0],
        None => s.partial_load_f32s(&row[i..]),
    }
}

/// Writes a vector to `row[i..]`, up to the end of the row.
#[inline(always)]
pub(super) fn store<S: Simd>(s: S, row: &mut [f32], i: usize, value: S::f32s) {
    match row.get_mut(i..i + S::F32_LANES) {
        Some(full) => S::as_mut_simd_f32s(full).0[0] = value,
        None => s.partial_store_f32s(&mut row[i..], value),
    }
}

/// a + b * c, rounded twice: fused products would differ between machines with and without them.
#[inline(always)]
pub(super) fn add_mul<S: Simd>(s: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    s.add_f32s(a, s.mul_f32s(b, c))
}

/// sum_i a[i] * b[i] of two slices of one length: lane l adds the elements i with i mod 16 = l, then the lanes are
/// folded in halves.
#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let vectors = LANES / S::F32_LANES;
    let mut sum = [s.splat_f32s(0.0); LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for j in 0..vectors {
            sum[j] = add_mul(s, sum[j], load(s, a, j * S::F32_LANES), load(s, b, j * S::F32_LANES));
        }
    }
    for (j, i) in (0..a_tail.len()).step_by(S::F32_LANES).enumerate() {
        sum[j] = add_mul(s, sum[j], load(s, a_tail, i), load(s, b_tail, i));
    }
    let mut left = vectors;
    while left > 1 {
        left /= 2;
        for j in 0..left {
            sum[j] = s.add_f32s(sum[j], sum[j + left]);
        }
    }
    s.reduce_sum_f32s(sum[0])
}
