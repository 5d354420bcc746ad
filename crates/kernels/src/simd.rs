//! Vector loops: run-time dispatch to the widest instructions, exponentials that vectorise, sums in a fixed order.
//!
//! Loops are plain Rust that the compiler vectorises inside [`vectorized`]. They multiply and then add (no fused
//! multiply-add) and sum in [`LANES`] lanes whatever the vector width, so their bits are the same with AVX-512, AVX2,
//! NEON and none.

/// Lanes of a sum: one AVX-512 register.
pub(crate) const LANES: usize = 16;

/// Runs `f` compiled for the widest vector instructions this machine has. `f` must be `#[inline(always)]`, and what
/// it calls too: a function that is not inlined keeps the baseline instructions.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// e^x within 2 ulp; 0 below the smallest normal result (x < -87.33), the largest power of two below infinity
/// above x = 88.37, NaN for the NaN that arithmetic makes.
///
/// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by the degree-7 polynomial of Cephes (S. Moshier, expf.c), 2^n by the
/// exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOW: f32 = -87.336_54;
    const HIGH: f32 = 88.376_26;
    // ln 2 in two parts, the first with few enough bits that n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons in this form keep NaN and compile to one instruction; f32::clamp does not.
    let clamped = if x < LOW { LOW } else { x };
    let clamped = if clamped > HIGH { HIGH } else { clamped };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 5e-1;
    let e = p * r * r + r + 1.0;
    // The lowest bits of `rounded` are n in two's complement: shifted, they add n to the exponent.
    let e = f32::from_bits(e.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x < LOW { 0.0 } else { e }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The lanes of a sum added pairwise.
#[inline(always)]
fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of f over the elements of K slices of one length.
#[inline(always)]
pub(crate) fn sum<const K: usize>(xs: [&[f32]; K], f: impl Fn([f32; K]) -> f32) -> f32 {
    let len = xs[0].len();
    let chunks = xs.map(
        #[inline(always)]
        |x| x[..len].as_chunks::<LANES>(),
    );
    let mut lanes = [0.0; LANES];
    for c in 0..len / LANES {
        let rows = chunks.map(
            #[inline(always)]
            |(x, _)| &x[c],
        );
        for i in 0..LANES {
            lanes[i] += f(rows.map(
                #[inline(always)]
                |row| row[i],
            ));
        }
    }
    for i in 0..len % LANES {
        lanes[i] += f(chunks.map(
            #[inline(always)]
            |(_, tail)| tail[i],
        ));
    }
    reduce(lanes)
}

/// Dot product.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    sum(
        [x, y],
        #[inline(always)]
        |[a, b]| a * b,
    )
}

/// `y += x`.
#[inline(always)]
pub(crate) fn add_to(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_2_ulp_and_saturates() {
        let mut worst = 0.0f64;
        let mut x = -87.3f32;
        while x < 88.3 {
            let want = f64::from(x).exp();
            let ulp = f64::from((want as f32).next_up()) - f64::from(want as f32);
            worst = worst.max((f64::from(exp(x)) - want).abs() / ulp);
            x += 0.000_37;
        }
        assert!(worst <= 2.0, "worst error {worst} ulp");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-88.0), 0.0);
        assert!(exp(f32::INFINITY) > 2.0e38 && exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_have_the_same_bits_inside_and_outside_of_the_dispatch() {
        for n in [0, 1, 15, 16, 17, 1000] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let inside = vectorized(
                #[inline(always)]
                || (dot(&x, &x), sum([&x], |[v]| exp(v))),
            );
            assert_eq!(inside, (dot(&x, &x), sum([&x], |[v]| exp(v))));
            let want: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            assert!((f64::from(inside.0) - want).abs() <= 1e-6 * want.max(1.0));
        }
    }

    #[test]
    fn sigmoid_is_accurate_in_both_tails() {
        for x in [-80.0f32, -20.0, -1.0, 0.0, 1.0, 20.0, 100.0] {
            let want = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) / want - 1.0).abs() < 1e-6, "sigmoid({x})");
        }
    }
}
