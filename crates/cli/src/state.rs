//! The finished rows of a run, kept as they finish: `state.jsonl`, one line per row.
//!
//! A line is appended and flushed to the disk when its row is done, so that a kill loses nothing finished. A last
//! line cut short is a row that was not finished: it is dropped. Any other broken line is an error.

use crate::{Error, set_aside};
use report::measured::Metric;
use report::record::{from_csv, to_csv, write_atomic};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const NAME: &str = "state.jsonl";

/// A finished row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finished {
    /// What was measured, how, and in how long.
    pub(crate) head: Head,
    /// The last value of each seed and metric.
    pub(crate) metrics: Vec<Metric>,
    /// The thinned curves.
    pub(crate) curve: Vec<Metric>,
}

/// What identifies a finished row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The row's id.
    pub(crate) row: String,
    /// The seeds that ran.
    pub(crate) seeds: Vec<u64>,
    /// The device's kind and name.
    pub(crate) device: String,
    /// Hash of the configuration.
    pub(crate) config_sha256: String,
    /// The commit.
    pub(crate) git_rev: String,
    /// Seconds.
    pub(crate) wall_s: f64,
    /// What else the record must say.
    #[serde(default)]
    pub(crate) remarks: Vec<String>,
    /// Hashes of the data read so far, by file: a resumed run may read none itself.
    #[serde(default)]
    pub(crate) data_sha256: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    head: Head,
    metrics: String,
    curve: String,
}

/// The open state of a run.
pub(crate) struct State {
    path: PathBuf,
    file: File,
    /// The rows finished so far, the latest last.
    pub(crate) rows: Vec<Finished>,
}

impl State {
    /// Opens the state in `folder`: with `resume` the rows already there, else none. A state that is not resumed is
    /// set aside, not lost; where it is then is the second value.
    pub(crate) fn open(folder: &Path, resume: bool) -> Result<(State, Option<PathBuf>), Error> {
        let path = folder.join(NAME);
        let (mut rows, mut old) = (Vec::new(), None);
        let existing = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > 0);
        if existing && resume {
            rows = load(&path)?;
        } else if existing {
            old = set_aside(&path).map_err(|e| io(&path, e))?;
        }
        // Also drops a last line that was cut short, so that the next one starts a line of its own.
        let text: Result<Vec<String>, Error> = rows.iter().map(line).collect();
        write_atomic(&path, text?.concat().as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| io(&path, e))?;
        Ok((State { path, file, rows }, old))
    }

    /// Adds a finished row, on the disk before this returns.
    pub(crate) fn push(&mut self, row: Finished) -> Result<(), Error> {
        let text = line(&row)?;
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()).map_err(|e| io(&self.path, e))?;
        self.rows.push(row);
        Ok(())
    }
}

fn io(path: &Path, e: std::io::Error) -> Error {
    Error::config(format!("{}: {e}", path.display()))
}

fn line(row: &Finished) -> Result<String, Error> {
    let line = Line { head: row.head.clone(), metrics: to_csv(&row.metrics), curve: to_csv(&row.curve) };
    serde_json::to_string(&line).map(|text| text + "\n").map_err(Error::config)
}

fn load(path: &Path) -> Result<Vec<Finished>, Error> {
    let bytes = std::fs::read(path).map_err(|e| io(path, e))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let broken = |number: usize, what: String| {
        let message = format!("{}: line {}: broken: {what}", path.display(), number + 1);
        Error::config(message).hint("delete that line, or run without --resume")
    };
    let mut rows = Vec::new();
    for (number, text) in bytes[..whole].split(|byte| *byte == b'\n').filter(|text| !text.is_empty()).enumerate() {
        let line: Line = serde_json::from_slice(text).map_err(|e| broken(number, e.to_string()))?;
        let values = |csv: &str| from_csv(csv.as_bytes()).map_err(|e| broken(number, e));
        rows.push(Finished { metrics: values(&line.metrics)?, curve: values(&line.curve)?, head: line.head });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> Finished {
        let point = |step, value| Metric { row: id.into(), seed: 0, step, metric: "accuracy".into(), value };
        Finished {
            head: Head {
                row: id.into(),
                seeds: vec![0],
                device: "cpu".into(),
                config_sha256: "00".into(),
                git_rev: "abc".into(),
                wall_s: 0.5,
                remarks: vec!["seed 0 moved".into()],
                data_sha256: BTreeMap::from([("val.tok".into(), "ff".into())]),
            },
            metrics: vec![point(9, 0.1 + 0.2)],
            curve: vec![point(1, 1e-300), point(9, 0.1 + 0.2)],
        }
    }

    #[test]
    fn a_kill_at_any_byte_keeps_the_whole_rows() {
        let folder = tempfile::tempdir().unwrap();
        let (mut state, _) = State::open(folder.path(), false).unwrap();
        state.push(row("a")).unwrap();
        let one = std::fs::metadata(&state.path).unwrap().len() as usize;
        state.push(row("b")).unwrap();
        let whole = std::fs::read(&state.path).unwrap();
        for len in (0..whole.len()).step_by(37).chain([one, whole.len() - 1, whole.len()]) {
            std::fs::write(folder.path().join(NAME), &whole[..len]).unwrap();
            let (mut state, old) = State::open(folder.path(), true).unwrap();
            let kept = usize::from(len >= one) + usize::from(len == whole.len());
            assert_eq!(state.rows, [row("a"), row("b")][..kept], "cut to {len}");
            assert_eq!(old, None);
            state.push(row("c")).unwrap();
            let (state, _) = State::open(folder.path(), true).unwrap();
            assert_eq!(state.rows.last(), Some(&row("c")), "cut to {len}");
        }
    }

    #[test]
    fn nan_is_kept_and_a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (mut state, _) = State::open(folder.path(), false).unwrap();
        let mut broken = row("a");
        broken.metrics[0].value = f64::NAN;
        state.push(broken).unwrap();
        assert!(State::open(folder.path(), true).unwrap().0.rows[0].metrics[0].value.is_nan());
        let path = folder.path().join(NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{{}}\n{text}")).unwrap();
        let error = State::open(folder.path(), true).err().unwrap();
        assert!(error.message.contains("state.jsonl: line 1: broken") && error.hint.is_some(), "{}", error.message);
    }

    #[test]
    fn what_is_not_resumed_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        for id in ["a", "b"] {
            State::open(folder.path(), false).unwrap().0.push(row(id)).unwrap();
        }
        let (state, old) = State::open(folder.path(), false).unwrap();
        assert!(state.rows.is_empty());
        assert_eq!(old, Some(folder.path().join("state.old-2.jsonl")));
        for (number, id) in [(1, "a"), (2, "b")] {
            let rows = load(&folder.path().join(format!("state.old-{number}.jsonl"))).unwrap();
            assert_eq!(rows, [row(id)]);
        }
    }
}
