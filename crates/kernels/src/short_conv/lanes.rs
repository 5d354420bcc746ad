//! Vectors of channels. Buffers of our own keep channels in groups of [`LANES`], whatever the width of the machine's
//! vectors, so that the order of every sum, and with it every bit, is the same with AVX-512, AVX2 and none.

use pulp::Simd;

/// Channels in a group: one AVX-512 register.
pub(super) const LANES: usize = 16;

/// The vectors of a group.
#[inline(always)]
pub(super) fn vectors<S: Simd>(group: &[f32; LANES]) -> &[S::f32s] {
    S::as_simd_f32s(group).0
}

/// The vectors of a group, to be written.
#[inline(always)]
pub(super) fn vectors_mut<S: Simd>(group: &mut [f32; LANES]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(group).0
}

/// The vector at `row[i..]`: a whole one where `FULL`, otherwise zero past the end of the row.
#[inline(always)]
pub(super) fn load<S: Simd, const FULL: bool>(s: S, row: &[f32], i: usize) -> S::f32s {
    if FULL { S::as_simd_f32s(&row[i..i + S::F32_LANES]).0[0] } else { s.partial_load_f32s(&row[i..]) }
}

/// `V` vectors that follow each other from `row[i..]` on, as [`load`].
#[inline(always)]
pub(super) fn load_set<S: Simd, const V: usize, const FULL: bool>(s: S, row: &[f32], i: usize) -> [S::f32s; V] {
    let mut set = [s.splat_f32s(0.0); V];
    for v in 0..V {
        set[v] = load::<S, FULL>(s, row, i + v * S::F32_LANES);
    }
    set
}

/// [`load_set`] of whole vectors without a check, for the innermost loops.
///
/// # Safety
/// `i + V * S::F32_LANES <= row.len()`
#[inline(always)]
pub(super) unsafe fn load_set_unchecked<S: Simd, const V: usize>(s: S, row: &[f32], i: usize) -> [S::f32s; V] {
    debug_assert!(i + V * S::F32_LANES <= row.len());
    let mut set = [s.splat_f32s(0.0); V];
    for v in 0..V {
        // SAFETY: within the row by the caller's promise; `S::f32s` is plain data of `S::F32_LANES` floats.
        set[v] = unsafe { row.as_ptr().add(i + v * S::F32_LANES).cast::<S::f32s>().read_unaligned() };
    }
    set
}

/// Writes a vector to `row[i..]`: a whole one where `FULL`, otherwise up to the end of the row.
#[inline(always)]
pub(super) fn store<S: Simd, const FULL: bool>(s: S, row: &mut [f32], i: usize, value: S::f32s) {
    if FULL {
        S::as_mut_simd_f32s(&mut row[i..i + S::F32_LANES]).0[0] = value;
    } else {
        s.partial_store_f32s(&mut row[i..], value);
    }
}

/// a + b * c, rounded twice: fused products would differ between machines with and without them.
#[inline(always)]
pub(super) fn add_mul<S: Simd>(s: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    s.add_f32s(a, s.mul_f32s(b, c))
}

/// sum_i a[i] * b[i] of two slices of one length, a multiple of [`LANES`]: lane l adds the elements i with
/// i mod 16 = l, then the lanes are folded in halves.
#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut left = LANES / S::F32_LANES;
    let mut sum = [s.splat_f32s(0.0); LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        let (a, b) = (vectors::<S>(a), vectors::<S>(b));
        for j in 0..left {
            sum[j] = add_mul(s, sum[j], a[j], b[j]);
        }
    }
    while left > 1 {
        left /= 2;
        for j in 0..left {
            sum[j] = s.add_f32s(sum[j], sum[j + left]);
        }
    }
    s.reduce_sum_f32s(sum[0])
}
