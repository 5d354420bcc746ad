//! Loss against compute: fitted laws and the compute advantage of a variant over a baseline.
//!
//! Two laws per series: `L = E + A C^-alpha` ([`Law::Offset`], 4 sizes or more) and the power law without an offset,
//! `ln L = ln A - alpha ln C` ([`Law::Power`]). The *compute advantage* at a loss is the compute the baseline's law
//! needs for it over what the variant's law needs; we report its geometric mean over the losses that both series
//! reached, with a bootstrap interval over points (one per size and seed). The paper's own form is unknown.
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
    /// Compute, in any unit; positive.
    pub compute: f64,
    /// Loss in nats; positive.
    pub loss: f64,
}

/// The derived values of an item: for each series `slope` (nats lost per e-fold of compute, at the middle of its
/// points), `offset` and `exponent` of the offset law, and for each variant its advantage under the offset law with
/// its interval, and under the power law. What cannot be fitted is left out.
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
            let (power, offset) = (fit_power(&own), fit_offset(&own));
            push("slope", power.map(|law| law.slope(middle(&own))));
            push("offset", offset.map(|law| law.offset()));
            push("exponent", offset.map(|law| law.exponent()));
            if one != &spec.baseline {
                let found = advantage(&baseline, &own);
                push("compute_advantage", found.map(|a| a.mean));
                push("advantage_low", found.map(|a| a.low));
                push("advantage_high", found.map(|a| a.high));
                push("advantage_power", found.map(|a| a.power));
            }
        }
    }
    derived
}

/// A series' points: each seed of each size that has both values.
fn points(item: &Item, spec: &Spec, series: &str, measured: &Measured) -> Vec<Point> {
    let mut points = Vec::new();
    for row in item.rows().filter(|row| row.id.rsplit_once('.').is_some_and(|(_, last)| last == series)) {
        let compute = measured.seeds(&row.id, &spec.x);
        for (seed, loss) in measured.seeds(&row.id, &spec.y) {
            points.extend(compute.get(&seed).map(|&compute| Point { compute, loss }));
        }
    }
    points
}

/// The geometric middle of the points' compute.
fn middle(points: &[Point]) -> f64 {
    (points.iter().map(|p| p.compute.ln()).sum::<f64>() / points.len() as f64).exp()
}

#[cfg(test)]
#[path = "scaling/tests.rs"]
mod tests;
