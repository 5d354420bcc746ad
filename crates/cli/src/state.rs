//! The finished rows of a run, kept as they finish: `state.jsonl`, one line per row.
//!
//! A line is appended and flushed to the disk when its row is done, so that a kill loses nothing finished. A last
//! line cut short is a row that was not finished: it is dropped. Any other broken line is an error. A line without values
//! is of a process that stopped or failed in its row: what it spent counts when the row is done. A killed one leaves none.

use crate::{Error, set_aside};
use report::measured::Metric;
use report::plan::Row;
use report::record::{from_csv, to_csv, write_atomic};
use serde::{Deserialize, Deserializer, Serialize};
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

/// What identifies a finished row, or what one process did of an unfinished one.
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
    /// Whether the work tree differed from it; none where that is not known.
    #[serde(default)]
    pub(crate) dirty: Option<bool>,
    /// Hashes of the GPU kernels' sources that may have run, by file.
    #[serde(default, deserialize_with = "by_file")]
    pub(crate) kernels_sha256: BTreeMap<String, String>,
    /// Seconds; of a finished row those of every process.
    pub(crate) wall_s: f64,
    /// What else the record must say.
    #[serde(default)]
    pub(crate) remarks: Vec<String>,
    /// Hashes of the data read so far, by file: a resumed run may read none itself.
    #[serde(default)]
    pub(crate) data_sha256: BTreeMap<String, String>,
}

/// Earlier versions wrote one hash over all files, or null: of no use for a file alone.
fn by_file<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        ByFile(BTreeMap<String, String>),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Written::deserialize(from)? {
        Written::ByFile(hashes) => hashes,
        Written::Other(_) => BTreeMap::new(),
    })
}

#[derive(Serialize, Deserialize)]
struct Line {
    head: Head,
    #[serde(flatten)]
    values: Option<Values>,
}

#[derive(Serialize, Deserialize)]
struct Values {
    metrics: String,
    curve: String,
}

/// The open state of a run.
pub(crate) struct State {
    path: PathBuf,
    file: File,
    /// The rows finished so far, the latest last.
    pub(crate) rows: Vec<Finished>,
    /// What processes before this one did of rows that are not finished.
    parts: Vec<Head>,
}

impl State {
    /// Opens the state in `folder`: with `resume` the rows already there, else none. A state that is not resumed is
    /// set aside, not lost; where it is then is the second value.
    pub(crate) fn open(folder: &Path, resume: bool) -> Result<(State, Option<PathBuf>), Error> {
        let path = folder.join(NAME);
        let (mut rows, mut parts, mut old) = (Vec::new(), Vec::new(), None);
        let existing = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > 0);
        if existing && resume {
            (rows, parts) = load(&path)?;
        } else if existing {
            old = set_aside(&path).map_err(|e| io(&path, e))?;
        }
        // Also drops a last line that was cut short, so that the next one starts a line of its own.
        let text: Result<Vec<String>, Error> = rows.iter().map(line).chain(parts.iter().map(part_line)).collect();
        write_atomic(&path, text?.concat().as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| io(&path, e))?;
        Ok((State { path, file, rows, parts }, old))
    }

    /// Adds a finished row, on the disk before this returns.
    pub(crate) fn push(&mut self, row: Finished) -> Result<(), Error> {
        self.append(&line(&row)?)?;
        self.parts.retain(|part| part.row != row.head.row);
        self.rows.push(row);
        Ok(())
    }

    /// Adds what a process did of a row that it did not finish.
    pub(crate) fn push_part(&mut self, part: Head) -> Result<(), Error> {
        self.append(&part_line(&part)?)?;
        self.parts.push(part);
        Ok(())
    }

    /// What earlier processes did of an unfinished row, on whatever device.
    pub(crate) fn parts(&self, row: &Row) -> impl Iterator<Item = &Head> {
        self.parts
            .iter()
            .filter(|part| part.row == row.id && part.config_sha256 == row.config_sha256 && part.seeds == row.seeds)
    }

    fn append(&mut self, text: &str) -> Result<(), Error> {
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()).map_err(|e| io(&self.path, e))
    }
}

fn io(path: &Path, e: std::io::Error) -> Error {
    Error::config(format!("{}: {e}", path.display()))
}

fn line(row: &Finished) -> Result<String, Error> {
    json(&row.head, Some(Values { metrics: to_csv(&row.metrics), curve: to_csv(&row.curve) }))
}

fn part_line(part: &Head) -> Result<String, Error> {
    json(part, None)
}

fn json(head: &Head, values: Option<Values>) -> Result<String, Error> {
    serde_json::to_string(&Line { head: head.clone(), values }).map(|text| text + "\n").map_err(Error::config)
}

/// The finished rows, and the parts of those not finished after them.
fn load(path: &Path) -> Result<(Vec<Finished>, Vec<Head>), Error> {
    let bytes = std::fs::read(path).map_err(|e| io(path, e))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let broken = |number: usize, what: String| {
        let message = format!("{}: line {}: broken: {what}", path.display(), number + 1);
        Error::config(message).hint("delete that line, or run without --resume")
    };
    let (mut rows, mut parts): (_, Vec<Head>) = (Vec::new(), Vec::new());
    let lines = bytes[..whole].split(|byte| *byte == b'\n').enumerate();
    for (number, text) in lines.filter(|(_, text)| !text.is_empty()) {
        let line: Line = serde_json::from_slice(text).map_err(|e| broken(number, e.to_string()))?;
        let values = |csv: &str| from_csv(csv.as_bytes()).map_err(|e| broken(number, e));
        match line.values {
            None => parts.push(line.head),
            Some(Values { metrics, curve }) => {
                parts.retain(|part| part.row != line.head.row);
                rows.push(Finished { metrics: values(&metrics)?, curve: values(&curve)?, head: line.head });
            }
        }
    }
    Ok((rows, parts))
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
                dirty: Some(true),
                kernels_sha256: BTreeMap::from([("a.cu".into(), "cc".into())]),
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
    fn parts_count_until_their_row_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let planned =
            |id: &str, seeds| Row { id: id.into(), seeds, config: toml::Table::new(), config_sha256: "00".into() };
        let part = |id: &str, wall_s| Head { wall_s, ..row(id).head };
        let (mut state, _) = State::open(folder.path(), false).unwrap();
        for part in [part("a", 1.0), part("b", 2.0), part("a", 4.0)] {
            state.push_part(part).unwrap();
        }
        let seconds = |state: &State, id| state.parts(&planned(id, vec![0])).map(|part| part.wall_s).sum::<f64>();
        let (mut state, _) = State::open(folder.path(), true).unwrap();
        assert_eq!((seconds(&state, "a"), seconds(&state, "b")), (5.0, 2.0));
        assert_eq!(state.parts(&planned("a", vec![0, 1])).count(), 0, "of other seeds");
        state.push(row("a")).unwrap();
        assert_eq!((seconds(&state, "a"), seconds(&state, "b")), (0.0, 2.0));
        let (mut state, _) = State::open(folder.path(), true).unwrap();
        assert_eq!((seconds(&state, "a"), seconds(&state, "b")), (0.0, 2.0));
        // Measured again, with other kernels say, and stopped.
        state.push_part(part("a", 8.0)).unwrap();
        let (state, _) = State::open(folder.path(), true).unwrap();
        assert_eq!((seconds(&state, "a"), state.rows.len()), (8.0, 1));
    }

    #[test]
    fn a_line_of_an_earlier_version_reads() {
        let values = "row,seed,step,metric,value\\na,0,9,accuracy,0.5\\n";
        for kernels in ["", r#","kernels_sha256":null"#, r#","kernels_sha256":"cc""#] {
            let head = r#"{"row":"a","seeds":[0],"device":"cpu","config_sha256":"00","git_rev":"abc","wall_s":0.5"#;
            let folder = tempfile::tempdir().unwrap();
            let line = format!("{{\"head\":{head}{kernels}}},\"metrics\":\"{values}\",\"curve\":\"{values}\"}}\n");
            std::fs::write(folder.path().join(NAME), line).unwrap();
            let rows = State::open(folder.path(), true).unwrap().0.rows;
            let head = &rows[0].head;
            assert_eq!((rows[0].metrics[0].value, head.dirty, head.kernels_sha256.len()), (0.5, None, 0), "{kernels}");
        }
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
            assert_eq!(rows.0, [row(id)]);
        }
    }
}
