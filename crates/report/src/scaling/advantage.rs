//! The compute advantage and its interval.

use super::{Law, Point, fit_offset, fit_power};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Losses between the ends of the shared range at which the ratio is taken.
const LEVELS: usize = 33;
/// Resamplings; the interval is their 5 % to 95 %.
const SAMPLES: usize = 400;

/// Compute of the baseline over that of the variant at equal loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Advantage {
    /// Geometric mean over the shared losses, under the offset law where it can be fitted, else the power law.
    pub mean: f64,
    /// The bootstrap's 5 %.
    pub low: f64,
    /// The bootstrap's 95 %.
    pub high: f64,
    /// The mean under the power law.
    pub power: f64,
}

/// The advantage of `variant` over `baseline`; `None` if a law cannot be fitted or no loss was reached by both.
pub fn advantage(baseline: &[Point], variant: &[Point]) -> Option<Advantage> {
    let range = shared(baseline, variant)?;
    let power = mean(range, &fit_power(baseline)?, &fit_power(variant)?)?;
    let point = estimate(range, baseline, variant)?;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut samples = Vec::with_capacity(SAMPLES);
    // A resample without enough sizes has no law; a few more draws make up for those.
    for _ in 0..4 * SAMPLES {
        let (b, v) = (resample(baseline, &mut random), resample(variant, &mut random));
        samples.extend(estimate(range, &b, &v));
        if samples.len() == SAMPLES {
            break;
        }
    }
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples.get(((samples.len() as f64 - 1.0) * share).round() as usize).copied();
    Some(Advantage { mean: point, low: at(0.05)?.min(point), high: at(0.95)?.max(point), power })
}

/// The mean ratio under the best laws that the points allow, both of one form.
fn estimate(range: [f64; 2], baseline: &[Point], variant: &[Point]) -> Option<f64> {
    match (fit_offset(baseline), fit_offset(variant)) {
        (Some(b), Some(v)) => mean(range, &b, &v),
        _ => mean(range, &fit_power(baseline)?, &fit_power(variant)?),
    }
}

/// The losses that both reached: from the greater of the two best to the lesser of the two worst.
fn shared(baseline: &[Point], variant: &[Point]) -> Option<[f64; 2]> {
    let best = |points: &[Point]| points.iter().map(|p| p.loss).fold(f64::INFINITY, f64::min);
    let worst = |points: &[Point]| points.iter().map(|p| p.loss).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = (best(baseline).max(best(variant)), worst(baseline).min(worst(variant)));
    (low < high).then_some([low, high])
}

/// Geometric mean of the ratio over the range; losses that a law never reaches are left out.
fn mean([low, high]: [f64; 2], baseline: &Law, variant: &Law) -> Option<f64> {
    let level = |i: usize| low + (high - low) * i as f64 / (LEVELS - 1) as f64;
    let ratio = |loss: f64| Some(baseline.ln_compute(loss)? - variant.ln_compute(loss)?);
    let ratios: Vec<f64> = (0..LEVELS).filter_map(|i| ratio(level(i))).collect();
    (!ratios.is_empty()).then(|| (ratios.iter().sum::<f64>() / ratios.len() as f64).exp())
}

fn resample(points: &[Point], random: &mut ChaCha8Rng) -> Vec<Point> {
    points.iter().map(|_| points[random.random_range(0..points.len())]).collect()
}
