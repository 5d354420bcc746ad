//! The lint on an item's files: what parses and is still wrong.

mod claims;

use super::{Error, Grade, Item, Number, NumberLine};
use crate::figure::{Kind, Named, Spec};
use crate::scaling;
use std::collections::BTreeSet;

fn lint<T>(item: &str, what: String, remedy: &'static str) -> Result<T, Error> {
    Err(Error::Lint { item: item.into(), what, remedy })
}

/// One csv line as a number: a value that parses, absent exactly when the grade is U.
pub(super) fn number(item: &str, line: NumberLine) -> Result<Number, Error> {
    let place = format!("({}, {})", line.row, line.metric);
    let value = match (line.value.as_str(), line.grade) {
        ("", Grade::U) => None,
        ("", grade) => {
            return lint(item, format!("{place} has grade {} and no value", grade.name()), "grade it U");
        }
        (text, Grade::U) => {
            return lint(item, format!("{place} has grade U and the value {text}"), "leave the value empty");
        }
        (text, _) => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Some(value),
            _ => {
                return lint(item, format!("{place} has the value `{text}`"), "write a finite number");
            }
        },
    };
    if line.source.is_empty() {
        return lint(item, format!("{place} has no source"), "say where it was read");
    }
    Ok(Number {
        row: line.row,
        metric: line.metric,
        value,
        text: line.value,
        unit: line.unit,
        grade: line.grade,
        source: line.source,
        note: line.note,
    })
}

/// Ids unique and known, units equal, claims testable.
pub(super) fn item(id: &str, item: &Item) -> Result<(), Error> {
    if item.id != id {
        return lint(id, format!("the id inside is `{}`", item.id), "name file and item alike");
    }
    if item.caption.is_empty() != (item.caption_grade == Grade::U) {
        return lint(id, "caption and caption_grade disagree".into(), "an unknown caption is empty and graded U");
    }
    unique(id, "row", item.rows().map(|row| row.id.as_str()))?;
    unique(id, "metric", item.metrics.iter().map(|metric| metric.id.as_str()))?;
    unique(id, "claim", item.claims.iter().map(|claim| claim.id.as_str()))?;
    unique(id, "figure", item.figures.iter().map(|figure| figure.id.as_str()))?;

    let mut cells = BTreeSet::new();
    for number in &item.numbers {
        let (row, metric) = (number.row.as_str(), number.metric.as_str());
        if !cells.insert((row, metric)) {
            return lint(id, format!("({row}, {metric}) stands twice in the csv"), "keep one");
        }
        known_row(id, item, row, "the csv")?;
        let Some(of) = item.metric(metric) else {
            return lint(id, format!("the csv's metric `{metric}` is not in the toml"), "add a [[metric]]");
        };
        if of.unit != number.unit {
            let what = format!("({row}, {metric}) is in `{}`, its metric in `{}`", number.unit, of.unit);
            return lint(id, what, "use one unit");
        }
    }
    for row in item.rows().filter(|row| row.paper_only) {
        if !item.numbers.iter().any(|number| number.row == row.id) {
            return lint(id, format!("row `{}` is paper_only without a number", row.id), "drop it or add its number");
        }
    }
    item.figures.iter().try_for_each(|spec| figure(id, item, spec))?;
    item.scaling.iter().try_for_each(|spec| scaling(id, item, spec))?;
    item.claims.iter().try_for_each(|claim| claims::check(id, item, claim))
}

/// A figure that some rows fill.
fn figure(id: &str, item: &Item, figure: &Spec) -> Result<(), Error> {
    for metric in std::iter::once(&figure.metric).chain(&figure.x_metric) {
        known_metric(id, item, metric, &figure.id)?;
    }
    if (figure.kind == Kind::Lines) != figure.x_metric.is_some() {
        let what = format!("figure `{}` and its x_metric disagree", figure.id);
        return lint(id, what, "kind lines has an x_metric, kind dots has none");
    }
    for part in &figure.categories {
        let row = |series: &Named| item.row(&format!("{}.{}", part.id, series.id)).is_some();
        if !figure.series.iter().any(row) {
            let what = format!("category `{}` of figure `{}` has no row", part.id, figure.id);
            return lint(id, what, "row ids are <category>.<series>");
        }
    }
    Ok(())
}

/// A fit whose series have rows and whose derived values have a row and metrics.
fn scaling(id: &str, item: &Item, spec: &scaling::Spec) -> Result<(), Error> {
    for metric in [spec.x.as_str(), spec.y.as_str()].into_iter().chain(scaling::DERIVED) {
        known_metric(id, item, metric, "[[scaling]]")?;
    }
    for one in std::iter::once(&spec.baseline).chain(&spec.variants) {
        known_row(id, item, &one.row, "[[scaling]]")?;
        if !item.rows().any(|row| row.id.ends_with(&format!(".{}", one.series))) {
            let what = format!("series `{}` of [[scaling]] has no row", one.series);
            return lint(id, what, "row ids are <size>.<series>");
        }
    }
    Ok(())
}

fn unique<'a>(id: &str, kind: &str, ids: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for each in ids {
        if !seen.insert(each) {
            return lint(id, format!("{kind} `{each}` stands twice in the toml"), "keep one");
        }
    }
    Ok(())
}

fn known_row(id: &str, item: &Item, row: &str, user: &str) -> Result<(), Error> {
    if item.row(row).is_none() {
        return lint(id, format!("row `{row}` of {user} is used by no group of the toml"), "add it to a [[group]]");
    }
    Ok(())
}

fn known_metric(id: &str, item: &Item, metric: &str, user: &str) -> Result<(), Error> {
    if item.metric(metric).is_none() {
        return lint(id, format!("metric `{metric}` of {user} is not in the toml"), "add a [[metric]]");
    }
    Ok(())
}
