//! A table: rows x (the paper's value, the recorded one, this run's, the verdict), and the claims summed up.
//!
//! [`build`] makes the data; [`Table::render`] prints it as text (100 columns), markdown, json or csv. Words carry the
//! verdict. An inferred number is printed `~` with its grade I, an unknown one as U, an absent one as nothing.

mod grid;
mod machine;
mod markdown;
mod text;

use crate::claim::{Judged, LEVEL, MIN_SEEDS, Verdict, judge_all};
use crate::measured::{Measured, Summary};
use crate::paper::{Item, Metric, Number, Row};

/// Measured values and where they come from.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// The values.
    pub measured: &'a Measured,
    /// The scale at which they were measured.
    pub scale: &'a str,
    /// The device's kind, `cpu`, `dfdx` or `cuda`.
    pub device: &'a str,
    /// The hardware in words.
    pub hardware: &'a str,
    /// Why a recorded value no longer stands for today's source; none if it does.
    pub stale: Option<&'a str>,
}

/// A table's data.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The item.
    pub item: String,
    /// Its heading.
    pub title: String,
    /// The paper's caption; empty if unknown.
    pub caption: String,
    /// The scale that the verdicts are about.
    pub scale: String,
    /// The device kind that the verdicts are about.
    pub device: String,
    /// Scale and hardware of the recorded column; none without a record.
    pub recorded: Option<String>,
    /// Scale and hardware of this run's column; none if nothing was run.
    pub run: Option<String>,
    /// The metrics of the lines.
    pub metrics: Vec<Metric>,
    /// One line per row and metric.
    pub lines: Vec<Line>,
    /// The claims, judged on this run, or on the record where nothing was run.
    pub claims: Vec<Judged>,
    /// Remarks on the item, and on a stale record.
    pub notes: Vec<String>,
}

/// One row and metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The heading above the row.
    pub group: String,
    /// The row's id.
    pub row: String,
    /// The row in words.
    pub label: String,
    /// The metric, an index into [`Table::metrics`].
    pub metric: usize,
    /// The paper's number; none where the paper has no such cell.
    pub paper: Option<Number>,
    /// The recorded value.
    pub recorded: Option<Summary>,
    /// This run's value.
    pub run: Option<Summary>,
    /// What the claims say of this row and metric (see [`Judged::by_row`]): off if a part about it is off, else ok if one
    /// is ok, else skip; none where no claim is about it.
    pub verdict: Option<Verdict>,
}

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Text,
    /// For a README.
    Markdown,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
}

/// The table of an item. Shown are the `rows` named, in the item's order, and with them the printed-only rows of
/// their groups and of groups that have no other rows.
pub fn build(item: &Item, rows: &[String], recorded: Option<Column>, run: Option<Column>) -> Table {
    let judged_on = run.or(recorded);
    let claims = judged_on.map(|c| judge_all(item, c.measured, c.scale, c.device)).unwrap_or_default();
    let header = |column: Column| {
        let stale = if column.stale.is_some() { " (stale)" } else { "" };
        format!("scale {} on {}{stale}", column.scale, column.hardware)
    };
    let mut notes = item.notes.clone();
    notes.extend(recorded.and_then(|c| c.stale).map(|reason| format!("The recorded values are stale: {reason}.")));
    let mut lines = Vec::new();
    for group in &item.groups {
        let named = |row: &Row| rows.contains(&row.id);
        let extras = group.rows.iter().any(named) || group.rows.iter().all(|row| row.paper_only);
        for row in group.rows.iter().filter(|row| named(row) || (row.paper_only && extras)) {
            let of_row = |index: usize, metric: &Metric| Line {
                group: group.label.clone(),
                row: row.id.clone(),
                label: row.label.clone(),
                metric: index,
                paper: item.number(&row.id, &metric.id).cloned(),
                recorded: recorded.and_then(|c| c.measured.summary(&row.id, metric)),
                run: run.and_then(|c| c.measured.summary(&row.id, metric)),
                verdict: verdict(item, &claims, &row.id, &metric.id),
            };
            let cells: Vec<Line> = item.metrics.iter().enumerate().map(|(index, m)| of_row(index, m)).collect();
            let filled = |line: &Line| line.paper.is_some() || line.recorded.is_some() || line.run.is_some();
            let before = lines.len();
            lines.extend(cells.iter().filter(|line| filled(line)).cloned());
            if lines.len() == before {
                // A row without any value is still a row.
                lines.extend(cells.into_iter().take(1));
            }
        }
    }
    Table {
        item: item.id.clone(),
        title: item.title.clone(),
        caption: item.caption.clone(),
        scale: judged_on.map(|c| c.scale.to_string()).unwrap_or_default(),
        device: judged_on.map(|c| c.device.to_string()).unwrap_or_default(),
        recorded: recorded.map(header),
        run: run.map(header),
        metrics: item.metrics.clone(),
        lines,
        claims,
        notes,
    }
}

fn verdict(item: &Item, claims: &[Judged], row: &str, metric: &str) -> Option<Verdict> {
    let about = item.claims.iter().zip(claims).filter(|(claim, _)| claim.metric == metric);
    let parts = about.flat_map(|(_, judged)| &judged.by_row).filter(|(of, _)| of == row);
    let verdicts: Vec<Verdict> = parts.map(|(_, verdict)| *verdict).collect();
    [Verdict::Off, Verdict::Ok, Verdict::Skip].into_iter().find(|v| verdicts.contains(v))
}

impl Table {
    /// Whether some claim is off.
    pub fn is_off(&self) -> bool {
        self.claims.iter().any(|claim| claim.verdict == Verdict::Off)
    }

    /// The table in a format, ending with a newline.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => text::render(self),
            Format::Markdown => markdown::render(self),
            Format::Json => machine::json(self),
            Format::Csv => machine::csv(self),
        }
    }

    /// `claims: 2 ok, 1 off, 3 skip`.
    pub fn tally(&self) -> String {
        let count = |verdict| self.claims.iter().filter(|claim| claim.verdict == verdict).count();
        format!("claims: {} ok, {} off, {} skip", count(Verdict::Ok), count(Verdict::Off), count(Verdict::Skip))
    }

    /// `recorded: scale small on ...` and `this run: ...`, for the columns that there are.
    fn origins(&self) -> Vec<String> {
        let recorded = self.recorded.iter().map(|origin| format!("recorded: {origin}"));
        recorded.chain(self.run.iter().map(|origin| format!("this run: {origin}"))).collect()
    }

    /// Whether a claim over seeds was judged.
    fn judged_over_seeds(&self) -> bool {
        self.claims.iter().any(|claim| claim.verdict != Verdict::Skip && claim.over_seeds)
    }

    /// The lines that people see: those of metrics meant for tables.
    fn shown(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| self.metrics[line.metric].in_table)
    }

    /// The metrics among the shown lines, in order.
    fn shown_metrics(&self) -> Vec<&Metric> {
        let used = |index: usize| self.shown().any(|line| line.metric == index);
        self.metrics.iter().enumerate().filter(|(index, _)| used(*index)).map(|(_, metric)| metric).collect()
    }

    /// `V transcribed once`, ... for the grades among the shown lines.
    fn legend(&self) -> Vec<String> {
        let mut grades: Vec<_> = self.shown().filter_map(|line| line.paper.as_ref()).map(|n| n.grade).collect();
        grades.sort();
        grades.dedup();
        grades.iter().map(|grade| format!("{} {}", grade.name(), grade.meaning())).collect()
    }

    /// The notes on shown numbers, without repetition; a number's mark is its place here, from 1.
    fn footnotes(&self) -> Vec<&str> {
        let mut notes: Vec<&str> = Vec::new();
        for number in self.shown().filter_map(|line| line.paper.as_ref()) {
            if !number.note.is_empty() && !notes.contains(&number.note.as_str()) {
                notes.push(&number.note);
            }
        }
        notes
    }
}

/// What an `ok` over seeds means.
fn level() -> String {
    format!(
        "over seeds: ok at p <= {LEVEL} of the one-sided sign-flip test, which {MIN_SEEDS} seeds reach only if all agree; \
         an interval covers the true median with the share given, and all of it has to lie where the claim asks"
    )
}

/// ` [2]`, the mark of a number's note among the footnotes; empty without one.
fn mark(number: &Number, footnotes: &[&str]) -> String {
    let place = footnotes.iter().position(|note| *note == number.note);
    place.map(|place| format!("[{}]", place + 1)).unwrap_or_default()
}

#[cfg(test)]
#[path = "table/tests.rs"]
mod tests;
