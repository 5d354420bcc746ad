//! What the ops' tests share: seeded data, finite differences, comparison, thread counts.

pub(crate) mod elementwise;
pub(crate) mod recurrence;

/// Largest relative error (norm of the difference over norm of the reference) of f32 against the f64 reference.
const TOLERANCE: f64 = 1e-5;

/// Uniform in [-1, 1).
pub(crate) fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// `ln(1 + e^x)`.
pub(crate) fn wide_softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// An output before an op that overwrites it: NaN, which shows wherever it is read or left.
pub(crate) fn poisoned(n: usize) -> Vec<f32> {
    vec![f32::NAN; n]
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Sum of products: the scalar loss whose gradient a backward with `dy` gives.
pub(crate) fn inner(y: &[f64], dy: &[f32]) -> f64 {
    assert_eq!(y.len(), dy.len());
    y.iter().zip(dy).map(|(a, &b)| a * f64::from(b)).sum()
}

/// Gradient of f at x by central differences.
pub(crate) fn gradient(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = wide(x);
    let mut slopes = Vec::with_capacity(x.len());
    for i in 0..x.len() {
        let centre = x[i];
        x[i] = centre + STEP;
        let above = f(&x);
        x[i] = centre - STEP;
        slopes.push((above - f(&x)) / (2.0 * STEP));
        x[i] = centre;
    }
    slopes
}

#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let norm = |it: &mut dyn Iterator<Item = f64>| it.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(want).map(|(&g, w)| f64::from(g) - w));
    let scale = norm(&mut want.iter().copied());
    // False for a NaN.
    assert!(error <= TOLERANCE * scale, "{what}: error {error:e} of norm {scale:e}");
}

/// Runs `f` in pools of 1, 2 and 4 threads and compares every bit.
#[track_caller]
pub(crate) fn assert_same_bits_at_any_thread_count(f: impl Fn() -> Vec<Vec<f32>> + Sync) {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        pool.install(&f).into_iter().map(bits).collect::<Vec<_>>()
    };
    let one = run(1);
    for threads in [2, 4] {
        assert!(one == run(threads), "1 and {threads} threads differ");
    }
}
