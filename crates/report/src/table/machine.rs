//! The table for programs. Every metric is there, at full precision; a value that is not finite is null in JSON and
//! `NaN` in csv.

use super::Table;
use crate::claim::Judged;
use crate::measured::Summary;
use crate::paper::Number;
use serde::Serialize;

#[derive(Serialize)]
struct JsonTable<'a> {
    item: &'a str,
    scale: &'a str,
    device: &'a str,
    rows: Vec<JsonRow<'a>>,
    claims: Vec<JsonClaim<'a>>,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    id: &'a str,
    metric: &'a str,
    paper: Option<JsonNumber>,
    recorded: Option<JsonSummary>,
    run: Option<JsonSummary>,
}

#[derive(Serialize)]
struct JsonNumber {
    value: Option<f64>,
    grade: &'static str,
}

#[derive(Serialize)]
struct JsonSummary {
    median: f64,
    min: f64,
    max: f64,
    seeds: usize,
    solved: Option<usize>,
}

#[derive(Serialize)]
struct JsonClaim<'a> {
    id: &'a str,
    kind: &'a str,
    verdict: &'static str,
    detail: &'a str,
}

fn number(number: &Number) -> JsonNumber {
    JsonNumber { value: number.value, grade: number.grade.name() }
}

fn summary(s: &Summary) -> JsonSummary {
    JsonSummary { median: s.median, min: s.min, max: s.max, seeds: s.seeds, solved: s.solved }
}

fn claim(judged: &Judged) -> JsonClaim<'_> {
    JsonClaim { id: &judged.id, kind: judged.kind, verdict: judged.verdict.word(), detail: &judged.detail }
}

pub(super) fn json(table: &Table) -> String {
    let rows = table.lines.iter().map(|line| JsonRow {
        id: &line.row,
        metric: &table.metrics[line.metric].id,
        paper: line.paper.as_ref().map(number),
        recorded: line.recorded.as_ref().map(summary),
        run: line.run.as_ref().map(summary),
    });
    let shape = JsonTable {
        item: &table.item,
        scale: &table.scale,
        device: &table.device,
        rows: rows.collect(),
        claims: table.claims.iter().map(claim).collect(),
    };
    // Plain structs of strings and numbers: nothing in them can fail to be JSON.
    serde_json::to_string_pretty(&shape).unwrap_or_default() + "\n"
}

pub(super) fn csv(table: &Table) -> String {
    let mut out = String::from("row,metric,paper,grade");
    for side in ["recorded", "run"] {
        for part in ["median", "min", "max", "seeds", "solved"] {
            out += &format!(",{side}_{part}");
        }
    }
    out += ",verdict\n";
    for line in &table.lines {
        let (paper, grade) = match &line.paper {
            Some(number) => (number.text.as_str(), number.grade.name()),
            None => ("", ""),
        };
        out += &format!("{},{},{paper},{grade}", line.row, table.metrics[line.metric].id);
        for side in [line.recorded, line.run] {
            out += &match side {
                None => ",".repeat(5),
                Some(s) => {
                    let solved = s.solved.map(|n| n.to_string()).unwrap_or_default();
                    format!(",{},{},{},{},{solved}", s.median, s.min, s.max, s.seeds)
                }
            };
        }
        out += &format!(",{}\n", line.verdict.map(|verdict| verdict.word()).unwrap_or_default());
    }
    out
}
