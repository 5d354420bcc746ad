//! From measured values to a verdict.

use super::{Claim, MIN_SEEDS, Test};
use crate::measured::Measured;
use crate::paper::{Item, Metric};
use std::collections::BTreeMap;

/// How a claim fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Ok,
    /// It does not hold, or a value is not finite.
    Off,
    /// It was not judged; the detail says why.
    Skip,
}

impl Verdict {
    /// `ok`, `off` or `skip`.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Off => "off",
            Verdict::Skip => "skip",
        }
    }
}

/// A claim with its verdict and the numbers, or the reason, behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The claim's id.
    pub id: String,
    /// `ordering`, `within`, ...
    pub kind: &'static str,
    /// The claim in words.
    pub says: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The numbers of an `ok` or `off`, the reason of a `skip`.
    pub detail: String,
    /// Whether the claim is stated for this scale and device; if not, it is skipped for that reason.
    pub applies: bool,
    /// Whether its metric varies with the seed, so that an interval or a test over seeds decides.
    pub over_seeds: bool,
    /// What each row under test has of the verdict: the part that is about it, however the others fared. Of an
    /// ordering, the rows of a side have the verdict against the next side; those of the last side have none.
    pub by_row: Vec<(String, Verdict)>,
}

/// A verdict with the numbers or the reason behind it.
pub(super) type Part = (Verdict, String);

/// The part of a claim that is about some rows.
type About<'a> = (Vec<&'a str>, Part);

/// Every claim of the item, in order.
pub fn judge_all(item: &Item, measured: &Measured, scale: &str, device: &str) -> Vec<Judged> {
    item.claims.iter().map(|claim| judge(item, claim, measured, scale, device)).collect()
}

/// One claim on values measured at `scale` on a device of kind `device` (`cpu`, `dfdx`, `cuda`).
pub fn judge(item: &Item, claim: &Claim, measured: &Measured, scale: &str, device: &str) -> Judged {
    let scale_applies = claim.scales.iter().any(|s| s == scale);
    let device_applies = claim.devices.iter().any(|d| d == device);
    let skipped = |reason: String| vec![(claim.test.subjects(), (Verdict::Skip, reason))];
    let parts = if !scale_applies {
        skipped(format!("stated for scale {}, not {scale}", claim.scales.join(" and ")))
    } else if !device_applies {
        skipped(format!("stated for device {}, not {device}", claim.devices.join(" and ")))
    } else {
        match item.metric(&claim.metric) {
            None => skipped(format!("the item has no metric {}", claim.metric)),
            Some(metric) => Judge { item, metric, measured }.parts(&claim.test),
        }
    };
    let (verdict, detail) = all(&parts);
    let of_row = |(rows, part): &About| rows.iter().map(|row| (row.to_string(), part.0)).collect::<Vec<_>>();
    Judged {
        id: claim.id.clone(),
        kind: claim.test.kind(),
        says: claim.says.clone(),
        verdict,
        detail,
        applies: scale_applies && device_applies,
        over_seeds: item.metric(&claim.metric).is_some_and(|metric| metric.over_seeds),
        by_row: parts.iter().flat_map(of_row).collect(),
    }
}

/// Off if a part is off, else skip if a part is skipped, else ok; with the details of the deciding parts.
fn all(parts: &[About]) -> Part {
    const SHOWN: usize = 3;
    let has = |verdict| parts.iter().any(|(_, part)| part.0 == verdict);
    let worst = if has(Verdict::Off) {
        Verdict::Off
    } else if has(Verdict::Skip) || parts.is_empty() {
        Verdict::Skip
    } else {
        Verdict::Ok
    };
    let mut details: Vec<&str> = Vec::new();
    for (_, (_, detail)) in parts.iter().filter(|(_, part)| part.0 == worst) {
        if !details.contains(&detail.as_str()) {
            details.push(detail);
        }
    }
    let more = details.len().saturating_sub(SHOWN);
    details.truncate(SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    (worst, details.join("; ") + &more)
}

pub(super) fn held(holds: bool) -> Verdict {
    if holds { Verdict::Ok } else { Verdict::Off }
}

/// A claim's item, metric and measured values.
pub(super) struct Judge<'a> {
    pub(super) item: &'a Item,
    pub(super) metric: &'a Metric,
    measured: &'a Measured,
}

impl Judge<'_> {
    fn parts<'a>(&self, test: &'a Test) -> Vec<About<'a>> {
        fn each<'a>(rows: &'a [String], part: impl Fn(&str) -> Part) -> Vec<About<'a>> {
            rows.iter().map(|row| (vec![row.as_str()], part(row))).collect()
        }
        match test {
            Test::Exact { rows } => each(rows, |row| self.exact(row)),
            Test::Within { rows, of: None, rel, abs } => each(rows, |row| self.near_paper(row, *rel, *abs)),
            Test::Within { rows, of: Some(of), rel, abs } => each(rows, |row| self.near_row(row, of, *rel, *abs)),
            Test::Ratio { of, to, rel } => vec![(vec![of.as_str()], self.ratio(of, to, *rel))],
            Test::Ordering { sides, margin } => {
                let pair = |pair: &'a [Vec<String>]| (strs(&pair[0]), self.above(&pair[0], &pair[1], *margin));
                sides.windows(2).map(pair).collect()
            }
            Test::Bound { rows, at_least, at_most, at_least_paper, at_most_paper } => each(rows, |row| {
                let low = self.limit(row, *at_least, at_least_paper.as_deref());
                let high = self.limit(row, *at_most, at_most_paper.as_deref());
                match (low, high) {
                    (Err(part), _) | (_, Err(part)) => part,
                    (Ok(low), Ok(high)) => self.inside(row, low, high),
                }
            }),
        }
    }

    pub(super) fn show(&self, value: f64) -> String {
        format!("{value:.*}", self.metric.decimals)
    }

    /// Values by seed of several rows, on the seeds that all of them share. A value that is not finite is `off` even
    /// when another row is missing.
    pub(super) fn gather(&self, rows: &[&str]) -> Result<BTreeMap<u64, Vec<f64>>, Part> {
        let cells: Vec<_> = rows.iter().map(|row| self.measured.seeds(row, &self.metric.id)).collect();
        for (row, cell) in rows.iter().zip(&cells) {
            if let Some((seed, value)) = cell.iter().find(|(_, value)| !value.is_finite()) {
                return Err((Verdict::Off, format!("{row} is {value} at seed {seed}")));
            }
        }
        let missing: Vec<&str> =
            rows.iter().zip(&cells).filter(|(_, cell)| cell.is_empty()).map(|(row, _)| *row).collect();
        if !missing.is_empty() {
            return Err((Verdict::Skip, format!("not run: {}", missing.join(", "))));
        }
        let mut shared: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for &seed in cells[0].keys() {
            if let Some(values) = cells.iter().map(|cell| cell.get(&seed).copied()).collect() {
                shared.insert(seed, values);
            }
        }
        let needed = if self.metric.over_seeds { MIN_SEEDS } else { 1 };
        if shared.len() < needed {
            let common = if rows.len() > 1 { " in common" } else { "" };
            let reason = format!("{} of {} seeds needed{common}: {}", shared.len(), needed, short(rows));
            return Err((Verdict::Skip, reason));
        }
        Ok(shared)
    }
}

/// The width of `within`: absolute, or relative to the target.
pub(super) fn width(target: f64, rel: Option<f64>, abs: Option<f64>) -> f64 {
    abs.unwrap_or_else(|| rel.unwrap_or(0.0) * target.abs())
}

pub(super) fn strs(rows: &[String]) -> Vec<&str> {
    rows.iter().map(String::as_str).collect()
}

/// Rows in a few words: the first and the last of them.
pub(super) fn short(rows: &[&str]) -> String {
    match rows {
        [] => String::new(),
        [one] => (*one).to_string(),
        [first, second] => format!("{first}, {second}"),
        [first, .., last] => format!("{first} to {last}"),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
