//! A figure as data (and csv), and as SVG: one point per row, a bar from minimum to maximum over seeds.
//!
//! A figure is a grid: its row ids are `<category>.<series>`. Kind `dots` puts the categories side by side, kind
//! `lines` puts them at the value of `x_metric` on a logarithmic axis and joins the points of a series. The paper's
//! own numbers, where known, are hollow squares. Categories and series without any value are left out.
//! The same values give the same bytes: the SVG holds no date, no random id and no font metrics of the machine.

mod svg;

use crate::measured::{Measured, Summary};
use crate::paper::{Grade, Item};
use serde::Deserialize;

/// A figure of `paper/<item>.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Unique within its item; the name of its files.
    pub id: String,
    /// Dots by category or lines over x.
    pub kind: Kind,
    /// The title.
    pub title: String,
    /// The metric on the y axis.
    pub metric: String,
    /// The metric on the x axis, for [`Kind::Lines`].
    pub x_metric: Option<String>,
    /// The y axis from and to; fitted to the values without it.
    pub range: Option<[f64; 2]>,
    /// The first part of the row ids, in order.
    pub categories: Vec<Named>,
    /// The second part of the row ids, in order.
    pub series: Vec<Named>,
}

/// How a figure is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Categories side by side.
    Dots,
    /// Points joined over a logarithmic x axis.
    Lines,
}

/// An id with its label.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Part of a row id.
    pub id: String,
    /// In words.
    pub label: String,
}

/// A figure's data.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// From the spec.
    pub id: String,
    /// From the spec.
    pub kind: Kind,
    /// From the spec.
    pub title: String,
    /// The x axis in words; empty for dots.
    pub x_label: String,
    /// The y axis in words.
    pub y_label: String,
    /// The y axis from and to.
    pub range: Option<[f64; 2]>,
    /// Labels of the categories that have a value.
    pub categories: Vec<String>,
    /// The series that have a value.
    pub series: Vec<Series>,
}

/// The points of one variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In words.
    pub label: String,
    /// Its place in the spec, which fixes its colour and marker whatever else is shown.
    pub place: usize,
    /// Its points, by category.
    pub points: Vec<Point>,
}

/// One row in a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Index into [`Figure::categories`].
    pub category: usize,
    /// The x value of [`Kind::Lines`]: the median of `x_metric`.
    pub x: Option<f64>,
    /// Ours; none if not run.
    pub run: Option<Summary>,
    /// The paper's, where known and not inferred by us.
    pub paper: Option<f64>,
}

/// The data of one figure of an item.
pub fn build(item: &Item, spec: &Spec, measured: &Measured) -> Figure {
    let summary = |row: &str, metric: &str| item.metric(metric).and_then(|metric| measured.summary(row, metric));
    let point = |category: usize, row: &str| {
        let x = spec.x_metric.as_ref().and_then(|metric| summary(row, metric)).map(|s| s.median);
        let paper = item.number(row, &spec.metric).filter(|number| number.grade != Grade::I);
        Point { category, x, run: summary(row, &spec.metric), paper: paper.and_then(|number| number.value) }
    };
    let drawn = |p: &Point| (p.run.is_some() || p.paper.is_some()) && (spec.kind == Kind::Dots || p.x.is_some());
    let mut categories: Vec<String> = Vec::new();
    let mut series: Vec<Series> = Vec::new();
    for (place, one) in spec.series.iter().enumerate() {
        series.push(Series { label: one.label.clone(), place, points: Vec::new() });
    }
    for category in &spec.categories {
        let rows = spec.series.iter().map(|one| format!("{}.{}", category.id, one.id));
        let points: Vec<Point> = rows.map(|row| point(categories.len(), &row)).collect();
        if points.iter().any(drawn) {
            categories.push(category.label.clone());
            for (one, point) in series.iter_mut().zip(points) {
                one.points.extend(Some(point).filter(drawn));
            }
        }
    }
    series.retain(|one| !one.points.is_empty());
    let title = |id: &String| item.metric(id).map(|metric| metric.title()).unwrap_or_default();
    Figure {
        id: spec.id.clone(),
        kind: spec.kind,
        title: spec.title.clone(),
        x_label: spec.x_metric.as_ref().map(title).unwrap_or_default(),
        y_label: title(&spec.metric),
        range: spec.range,
        categories,
        series,
    }
}

impl Figure {
    /// Whether no run has a value in it.
    pub fn is_empty(&self) -> bool {
        !self.series.iter().flat_map(|one| &one.points).any(|point| point.run.is_some())
    }

    /// The data as csv: `category,series,x,median,min,max,seeds,paper`; what is not known is empty.
    pub fn csv(&self) -> String {
        let mut text = String::from("category,series,x,median,min,max,seeds,paper\n");
        let number = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
        for (index, category) in self.categories.iter().enumerate() {
            for one in &self.series {
                for point in one.points.iter().filter(|point| point.category == index) {
                    let run = |pick: fn(&Summary) -> f64| number(point.run.as_ref().map(pick));
                    let seeds = point.run.map(|s| s.seeds.to_string()).unwrap_or_default();
                    let (median, min, max) = (run(|s| s.median), run(|s| s.min), run(|s| s.max));
                    let (x, paper) = (number(point.x), number(point.paper));
                    let label = &one.label;
                    text += &format!("\"{category}\",\"{label}\",{x},{median},{min},{max},{seeds},{paper}\n");
                }
            }
        }
        text
    }

    /// The figure as SVG.
    pub fn svg(&self) -> Result<String, Error> {
        svg::draw(self).map_err(|message| Error { id: self.id.clone(), message })
    }
}

/// A figure that could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("figure {id}: {message}; check the values in its csv")]
pub struct Error {
    id: String,
    message: String,
}

#[cfg(test)]
#[path = "figure/tests.rs"]
mod tests;
