//! A run as plain data: `run.json`, `metrics.csv` and `curve.csv` in one flat folder.
//!
//! - `run.json`: a [`RunRecord`]: where, when from which source, with which configuration.
//! - `metrics.csv`: `row,seed,step,metric,value`, the last step of each (row, seed, metric).
//! - `curve.csv`: the same columns, every series of more than one step, thinned to [`CURVE_POINTS`] points.
//!
//! Files are written whole under another name, then renamed, `run.json` last; it holds the hashes of the other two.
//! So a folder is either a record or refused by [`read`] with an error that names the file, what is wrong with it and
//! the remedy.

mod files;
mod series;

pub use files::{sha256, write_atomic};
pub use series::{CURVE_POINTS, from_csv, split, to_csv};

use crate::measured::Metric;
use crate::plan::config_hash;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The version of this layout.
pub const SCHEMA: u32 = 1;

/// What produced the numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The item, such as `figure-recall`.
    pub item: String,
    /// `smoke`, `small` or `paper`.
    pub scale: String,
    /// Where it ran.
    pub device: Device,
    /// What ran.
    pub source: Source,
    /// The day it was finished, UTC, as `2026-01-31`.
    pub date: String,
    /// The type of the arithmetic, such as `f32` or `bf16`.
    pub dtype: String,
    /// Every seed that some row ran.
    pub seeds: Vec<u64>,
    /// The command that measures the same again.
    pub command: String,
    /// Seconds, summed over rows.
    pub wall_s: f64,
    /// SHA-256 of each GPU kernels' source that may have run, by file; empty where none ran.
    pub kernels_sha256: BTreeMap<String, String>,
    /// SHA-256 of each data file read, by name; empty where all data is generated from the seed.
    pub data_sha256: BTreeMap<String, String>,
    /// The rows, in the plan's order.
    pub rows: Vec<RowRecord>,
    /// SHA-256 of `metrics.csv` and, if there are curves, `curve.csv`; filled in by [`write()`].
    pub files: BTreeMap<String, String>,
}

/// A device that rows run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// `cpu`, `dfdx` or `cuda`: what claims name.
    pub kind: String,
    /// The hardware, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// CPU threads used.
    pub threads: usize,
    /// The GPU driver's version.
    pub driver: Option<String>,
    /// The CUDA version.
    pub cuda: Option<String>,
}

/// The source that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The commit; `unknown` without git.
    pub git_rev: String,
    /// Whether the work tree differed from it; none without git.
    pub dirty: Option<bool>,
    /// The compiler's version.
    pub rustc: String,
    /// SHA-256 of Cargo.lock.
    pub lockfile_sha256: String,
}

/// One row of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowRecord {
    /// The row's id.
    pub id: String,
    /// The seeds that it ran.
    pub seeds: Vec<u64>,
    /// The commit at which it was measured: a resumed run may span several.
    pub git_rev: String,
    /// Seconds.
    pub wall_s: f64,
    /// [`config_hash`] of `config`.
    pub config_sha256: String,
    /// The resolved configuration, whole.
    pub config: toml::Table,
    /// What the rest of the record does not say of it, such as steps made on another device than [`RunRecord::device`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// A record with its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// `run.json`.
    pub record: RunRecord,
    /// `metrics.csv`.
    pub metrics: Vec<Metric>,
    /// `curve.csv`.
    pub curve: Vec<Metric>,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is cut short or is not of its format.
    #[error("{path}: broken or cut short: {message}; restore it or run again")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        message: String,
    },
    /// A file is not the one that `run.json` was written with.
    #[error("{path}: sha256 is {found}, run.json says {expected}; restore it or run again")]
    Hash {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// The hash in `run.json`.
        expected: String,
    },
    /// The files parse and contradict one another.
    #[error("{path}: {what}; restore it or run again")]
    Schema {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The kernels, by file, that are no longer those that ran. Files that are new since changed nothing that ran.
pub fn changed_kernels(then: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    if then.is_empty() {
        return now.keys().cloned().collect();
    }
    then.iter().filter(|(file, hash)| now.get(*file) != Some(hash)).map(|(file, _)| file.clone()).collect()
}

/// Writes a run into `folder`, which is created. Fills in `record.files`.
pub fn write(folder: &Path, mut run: Run) -> Result<(), Error> {
    run.record.files.clear();
    let curve = (!run.curve.is_empty()).then_some(&run.curve);
    for (name, metrics) in std::iter::once(("metrics.csv", &run.metrics)).chain(curve.map(|c| ("curve.csv", c))) {
        let text = to_csv(metrics);
        run.record.files.insert(name.into(), sha256(text.as_bytes()));
        write_atomic(&folder.join(name), text.as_bytes())?;
    }
    let path = folder.join("run.json");
    let broken = |e: serde_json::Error| Error::Broken { path: path.clone(), message: e.to_string() };
    let json = serde_json::to_string_pretty(&run.record).map_err(broken)? + "\n";
    write_atomic(&path, json.as_bytes())
}

/// Reads a run from `folder` and checks it whole.
pub fn read(folder: &Path) -> Result<Run, Error> {
    let path = folder.join("run.json");
    let record: RunRecord = serde_json::from_slice(&files::read(&path)?)
        .map_err(|e| Error::Broken { path: path.clone(), message: e.to_string() })?;
    let refuse = |what: String| Err(Error::Schema { path: path.clone(), what });
    if record.schema != SCHEMA {
        return refuse(format!("schema {} is not {SCHEMA}, the one this build reads", record.schema));
    }
    for row in &record.rows {
        let found = config_hash(&row.config);
        if found != row.config_sha256 {
            return refuse(format!("row {} has config_sha256 {}, its config {found}", row.id, row.config_sha256));
        }
    }
    if !record.files.contains_key("metrics.csv") {
        return refuse("files lacks metrics.csv".into());
    }
    let metrics = values(folder, "metrics.csv", &record)?;
    let curve = if record.files.contains_key("curve.csv") { values(folder, "curve.csv", &record)? } else { Vec::new() };
    Ok(Run { record, metrics, curve })
}

fn values(folder: &Path, name: &str, record: &RunRecord) -> Result<Vec<Metric>, Error> {
    let path = folder.join(name);
    let bytes = files::read(&path)?;
    let found = sha256(&bytes);
    let expected = record.files.get(name).cloned().unwrap_or_default();
    if found != expected {
        return Err(Error::Hash { path, found, expected });
    }
    let metrics = from_csv(&bytes).map_err(|message| Error::Broken { path: path.clone(), message })?;
    let mut seen = BTreeSet::new();
    for m in &metrics {
        let what = format!("(row {}, seed {}, step {}, metric {})", m.row, m.seed, m.step, m.metric);
        let known = record.rows.iter().any(|row| row.id == m.row && row.seeds.contains(&m.seed));
        if !known {
            return Err(Error::Schema { path, what: format!("{what} is of no row and seed in run.json") });
        }
        if !seen.insert((&m.row, m.seed, m.step, &m.metric)) {
            return Err(Error::Schema { path, what: format!("{what} stands twice") });
        }
    }
    Ok(metrics)
}

#[cfg(test)]
#[path = "record/tests.rs"]
mod tests;
