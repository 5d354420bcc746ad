//! `--list` and `--print-config`.

use crate::Error;
use report::paper::Item;
use report::plan::{Plan, Row};
use serde::Serialize;

/// Scales, rows with the scales they belong to, and records.
pub(crate) fn list(item: &Item, plan: &Plan, records: &[String]) -> Result<String, Error> {
    let mut out = format!("{}: {}\n\nrows\n", item.id, item.title);
    let mut resolved = Vec::new();
    for scale in plan.scales() {
        resolved.push((scale, plan.resolve(scale, None)?));
    }
    for group in &item.groups {
        for row in &group.rows {
            let scales = resolved.iter().filter(|(_, rows)| rows.iter().any(|r| r.id == row.id));
            let scales: Vec<&str> = scales.map(|(scale, _)| *scale).collect();
            if !scales.is_empty() {
                let label = format!("{}: {}", group.label, row.label);
                out += &format!("  {:<30} {label} ({})\n", row.id, scales.join(", "));
            }
        }
    }
    out += "\nrecords\n";
    if records.is_empty() {
        out += "  none\n";
    }
    records.iter().for_each(|name| out += &format!("  {name}\n"));
    Ok(out)
}

#[derive(Serialize)]
struct Printed<'a> {
    scale: &'a str,
    row: Vec<PrintedRow<'a>>,
}

#[derive(Serialize)]
struct PrintedRow<'a> {
    id: &'a str,
    seeds: &'a [u64],
    config_sha256: &'a str,
    config: &'a toml::Table,
}

/// The resolved rows, as toml or as JSON.
pub(crate) fn config(scale: &str, rows: &[Row], json: bool) -> Result<String, Error> {
    let row = rows.iter().map(|row| PrintedRow {
        id: &row.id,
        seeds: &row.seeds,
        config_sha256: &row.config_sha256,
        config: &row.config,
    });
    let printed = Printed { scale, row: row.collect() };
    if json {
        serde_json::to_string_pretty(&printed).map(|text| text + "\n").map_err(Error::config)
    } else {
        toml::to_string(&printed).map_err(Error::config)
    }
}
