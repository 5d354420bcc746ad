//! The two laws, fitted to points by Huber regression on the logarithm of the loss.
//!
//! Residuals `ln L - ln law(C)` beyond [`DELTA`] count linearly, so one diverged run does not bend the curve. The
//! offset law is linear in (E, A) once alpha is fixed: E and A come from reweighted least squares, and alpha from
//! golden-section search on the loss that is left, around the best of a grid.

use super::Point;
use std::collections::BTreeSet;

/// Where the Huber loss turns linear, in nats of ln L.
const DELTA: f64 = 1e-3;
/// Rounds of reweighting.
const ROUNDS: usize = 30;
/// Intervals of the grid of alpha, in its logarithm, from 0.01 to 2.
const GRID: usize = 12;

/// A law of loss against compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Law {
    /// `E + A C^-alpha`.
    Offset {
        /// E: the loss that no compute removes.
        e: f64,
        /// ln A.
        ln_a: f64,
        /// alpha.
        alpha: f64,
    },
    /// `A C^-alpha`.
    Power {
        /// ln A.
        ln_a: f64,
        /// alpha.
        alpha: f64,
    },
}

impl Law {
    /// The loss at a compute.
    pub fn loss(&self, compute: f64) -> f64 {
        match *self {
            Law::Offset { e, ln_a, alpha } => e + (ln_a - alpha * compute.ln()).exp(),
            Law::Power { ln_a, alpha } => (ln_a - alpha * compute.ln()).exp(),
        }
    }

    /// The logarithm of the compute that reaches a loss; `None` at or under the offset, or of a flat law.
    pub fn ln_compute(&self, loss: f64) -> Option<f64> {
        let (e, ln_a, alpha) = match *self {
            Law::Offset { e, ln_a, alpha } => (e, ln_a, alpha),
            Law::Power { ln_a, alpha } => (0.0, ln_a, alpha),
        };
        let found = (ln_a - (loss - e).ln()) / alpha;
        (loss > e && found.is_finite()).then_some(found)
    }

    /// Nats lost per e-fold of compute, at a compute: `-dL / d ln C`.
    pub fn slope(&self, compute: f64) -> f64 {
        self.exponent() * (self.loss(compute) - self.offset())
    }

    /// E; 0 for the power law.
    pub fn offset(&self) -> f64 {
        match *self {
            Law::Offset { e, .. } => e,
            Law::Power { .. } => 0.0,
        }
    }

    /// alpha.
    pub fn exponent(&self) -> f64 {
        match *self {
            Law::Offset { alpha, .. } | Law::Power { alpha, .. } => alpha,
        }
    }
}

/// The power law through the points; `None` with fewer than 2 sizes, or values that are not positive and finite.
pub fn fit_power(points: &[Point]) -> Option<Law> {
    if !fits(points, 2) {
        return None;
    }
    let mut weights = vec![1.0; points.len()];
    let mut law = Law::Power { ln_a: 0.0, alpha: 0.0 };
    for _ in 0..ROUNDS {
        let sums = Sums::of(points.iter().zip(&weights).map(|(p, w)| (*w, -p.compute.ln(), p.loss.ln())));
        let (ln_a, alpha) = sums.line()?;
        law = Law::Power { ln_a, alpha };
        let residuals: Vec<f64> = points.iter().map(|p| p.loss.ln() - law.loss(p.compute).ln()).collect();
        reweigh(&residuals, &mut weights);
    }
    Some(law)
}

/// The offset law through the points; `None` with fewer than 4 sizes, or where they do not fall with compute.
pub fn fit_offset(points: &[Point]) -> Option<Law> {
    if !fits(points, 4) {
        return None;
    }
    let (low, high) = (0.01_f64.ln(), 2.0_f64.ln());
    let edge = |i: usize| low + (high - low) * i as f64 / GRID as f64;
    let tried = (0..=GRID).filter_map(|i| Some((linear(points, edge(i).exp())?, i)));
    let ((left, law), best) = tried.min_by(|a, b| a.0.0.total_cmp(&b.0.0))?;
    let near = golden(points, edge(best.saturating_sub(1)), edge((best + 1).min(GRID)));
    Some(near.filter(|(loss, _)| *loss < left).map_or(law, |(_, law)| law))
}

/// Whether there are so many sizes, all values positive and finite.
fn fits(points: &[Point], sizes: usize) -> bool {
    let sound = |v: f64| v.is_finite() && v > 0.0;
    let found: BTreeSet<usize> = points.iter().map(|p| p.size).collect();
    found.len() >= sizes && points.iter().all(|p| sound(p.compute) && sound(p.loss))
}

/// The best alpha between two logarithms, by golden section: (Huber loss, law).
fn golden(points: &[Point], mut low: f64, mut high: f64) -> Option<(f64, Law)> {
    const RATIO: f64 = 0.618_033_988_749_895;
    let at =
        |ln_alpha: f64| linear(points, ln_alpha.exp()).unwrap_or((f64::INFINITY, Law::Power { ln_a: 0.0, alpha: 0.0 }));
    let (mut a, mut b) = (high - RATIO * (high - low), low + RATIO * (high - low));
    let (mut at_a, mut at_b) = (at(a), at(b));
    for _ in 0..24 {
        if at_a.0 <= at_b.0 {
            (high, b, at_b) = (b, a, at_a);
            a = high - RATIO * (high - low);
            at_a = at(a);
        } else {
            (low, a, at_a) = (a, b, at_b);
            b = low + RATIO * (high - low);
            at_b = at(b);
        }
    }
    let best = if at_a.0 <= at_b.0 { at_a } else { at_b };
    best.0.is_finite().then_some(best)
}

/// E >= 0 and A > 0 at a fixed alpha, by reweighted least squares on L, whose weights make it Huber on ln L.
fn linear(points: &[Point], alpha: f64) -> Option<(f64, Law)> {
    // C^-alpha relative to the first point keeps the sums near 1.
    let first = points[0].compute.ln();
    let basis: Vec<f64> = points.iter().map(|p| (-alpha * (p.compute.ln() - first)).exp()).collect();
    let ln_losses: Vec<f64> = points.iter().map(|p| p.loss.ln()).collect();
    let mut residuals = vec![0.0; points.len()];
    let mut weights = vec![1.0; points.len()];
    let mut found: Option<[f64; 2]> = None;
    for _ in 0..ROUNDS {
        // A residual of ln L is one of L over L.
        let scaled = points.iter().zip(&basis).zip(&weights).map(|((p, c), w)| (w / (p.loss * p.loss), *c, p.loss));
        let sums = Sums::of(scaled);
        let (e, a) = sums.line().filter(|(e, _)| *e >= 0.0).or_else(|| sums.through_origin())?;
        if a <= 0.0 {
            return None;
        }
        for ((r, c), ln_loss) in residuals.iter_mut().zip(&basis).zip(&ln_losses) {
            *r = ln_loss - (e + a * c).ln();
        }
        reweigh(&residuals, &mut weights);
        let settled = found.is_some_and(|[e_before, a_before]| ((e_before + a_before) / (e + a) - 1.0).abs() < 1e-12);
        found = Some([e, a]);
        if settled {
            break;
        }
    }
    let law = found.map(|[e, a]| Law::Offset { e, ln_a: a.ln() + alpha * first, alpha });
    law.map(|law| (residuals.iter().map(|r| huber(*r)).sum(), law))
}

fn huber(r: f64) -> f64 {
    if r.abs() <= DELTA { 0.5 * r * r } else { DELTA * (r.abs() - 0.5 * DELTA) }
}

fn reweigh(residuals: &[f64], weights: &mut [f64]) {
    for (w, r) in weights.iter_mut().zip(residuals) {
        *w = (DELTA / r.abs()).min(1.0);
    }
}

/// Weighted sums for a line `y = c0 + c1 x`.
struct Sums {
    w: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Sums {
    /// Of (weight, x, y).
    fn of(terms: impl Iterator<Item = (f64, f64, f64)>) -> Sums {
        let mut s = Sums { w: 0.0, x: 0.0, y: 0.0, xx: 0.0, xy: 0.0 };
        for (w, x, y) in terms {
            s.w += w;
            s.x += w * x;
            s.y += w * y;
            s.xx += w * x * x;
            s.xy += w * x * y;
        }
        s
    }

    /// (c0, c1); `None` if all x are equal.
    fn line(&self) -> Option<(f64, f64)> {
        let det = self.w * self.xx - self.x * self.x;
        let slope = (self.w * self.xy - self.x * self.y) / det;
        (det > 0.0 && slope.is_finite()).then(|| ((self.y - slope * self.x) / self.w, slope))
    }

    /// (0, c1).
    fn through_origin(&self) -> Option<(f64, f64)> {
        (self.xx > 0.0).then(|| (0.0, self.xy / self.xx))
    }
}
