//! The lint on claims: what could never be judged.

use super::{known_metric, known_row, lint};
use crate::claim::{Claim, SAME, Test};
use crate::paper::{Direction, Error, Item};

/// The scales and device kinds that a claim may name.
const SCALES: [&str; 3] = ["smoke", "small", "paper"];
const DEVICES: [&str; 3] = ["cpu", "dfdx", "cuda"];

/// A claim on known rows that runs measure, at known scales and devices, with numbers that make sense.
pub(super) fn check(id: &str, item: &Item, claim: &Claim) -> Result<(), Error> {
    known_metric(id, item, &claim.metric, &claim.id)?;
    for row in claim.test.rows() {
        known_row(id, item, row, &claim.id)?;
    }
    let printed_only = |row: &&&str| item.row(row).is_some_and(|row| row.paper_only);
    if let Some(row) = claim.test.subjects().iter().find(printed_only) {
        let what = format!("claim `{}` is about `{row}`, which no run measures", claim.id);
        return lint(id, what, "name a row without paper_only");
    }
    for (name, given, known) in [("scale", &claim.scales, SCALES), ("device", &claim.devices, DEVICES)] {
        let unknown = given.iter().find(|value| !known.contains(&value.as_str()));
        if given.is_empty() || unknown.is_some() {
            let value = unknown.map_or("none", String::as_str);
            let what = format!("claim `{}` names {name} `{value}`", claim.id);
            return lint(id, what, "scales are smoke, small, paper; devices cpu, dfdx, cuda");
        }
    }
    testable(id, item, claim)
}

/// A claim whose own numbers make sense.
fn testable(id: &str, item: &Item, claim: &Claim) -> Result<(), Error> {
    let place = format!("claim `{}`", claim.id);
    let directed = item.metric(&claim.metric).is_some_and(|m| m.direction != Direction::None);
    match &claim.test {
        Test::Ordering { sides, .. } if sides.len() < 2 || sides.iter().any(Vec::is_empty) => {
            lint(id, format!("{place} orders fewer than two sides"), "name at least two, none empty")
        }
        Test::Ordering { .. } if !directed => {
            lint(id, format!("{place} orders a metric without direction"), "set its direction to up or down")
        }
        Test::Within { rel, abs, .. } if rel.is_some() == abs.is_some() => {
            lint(id, format!("{place} needs a width"), "give either rel or abs")
        }
        Test::Within { of: None, rows, .. } | Test::Exact { rows } => printed(id, item, claim, rows),
        Test::Ratio { of, to, .. } => printed(id, item, claim, &[of.clone(), to.clone()]),
        Test::Bound { rows, at_least, at_most, at_least_paper, at_most_paper } => {
            let given = [at_least.is_some(), at_most.is_some(), at_least_paper.is_some(), at_most_paper.is_some()];
            if given.iter().filter(|given| **given).count() != 1 {
                return lint(id, format!("{place} needs one bound"), "give one of at_least, at_most, *_paper");
            }
            match at_least_paper.as_ref().or(at_most_paper.as_ref()) {
                None => Ok(()),
                Some(row) if row == SAME => printed(id, item, claim, rows),
                Some(row) => printed(id, item, claim, std::slice::from_ref(row)),
            }
        }
        _ => Ok(()),
    }
}

/// A claim against the paper's numbers needs them in the csv, if only as unknown.
fn printed(id: &str, item: &Item, claim: &Claim, rows: &[String]) -> Result<(), Error> {
    for row in rows {
        if item.number(row, &claim.metric).is_none() {
            let what = format!("claim `{}` compares with ({row}, {}), which the csv lacks", claim.id, claim.metric);
            return lint(id, what, "add the number, graded U if unknown");
        }
    }
    Ok(())
}
