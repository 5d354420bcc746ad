//! The table for a terminal, 100 columns wide. Ranges that do not fit are left to the other formats, first those of
//! the recorded column.

use super::grid::{Column, PAGE, lay_out, wrap};
use super::{Line, Table, level, mark};
use crate::claim::Verdict;
use crate::measured::Summary;

pub(super) fn render(table: &Table) -> String {
    let mut out = format!("{}\n", table.title);
    if !table.caption.is_empty() {
        out += &wrap("", &format!("Paper: \"{}\"", table.caption));
    }
    let metrics = table.shown_metrics();
    match metrics.as_slice() {
        [one] => out += &format!("{}\n", one.title()),
        several => several.iter().for_each(|m| out += &format!("  {:<18} {}\n", m.id, m.title())),
    }
    let spread = "median and min–max over seeds";
    match metrics.iter().find_map(|m| m.solved_at) {
        Some(at) => out += &format!("{spread}; solved: seeds that reached {at}\n"),
        None => out += &format!("{spread}\n"),
    }
    table.origins().iter().for_each(|origin| out += &wrap("", origin));
    out.push('\n');
    out += &body(table);
    let legend = table.legend();
    if !legend.is_empty() {
        out.push('\n');
        out += &wrap("grades: ", &legend.join("; "));
    }
    for (place, note) in table.footnotes().iter().enumerate() {
        out += &wrap(&format!("  [{}] ", place + 1), note);
    }
    for note in &table.notes {
        out += &wrap("note: ", note);
    }
    out.push('\n');
    out + &claims(table)
}

/// The header, a rule, and the lines under their groups' headings.
fn body(table: &Table) -> String {
    let lines: Vec<&Line> = table.shown().collect();
    let widest = |(header, rows): &(Vec<String>, Vec<String>)| {
        header.iter().chain(rows).map(|line| line.chars().count()).max().unwrap_or(0)
    };
    let mut laid = lay_out(&columns(table, &lines, true, true));
    for (recorded, run) in [(false, true), (false, false)] {
        if widest(&laid) > PAGE {
            laid = lay_out(&columns(table, &lines, recorded, run));
        }
    }
    let rule = "─".repeat(widest(&laid).min(PAGE));
    let (header, rows) = laid;
    let mut out = String::new();
    for line in header {
        out += &format!("{line}\n");
    }
    out += &format!("{rule}\n");
    for (index, (line, row)) in lines.iter().zip(&rows).enumerate() {
        if index == 0 || lines[index - 1].group != line.group {
            out += &format!("{}\n", line.group);
        }
        out += &format!("{}\n", row.trim_end());
    }
    out
}

/// The columns, with or without the range over seeds of the recorded values and of this run's.
fn columns(table: &Table, lines: &[&Line], recorded_range: bool, run_range: bool) -> Vec<Column> {
    let column = |over: &str, head: &str, right: bool, gap: usize, cell: &dyn Fn(usize, &Line) -> String| Column {
        over: over.into(),
        head: head.into(),
        right,
        gap,
        cells: lines.iter().enumerate().map(|(index, line)| cell(index, line)).collect(),
    };
    let mut columns = vec![column("", "", false, 2, &|index, line| {
        // A row of several metrics is named once.
        let again = index > 0 && lines[index - 1].row == line.row;
        if again { String::new() } else { line.label.clone() }
    })];
    if table.shown_metrics().len() > 1 {
        columns.push(column("", "", false, 2, &|_, line| table.metrics[line.metric].id.clone()));
    }
    let footnotes = table.footnotes();
    let paper = |line: &Line, part: usize| {
        let Some(number) = &line.paper else {
            return String::new();
        };
        let shown = number.shown();
        match (part, shown.rsplit_once(' ')) {
            (2, _) => mark(number, &footnotes),
            (0, Some((value, _))) => value.into(),
            (1, Some((_, grade))) => grade.into(),
            (1, None) => shown,
            _ => String::new(),
        }
    };
    columns.push(column("paper", "", true, 2, &|_, line| paper(line, 0)));
    columns.push(column("", "", false, 1, &|_, line| paper(line, 1)));
    if !footnotes.is_empty() {
        columns.push(column("", "", false, 1, &|_, line| paper(line, 2)));
    }
    let recorded: fn(&Line) -> Option<Summary> = |line| line.recorded;
    let run: fn(&Line) -> Option<Summary> = |line| line.run;
    let sides = [
        ("recorded", table.recorded.is_some(), recorded, recorded_range),
        ("this run", table.run.is_some(), run, run_range),
    ];
    for (name, _, pick, range) in sides.into_iter().filter(|side| side.1) {
        let cell = |line: &Line, part: usize| match pick(line) {
            Some(summary) => summary.parts(&table.metrics[line.metric])[part].clone(),
            None if part == 0 => "-".into(),
            None => String::new(),
        };
        columns.push(column(name, "median", true, 2, &|_, line| cell(line, 0)));
        for (part, head, wanted) in [(1, "min–max", range), (2, "solved", true)] {
            if wanted && lines.iter().any(|line| !cell(line, part).is_empty()) {
                columns.push(column("", head, true, 1, &|_, line| cell(line, part)));
            }
        }
    }
    columns.push(column("verdict", "", false, 2, &|_, line| {
        line.verdict.map(|verdict| verdict.word().to_string()).unwrap_or_default()
    }));
    columns
}

/// The tally, the claims that were judged or could have been, and one line for those stated for elsewhere.
fn claims(table: &Table) -> String {
    let mut out = format!("{}\n", table.tally());
    for claim in table.claims.iter().filter(|claim| claim.applies) {
        out += &wrap(&format!("  {:<5} ", claim.verdict.word()), &claim.says);
        out += &wrap("        ", &format!("{} ({}): {}", claim.id, claim.kind, claim.detail));
    }
    if table.judged_over_seeds() {
        out += &wrap("  ", &level());
    }
    let elsewhere: Vec<&str> = table.claims.iter().filter(|c| !c.applies).map(|c| c.id.as_str()).collect();
    if !elsewhere.is_empty() {
        let place = format!("stated for other scales or devices than {} on {}: ", table.scale, table.device);
        out += &wrap(&format!("  {:<5} ", Verdict::Skip.word()), &(place + &elsewhere.join(", ")));
    }
    out
}
