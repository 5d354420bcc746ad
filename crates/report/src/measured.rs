//! Measured values by row, metric and seed, and their summary over seeds.

use crate::paper;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One measured value: a line of `metrics.csv` or `curve.csv`, columns `row,seed,step,metric,value`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// The row's id.
    pub row: String,
    /// The seed of the run.
    pub seed: u64,
    /// The optimiser step after which it was measured; 0 where nothing is trained.
    pub step: u64,
    /// The metric's id.
    pub metric: String,
    /// The value, NaN included: a run that broke must show.
    pub value: f64,
}

/// Final values by (row, metric) and seed: of each seed the value at its last step.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    cells: BTreeMap<(String, String), BTreeMap<u64, (u64, f64)>>,
}

impl Measured {
    /// Collects values; of one (row, metric, seed) the greatest step counts.
    pub fn new<'a>(metrics: impl IntoIterator<Item = &'a Metric>) -> Self {
        let mut measured = Measured::default();
        for m in metrics {
            let cell = measured.cells.entry((m.row.clone(), m.metric.clone())).or_default();
            let last = cell.entry(m.seed).or_insert((m.step, m.value));
            if m.step >= last.0 {
                *last = (m.step, m.value);
            }
        }
        measured
    }

    /// The same with the item's derived values, see [`crate::scaling`].
    pub fn of<'a>(item: &paper::Item, metrics: impl IntoIterator<Item = &'a Metric>) -> Self {
        let mut measured = Self::new(metrics);
        for m in crate::scaling::derive(item, &measured) {
            measured.cells.insert((m.row, m.metric), BTreeMap::from([(m.seed, (m.step, m.value))]));
        }
        measured
    }

    /// Value by seed; empty if not run.
    pub fn seeds(&self, row: &str, metric: &str) -> BTreeMap<u64, f64> {
        let cell = self.cells.get(&(row.to_string(), metric.to_string()));
        cell.map(|cell| cell.iter().map(|(&seed, &(_, value))| (seed, value)).collect()).unwrap_or_default()
    }

    /// Whether the row has any value.
    pub fn has_row(&self, row: &str) -> bool {
        self.cells.keys().any(|(r, _)| r == row)
    }

    /// The summary of one cell; `None` if not run.
    pub fn summary(&self, row: &str, metric: &paper::Metric) -> Option<Summary> {
        let values: Vec<f64> = self.seeds(row, &metric.id).into_values().collect();
        Summary::of(&values, metric.solved_at)
    }
}

/// Median and range over seeds. One NaN makes all three NaN: a broken seed is not averaged away.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle value; the mean of the two middle ones for an even number of seeds.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many seeds.
    pub seeds: usize,
    /// How many of them solved the task, where the metric says what that is.
    pub solved: Option<usize>,
}

impl Summary {
    /// Of a list of values, one per seed; `None` if it is empty.
    pub fn of(values: &[f64], solved_at: Option<f64>) -> Option<Summary> {
        if values.is_empty() {
            return None;
        }
        let broken = values.iter().any(|v| v.is_nan());
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let pick = |value: f64| if broken { f64::NAN } else { value };
        Some(Summary {
            median: pick(median(&sorted)),
            min: pick(sorted[0]),
            max: pick(sorted[sorted.len() - 1]),
            seeds: values.len(),
            solved: solved_at.map(|at| values.iter().filter(|v| **v >= at).count()),
        })
    }
}

impl Summary {
    /// Median, `min–max` (empty for one seed or a broken one), `solved/seeds` (empty where undefined).
    pub(crate) fn parts(&self, metric: &paper::Metric) -> [String; 3] {
        let number = |value: f64| format!("{value:.*}", metric.decimals);
        let range = if self.seeds > 1 && !self.median.is_nan() {
            format!("{}–{}", number(self.min), number(self.max))
        } else {
            String::new()
        };
        let solved = self.solved.map(|n| format!("{n}/{}", self.seeds)).unwrap_or_default();
        [number(self.median), range, solved]
    }

    /// `0.998 [0.310–1.000] 2/3`: median, range and solved seeds, as far as each is defined.
    pub fn text(&self, metric: &paper::Metric) -> String {
        let [median, range, solved] = self.parts(metric);
        let range = if range.is_empty() { range } else { format!(" [{range}]") };
        let solved = if solved.is_empty() { solved } else { format!(" {solved}") };
        median + &range + &solved
    }
}

/// The median of sorted values, of which there is at least one.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { 0.5 * (sorted[middle - 1] + sorted[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_counts_whatever_the_order() {
        let point = |seed, step, value| Metric { row: "a".into(), seed, step, metric: "acc".into(), value };
        let measured = Measured::new(&[point(0, 20, 0.9), point(0, 10, 0.1), point(1, 5, 0.3)]);
        assert_eq!(measured.seeds("a", "acc"), BTreeMap::from([(0, 0.9), (1, 0.3)]));
        assert!(measured.seeds("a", "loss").is_empty());
        assert!(measured.has_row("a") && !measured.has_row("b"));
    }

    #[test]
    fn summary_over_seeds() {
        let s = Summary::of(&[0.2, 1.0, 0.95, 0.1], Some(0.9)).unwrap();
        assert_eq!((s.median, s.min, s.max, s.seeds, s.solved), (0.575, 0.1, 1.0, 4, Some(2)));
        assert_eq!(Summary::of(&[], None), None);
    }

    #[test]
    fn a_nan_seed_shows() {
        let s = Summary::of(&[0.2, f64::NAN, 1.0], Some(0.9)).unwrap();
        assert!(s.median.is_nan() && s.min.is_nan() && s.max.is_nan());
        assert_eq!((s.seeds, s.solved), (3, Some(1)));
    }
}
