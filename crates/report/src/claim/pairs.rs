//! One row, or the mean of several, against another, seed by seed.

use super::LEVEL;
use super::judge::{Judge, Part, held, short, strs, width};
use super::stats::sign_flip_p;
use crate::measured::{Summary, median};
use crate::paper::Direction;

/// Two sides, paired by seed.
struct Pairs {
    /// The median of each side.
    medians: (f64, f64),
    /// By how much the first side is better, per seed.
    better: Vec<f64>,
    /// +1 where larger is better, -1 where smaller is.
    sign: f64,
    /// The share of solved runs of each side, where the metric defines it.
    solved: Option<(f64, f64)>,
}

impl Judge<'_> {
    /// Side `a` against side `b`, seed by seed: by how much `a` is better, and each side's values.
    fn paired(&self, a: &[&str], b: &[&str]) -> Result<Pairs, Part> {
        let rows: Vec<&str> = a.iter().chain(b).copied().collect();
        let shared = self.gather(&rows)?;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let left: Vec<f64> = shared.values().map(|v| mean(&v[..a.len()])).collect();
        let right: Vec<f64> = shared.values().map(|v| mean(&v[a.len()..])).collect();
        let sign = if self.metric.direction == Direction::Down { -1.0 } else { 1.0 };
        let better = left.iter().zip(&right).map(|(l, r)| sign * (l - r)).collect();
        let solved = |range: std::ops::Range<usize>| {
            let values: Vec<f64> = shared.values().flat_map(|v| v[range.clone()].iter().copied()).collect();
            let counted = Summary::of(&values, self.metric.solved_at).and_then(|s| s.solved);
            counted.map(|n| n as f64 / values.len() as f64)
        };
        let (solved_a, solved_b) = (solved(0..a.len()), solved(a.len()..rows.len()));
        Ok(Pairs { medians: (middle(&left), middle(&right)), better, sign, solved: solved_a.zip(solved_b) })
    }

    pub(super) fn above(&self, a: &[String], b: &[String], margin: f64) -> Part {
        let (a, b) = (strs(a), strs(b));
        let pairs = match self.paired(&a, &b) {
            Err(part) => return part,
            Ok(pairs) => pairs,
        };
        let gain = pairs.sign * (pairs.medians.0 - pairs.medians.1) + margin;
        let solved = margin > 0.0 || pairs.solved.is_none_or(|(a, b)| a >= b);
        let (evidence, tail) = self.evidence(&pairs.better, margin);
        let asked = match (margin > 0.0, pairs.sign > 0.0) {
            (true, _) => format!("not worse by more than {margin}"),
            (false, true) => "asked above".into(),
            (false, false) => "asked below".into(),
        };
        let share = match pairs.solved {
            Some((a, b)) if margin == 0.0 => {
                format!(", solved {:.0} % and {:.0} %", 100.0 * a, 100.0 * b)
            }
            _ => String::new(),
        };
        let (left, right) = (self.show(pairs.medians.0), self.show(pairs.medians.1));
        let detail = format!("{} {left} and {} {right}, {asked}{share}{tail}", short(&a), short(&b));
        (held(gain > 0.0 && solved && evidence), detail)
    }

    pub(super) fn near_row(&self, row: &str, of: &str, rel: Option<f64>, abs: Option<f64>) -> Part {
        let pairs = match self.paired(&[row], &[of]) {
            Err(part) => return part,
            Ok(pairs) => pairs,
        };
        let width = width(pairs.medians.1, rel, abs);
        let worse: Vec<f64> = pairs.better.iter().map(|d| -d).collect();
        let (above, _) = self.evidence(&pairs.better, width);
        let (below, _) = self.evidence(&worse, width);
        let near = (pairs.medians.0 - pairs.medians.1).abs() <= width;
        let seeds = if self.metric.over_seeds { format!(" over {} seeds", worse.len()) } else { String::new() };
        let (left, right) = (self.show(pairs.medians.0), self.show(pairs.medians.1));
        let detail = format!("{row} {left} and {of} {right}{seeds}, asked within {}", trim(width));
        (held(near && above && below), detail)
    }

    /// Whether the differences plus `margin` are positive by the sign-flip test, and how to say so. Metrics that do
    /// not vary with the seed need no test.
    fn evidence(&self, better: &[f64], margin: f64) -> (bool, String) {
        if !self.metric.over_seeds {
            return (true, String::new());
        }
        let shifted: Vec<f64> = better.iter().map(|d| d + margin).collect();
        let p = sign_flip_p(&shifted);
        (p <= LEVEL, format!(", p = {p:.3} over {} seeds", better.len()))
    }
}

fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median(&sorted)
}

/// At most four decimals, without trailing zeros.
fn trim(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}
