//! The paper's numbers, each with its grade, and what an item (a table or figure) consists of.
//!
//! `paper/<item>.csv` holds the numbers, `row,metric,value,unit,grade,source,note`; `paper/<item>.toml` the caption,
//! metrics, rows in order, figures and claims. Both are embedded, so a binary stands alone.
//! [`parse`] refuses what the lint refuses: every error names the item, the line or id, and the remedy.

mod check;
mod number;

pub use number::{Grade, Number};

use crate::claim::Claim;
use crate::figure::Spec;
use crate::scaling;
use serde::Deserialize;

/// Which way a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Larger is better.
    Up,
    /// Smaller is better.
    Down,
    /// Neither, such as a parameter count.
    None,
}

impl Direction {
    /// The arrow of a column header, with a space before it; empty for [`Direction::None`].
    pub fn arrow(self) -> &'static str {
        match self {
            Direction::Up => " ↑",
            Direction::Down => " ↓",
            Direction::None => "",
        }
    }
}

/// A measured quantity of an item.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Such as `accuracy`.
    pub id: String,
    /// In words.
    pub label: String,
    /// The unit; empty for a bare number.
    pub unit: String,
    /// Which way is better.
    pub direction: Direction,
    /// Digits after the point when our own value is printed.
    pub decimals: usize,
    /// Whether a value varies with the seed; a claim on such a metric needs [`crate::claim::MIN_SEEDS`] seeds.
    #[serde(default = "yes")]
    pub over_seeds: bool,
    /// A seed has solved the task from this value on; the share of such seeds is printed.
    pub solved_at: Option<f64>,
    /// Whether text and markdown tables show it; JSON and CSV always do.
    #[serde(default = "yes")]
    pub in_table: bool,
}

impl Metric {
    /// `accuracy ↑ (share)`: label, arrow and unit.
    pub fn title(&self) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" ({})", self.unit) };
        format!("{}{}{unit}", self.label, self.direction.arrow())
    }
}

fn yes() -> bool {
    true
}

/// A row of an item.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Such as `varkey.lowrank`.
    pub id: String,
    /// In words, under its group's label.
    pub label: String,
    /// A row of printed numbers alone, that no run measures.
    #[serde(default)]
    pub paper_only: bool,
}

/// Rows under one heading.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The heading.
    pub label: String,
    /// The rows, in order.
    pub rows: Vec<Row>,
}

/// A table or figure of the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Such as `table-3`.
    pub id: String,
    /// The heading that we give it.
    pub title: String,
    /// The paper's own caption, verbatim; empty if unknown.
    pub caption: String,
    /// The caption's grade.
    pub caption_grade: Grade,
    /// Remarks on the whole item.
    pub notes: Vec<String>,
    /// The metrics, in column order.
    pub metrics: Vec<Metric>,
    /// The rows, in order, under their headings.
    pub groups: Vec<Group>,
    /// The figures drawn from it.
    pub figures: Vec<Spec>,
    /// The laws fitted to it.
    pub scaling: Vec<scaling::Spec>,
    /// The claims judged on it.
    pub claims: Vec<Claim>,
    /// The paper's numbers.
    pub numbers: Vec<Number>,
}

impl Item {
    /// All rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.groups.iter().flat_map(|group| &group.rows)
    }

    /// The rows that no run measures: what [`scaling`] derives.
    pub fn derived_rows(&self) -> impl Iterator<Item = &str> {
        self.scaling
            .iter()
            .flat_map(|spec| std::iter::once(&spec.baseline).chain(&spec.variants))
            .map(|one| one.row.as_str())
    }

    /// The row of that id.
    pub fn row(&self, id: &str) -> Option<&Row> {
        self.rows().find(|row| row.id == id)
    }

    /// The metric of that id.
    pub fn metric(&self, id: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.id == id)
    }

    /// The paper's number; `None` where the paper has no such cell (an unknown value is a number of grade U).
    pub fn number(&self, row: &str, metric: &str) -> Option<&Number> {
        self.numbers.iter().find(|number| number.row == row && number.metric == metric)
    }
}

/// Why the files of an item were refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such item.
    #[error("there is no item `{id}`; the items are {known}")]
    Unknown {
        /// The id asked for.
        id: String,
        /// Those that exist.
        known: String,
    },
    /// The toml file does not have the shape of an item.
    #[error("paper/{item}.toml: {message}")]
    Toml {
        /// The item.
        item: String,
        /// What the parser says.
        message: String,
    },
    /// A line of the csv file does not have the columns or a known grade.
    #[error("paper/{item}.csv: {message}")]
    Csv {
        /// The item.
        item: String,
        /// What the parser says, with the line.
        message: String,
    },
    /// The files parse and contradict themselves or one another.
    #[error("paper/{item}: {what}; {remedy}")]
    Lint {
        /// The item.
        item: String,
        /// What is wrong, with the ids.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
}

macro_rules! embedded {
    ($($id:literal),*) => {
        /// The id, toml text and csv text of every item under paper/.
        pub const EMBEDDED: &[(&str, &str, &str)] = &[$((
            $id,
            include_str!(concat!("../../../paper/", $id, ".toml")),
            include_str!(concat!("../../../paper/", $id, ".csv")),
        )),*];
    };
}
embedded!("table-1", "table-2", "table-3", "table-4", "figure-recall", "figure-scaling", "nanogpt", "setup");

/// The item of that id, from the embedded files.
pub fn item(id: &str) -> Result<Item, Error> {
    let found = EMBEDDED.iter().find(|(known, ..)| *known == id);
    let (id, toml, csv) = found.ok_or_else(|| Error::Unknown {
        id: id.into(),
        known: EMBEDDED.iter().map(|(known, ..)| *known).collect::<Vec<_>>().join(", "),
    })?;
    parse(id, toml, csv)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemFile {
    id: String,
    title: String,
    caption: String,
    caption_grade: Grade,
    notes: Vec<String>,
    metric: Vec<Metric>,
    group: Vec<Group>,
    #[serde(default)]
    figure: Vec<Spec>,
    #[serde(default)]
    scaling: Vec<scaling::Spec>,
    #[serde(default)]
    claim: Vec<Claim>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NumberLine {
    row: String,
    metric: String,
    value: String,
    unit: String,
    grade: Grade,
    source: String,
    note: String,
}

/// An item from the text of its two files, checked.
pub fn parse(id: &str, toml_text: &str, csv_text: &str) -> Result<Item, Error> {
    let file: ItemFile =
        toml::from_str(toml_text).map_err(|e| Error::Toml { item: id.into(), message: e.to_string() })?;
    let mut numbers = Vec::new();
    for line in csv::Reader::from_reader(csv_text.as_bytes()).deserialize() {
        let line: NumberLine = line.map_err(|e| Error::Csv { item: id.into(), message: e.to_string() })?;
        numbers.push(check::number(id, line)?);
    }
    let item = Item {
        id: file.id,
        title: file.title,
        caption: file.caption,
        caption_grade: file.caption_grade,
        notes: file.notes,
        metrics: file.metric,
        groups: file.group,
        figures: file.figure,
        scaling: file.scaling,
        claims: file.claim,
        numbers,
    };
    check::item(id, &item)?;
    Ok(item)
}

#[cfg(test)]
mod tests;
