//! Loss against compute: fitted laws and the compute advantage of a variant over a baseline.
//!
//! Two laws per series: `L = E + A C^-alpha` ([`Law::Offset`], 4 sizes or more) and the power law without an offset,
//! `ln L = ln A - alpha ln C` ([`Law::Power`]). The *compute advantage* at a loss is the compute the baseline's law
//! needs for it over what the variant's law needs; we report its geometric mean over the losses that both series
//! reached, with a bootstrap interval over the seeds within each size, the same draw for both (see [`advantage`]); with
//! one seed a size there is no interval. The paper's own form is unknown.
//!
//! A `[[scaling]]` entry of `paper/<item>.toml` names the metrics and the series; [`derive`] computes its rows from
//! measured values, so a record holds only what was measured and every rendering fits anew, with the same bits.

mod advantage;
mod fit;

pub use advantage::{Advantage, advantage};
pub use fit::{Law, fit_offset, fit_power};

use crate::measured::{Measured, Metric};
use crate::paper::Item;
use serde::Deserialize;

/// Metrics that a derived row gets, where its fit exists.
pub const DERIVED: [&str; 7] =
    ["compute_advantage", "advantage_low", "advantage_high", "advantage_power", "slope", "offset", "exponent"];
/// Those of a variant compared with the baseline.
const COMPARED: &[&str] = DERIVED.split_at(4).0;
/// Those of a series alone.
const FITTED: &[&str] = DERIVED.split_at(4).1;

/// What to fit: the rows `<size>.<series>` of an item.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The metric of compute.
    pub x: String,
    /// The metric of loss, in nats.
    pub y: String,
    /// What the variants are compared with.
    pub baseline: Series,
    /// The variants.
    pub variants: Vec<Series>,
}

/// A series and the row that its fit fills.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The last part of its row ids.
    pub series: String,
    /// The derived row.
    pub row: String,
}

/// One trained model: its compute and its loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Which size of model it is.
    pub size: usize,
    /// The seed, which pairs runs of one size.
    pub seed: u64,
    /// Compute, in any unit; positive.
    pub compute: f64,
    /// Loss in nats; positive.
    pub loss: f64,
}

/// The derived values of an item: for each series `slope` (nats lost per e-fold of compute, at the middle of its
/// points), `offset` and `exponent` of the offset law, and for each variant its advantage under the offset law with
/// its interval, and under the power law. What cannot be fitted is left out; what rests on a run that diverged is NaN, so
/// that claims on it are off.
pub fn derive(item: &Item, measured: &Measured) -> Vec<Metric> {
    let mut derived = Vec::new();
    for spec in &item.scaling {
        let baseline = points(item, spec, &spec.baseline.series, measured);
        for one in std::iter::once(&spec.baseline).chain(&spec.variants) {
            let mut push = |metric: &str, value: Option<f64>| {
                let of = |value| Metric { row: one.row.clone(), seed: 0, step: 0, metric: metric.into(), value };
                derived.extend(value.map(of));
            };
            let own = points(item, spec, &one.series, measured);
            if diverged(&own) {
                FITTED.iter().for_each(|metric| push(metric, Some(f64::NAN)));
            } else {
                let (power, offset) = (fit_power(&own), fit_offset(&own));
                push("slope", power.map(|law| law.slope(middle(&own))));
                push("offset", offset.map(|law| law.offset()));
                push("exponent", offset.map(|law| law.exponent()));
            }
            if one == &spec.baseline || own.is_empty() {
                continue;
            }
            if diverged(&own) || diverged(&baseline) {
                COMPARED.iter().for_each(|metric| push(metric, Some(f64::NAN)));
            } else {
                let found = advantage(&baseline, &own);
                push("compute_advantage", found.map(|a| a.mean));
                push("advantage_low", found.and_then(|a| a.interval).map(|[low, _]| low));
                push("advantage_high", found.and_then(|a| a.interval).map(|[_, high]| high));
                push("advantage_power", found.map(|a| a.power));
            }
        }
    }
    derived
}

/// A series' points: each seed of each size that has both values, or a loss that is not finite.
fn points(item: &Item, spec: &Spec, series: &str, measured: &Measured) -> Vec<Point> {
    let mut points = Vec::new();
    let mut sizes: Vec<&str> = item.rows().filter_map(|row| Some(row.id.rsplit_once('.')?.0)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for (size, name) in sizes.iter().enumerate() {
        let row = format!("{name}.{series}");
        let compute = measured.seeds(&row, &spec.x);
        for (seed, loss) in measured.seeds(&row, &spec.y) {
            // A run that diverged has no speed, and so no time.
            let diverged = (!loss.is_finite()).then_some(f64::NAN);
            points.extend(compute.get(&seed).copied().or(diverged).map(|compute| Point { size, seed, compute, loss }));
        }
    }
    points
}

/// Whether a value of a run is not finite.
fn diverged(points: &[Point]) -> bool {
    points.iter().any(|p| !(p.compute.is_finite() && p.loss.is_finite()))
}

/// The geometric middle of the points' compute.
fn middle(points: &[Point]) -> f64 {
    (points.iter().map(|p| p.compute.ln()).sum::<f64>() / points.len() as f64).exp()
}

#[cfg(test)]
#[path = "scaling/tests.rs"]
mod tests;
