//! The compute advantage and its interval.
//!
//! Baseline and variant are compared on the runs that both have, pair by pair of size and seed, under one form of law:
//! that with an offset where both series allow it, else the power law. The form is chosen once, on all pairs, and
//! every resample is fitted with it.
//!
//! The interval is a bootstrap over seeds within each size. Both series get the same draw, since runs of one seed share
//! their data and their initial parameters. Of each size we resample the deviations from the size's mean, in logarithms
//! and widened by sqrt(n / (n - 1)), which n seeds understate; a size of a single seed draws from the deviations of
//! all other sizes, as if noise were alike at every size. With a single seed at every size nothing is known of the
//! noise: residuals of 5 points under a law of 3 parameters would say more of the law than of the seeds, so there is no
//! interval then. Nor is there one if more than one resample in [`LOST`] has no law.

use super::{Law, Point, fit_offset, fit_power};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Losses between the ends of the shared range at which the ratio is taken.
const LEVELS: usize = 33;
/// Resamplings; the interval is their 5 % to 95 %.
const SAMPLES: usize = 1000;
/// One resample in so many may have no law.
const LOST: usize = 20;

/// Compute of the baseline over that of the variant at equal loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Advantage {
    /// Geometric mean over the shared losses, under the offset law where both series allow it, else the power law.
    pub mean: f64,
    /// The mean under the power law.
    pub power: f64,
    /// The bootstrap's 5 % and 95 %; none with a single seed at every size.
    pub interval: Option<[f64; 2]>,
}

/// A form of law, as the function that fits it.
type Fit = fn(&[Point]) -> Option<Law>;

/// The runs of one size and seed: the baseline's and the variant's.
type Pair = [Point; 2];

/// The advantage of `variant` over `baseline`; `None` if a law cannot be fitted or no loss was reached by both.
pub fn advantage(baseline: &[Point], variant: &[Point]) -> Option<Advantage> {
    let partner = |b: &Point| variant.iter().find(|v| (v.size, v.seed) == (b.size, b.seed)).copied();
    let pairs: Vec<Pair> = baseline.iter().filter_map(|b| Some([*b, partner(b)?])).collect();
    let [baseline, variant] = [0, 1].map(|side| pairs.iter().map(|pair| pair[side]).collect::<Vec<Point>>());
    let range = shared(&baseline, &variant)?;
    let offset = fit_offset(&baseline).is_some() && fit_offset(&variant).is_some();
    let fit: Fit = if offset { fit_offset } else { fit_power };
    let power = mean(range, &fit_power(&baseline)?, &fit_power(&variant)?)?;
    let point = mean(range, &fit(&baseline)?, &fit(&variant)?)?;
    Some(Advantage { mean: point, power, interval: interval(range, &pairs, fit) })
}

/// The bootstrap's interval under one form of law.
fn interval(range: [f64; 2], pairs: &[Pair], fit: Fit) -> Option<[f64; 2]> {
    let sizes = sizes(pairs);
    let pool: Vec<Deviation> = sizes.iter().flat_map(|size| size.deviations.iter().copied()).collect();
    if pool.is_empty() {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let [baseline, variant] = resample(&sizes, &pool, &mut random);
        samples.extend(fit(&baseline).zip(fit(&variant)).and_then(|(b, v)| mean(range, &b, &v)));
    }
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((samples.len() as f64 - 1.0) * share).round() as usize];
    (SAMPLES - samples.len() <= SAMPLES / LOST).then(|| [at(0.05), at(0.95)])
}

/// By how much a pair is off its size's mean: of each side, ln compute and ln loss.
type Deviation = [[f64; 2]; 2];

/// The pairs of one size.
struct Size {
    /// Its index.
    size: usize,
    /// How many pairs.
    seeds: usize,
    /// The means of each side, of ln compute and ln loss.
    means: [[f64; 2]; 2],
    /// The pairs' widened deviations; none of a single seed.
    deviations: Vec<Deviation>,
}

fn sizes(pairs: &[Pair]) -> Vec<Size> {
    let mut indices: Vec<usize> = pairs.iter().map(|[b, _]| b.size).collect();
    indices.sort_unstable();
    indices.dedup();
    let of = |size: usize| {
        let values = |p: &Point| [p.compute.ln(), p.loss.ln()];
        let own: Vec<[[f64; 2]; 2]> =
            pairs.iter().filter(|[b, _]| b.size == size).map(|p| p.each_ref().map(values)).collect();
        let n = own.len() as f64;
        let mean = |side: usize, part: usize| own.iter().map(|pair| pair[side][part]).sum::<f64>() / n;
        let means = [0, 1].map(|side| [0, 1].map(|part| mean(side, part)));
        let widened = |pair: &[[f64; 2]; 2]| {
            [0, 1].map(|side| [0, 1].map(|part| (pair[side][part] - means[side][part]) * (n / (n - 1.0)).sqrt()))
        };
        let deviations = if own.len() > 1 { own.iter().map(widened).collect() } else { Vec::new() };
        Size { size, seeds: own.len(), means, deviations }
    };
    indices.into_iter().map(of).collect()
}

/// As many pairs of each size as it has, each its mean and a drawn deviation.
fn resample(sizes: &[Size], pool: &[Deviation], random: &mut ChaCha8Rng) -> [Vec<Point>; 2] {
    let mut drawn = [Vec::new(), Vec::new()];
    for one in sizes {
        let from = if one.deviations.is_empty() { pool } else { &one.deviations };
        for seed in 0..one.seeds {
            let deviation = from[random.random_range(0..from.len())];
            for (side, points) in drawn.iter_mut().enumerate() {
                let [compute, loss] = [0, 1].map(|part| (one.means[side][part] + deviation[side][part]).exp());
                points.push(Point { size: one.size, seed: seed as u64, compute, loss });
            }
        }
    }
    drawn
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
