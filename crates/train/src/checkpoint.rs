//! Checkpoints: one safetensors file, written atomically, every part of it under a SHA-256.
//!
//! Tensors: each parameter under its own name, its moments under `adamw.m.NAME` and `adamw.v.NAME` (F32), and
//! the log as `log.step` (I64), `log.metric` (U8, positions in [`Metric::ALL`]) and `log.value` (F64). The header's metadata has one key,
//! `train`: the SHA-256 of a JSON object, a space, and the object: `format`, `step`, `run` (what the caller says
//! makes this run what it is: its configurations and seed), `legs` (which device made which steps; any may go on) and `sha256` of
//! each tensor. Any safetensors reader opens it.
//!
//! A file is complete or absent: it is written beside its place, synced, and renamed.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backend::{ParamSpec, Params, State};
use report::record::{sha256, write_atomic};
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Leg, Log, Metric, Point, Result};

const FORMAT: u32 = 2;
const KEY: &str = "train";
const DAMAGED: &str = "restore a copy of the file, or delete it to start over";
const OTHER_RUN: &str = "resume with the configuration it was made with, or choose another output folder";
const WRITE: &str = "free some space or choose another output folder";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    step: u64,
    run: Value,
    legs: Vec<Leg>,
    sha256: BTreeMap<String, String>,
}

/// A tensor to write; bytes are made when asked for, one tensor at a time.
enum Tensor<'a> {
    F32(&'a [usize], &'a [f32]),
    Log(Dtype, [usize; 1], Vec<u8>),
}

impl View for &Tensor<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Tensor::F32(..) => Dtype::F32,
            Tensor::Log(dtype, ..) => *dtype,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Tensor::F32(shape, _) => shape,
            Tensor::Log(_, shape, _) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Tensor::F32(_, values) => values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into(),
            Tensor::Log(_, _, bytes) => bytes.as_slice().into(),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Tensor::F32(_, values) => values.len() * 4,
            Tensor::Log(_, _, bytes) => bytes.len(),
        }
    }
}

/// Writes state and log to `path`, replacing what was there; missing folders are made. `run` is compared on
/// [`load`].
///
/// # Errors
/// [`Error::Checkpoint`] if the file cannot be written; what was there before is kept.
pub fn save(path: &Path, state: &State, log: &Log, run: &Value) -> Result<()> {
    let refuse = |what: String| Error::Checkpoint { path: path.into(), what, remedy: WRITE };
    let tensors = tensors(state, log);
    let hashes = tensors.iter().map(|(name, t)| (name.clone(), sha256(&t.data()))).collect();
    let meta = Meta { format: FORMAT, step: state.step, run: run.clone(), legs: log.legs.clone(), sha256: hashes };
    let meta = serde_json::to_string(&meta).map_err(|e| refuse(format!("metadata: {e}")))?;
    let metadata = HashMap::from([(KEY.to_string(), format!("{} {meta}", sha256(meta.as_bytes())))]);

    let views = tensors.iter().map(|(name, tensor)| (name, tensor));
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| refuse(e.to_string()))?;
    write_atomic(path, &bytes).map_err(|e| refuse(e.to_string()))
}

/// Reads state and log from `path`, for a model of these parameters and the same `run`.
///
/// # Errors
/// [`Error::Checkpoint`] naming the tensor or field that is damaged or another run's.
pub fn load(path: &Path, specs: &Arc<[ParamSpec]>, run: &Value) -> Result<(State, Log)> {
    let refuse = |what: String, remedy| Error::Checkpoint { path: path.into(), what, remedy };
    let damaged = |what: String| refuse(what, DAMAGED);
    let bytes = read_file(path)?;
    let (file, meta) = parse(path, &bytes)?;
    // Through text, as the stored one came: a float's last bit may differ otherwise.
    let run = serde_json::from_str(&run.to_string()).map_err(|e| damaged(e.to_string()))?;
    if let Some(what) = difference("run", &meta.run, &run) {
        return Err(refuse(what, OTHER_RUN));
    }
    let read = |name: &str, dtype: Dtype, shape: Option<&[usize]>| -> Result<&[u8]> {
        let tensor = file.tensor(name).map_err(|_| refuse(format!("tensor {name} is missing"), OTHER_RUN))?;
        if tensor.dtype() != dtype || shape.is_some_and(|shape| shape != tensor.shape()) {
            let have = format!("tensor {name} is {:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(refuse(format!("{have}, not {dtype:?} {:?}", shape.unwrap_or(&[])), OTHER_RUN));
        }
        if meta.sha256.get(name).is_none_or(|sum| *sum != sha256(tensor.data())) {
            return Err(damaged(format!("tensor {name} does not match its sha-256")));
        }
        Ok(tensor.data())
    };
    let params = |prefix: &str| -> Result<Params> {
        let values = specs.iter().map(|spec| {
            let bytes = read(&format!("{prefix}{}", spec.name), Dtype::F32, Some(&spec.shape))?;
            Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        });
        Ok(Params { specs: specs.clone(), values: values.collect::<Result<_>>()? })
    };
    let state = State { params: params("")?, m: params("adamw.m.")?, v: params("adamw.v.")?, step: meta.step };
    let steps = read("log.step", Dtype::I64, None)?.as_chunks().0;
    let metrics = read("log.metric", Dtype::U8, Some(&[steps.len()]))?;
    let values = read("log.value", Dtype::F64, Some(&[steps.len()]))?.as_chunks().0;
    let points = steps.iter().zip(metrics).zip(values).map(|((step, &metric), value)| {
        let metric = Metric::ALL.get(usize::from(metric));
        let metric = *metric.ok_or_else(|| damaged("tensor log.metric holds an unknown metric".into()))?;
        Ok(Point { step: i64::from_le_bytes(*step) as u64, metric, value: f64::from_le_bytes(*value) })
    });
    let log = Log { points: points.collect::<Result<_>>()?, legs: meta.legs };
    if file.len() != 3 * specs.len() + 3 {
        let what = format!("{} tensors for a model of {} parameters", file.len(), specs.len());
        return Err(refuse(what, OTHER_RUN));
    }
    Ok((state, log))
}

/// What makes the run of a checkpoint what it is: the `run` it was saved with.
///
/// # Errors
/// [`Error::Checkpoint`] if there is no such file, it is cut short, or its header is damaged.
pub fn stored_run(path: &Path) -> Result<Value> {
    Ok(parse(path, &read_file(path)?)?.1.run)
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| {
        let what = format!("cannot be read: {e}");
        Error::Checkpoint { path: path.into(), what, remedy: "check the path" }
    })
}

/// The tensors and the metadata, both still to be compared with what is asked for.
fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<(SafeTensors<'a>, Meta)> {
    let refuse = |what: String, remedy| Error::Checkpoint { path: path.into(), what, remedy };
    let damaged = |what: String| refuse(what, DAMAGED);
    let header = |e| damaged(format!("the header is damaged or the file cut short ({e:?}), {} bytes", bytes.len()));
    let (_, head) = SafeTensors::read_metadata(bytes).map_err(header)?;
    let file = SafeTensors::deserialize(bytes).map_err(header)?;
    let meta = head.metadata().as_ref().and_then(|m| m.get(KEY));
    let meta = meta.ok_or_else(|| refuse(format!("no metadata field {KEY:?}"), "give a file that training wrote"))?;
    let meta = match meta.split_once(' ') {
        Some((sum, json)) if sum == sha256(json.as_bytes()) => json,
        _ => return Err(damaged(format!("metadata field {KEY:?} does not match its sha-256"))),
    };
    let meta: Meta = serde_json::from_str(meta).map_err(|e| damaged(format!("metadata field {KEY:?}: {e}")))?;
    if meta.format != FORMAT {
        let what = format!("field format is {}, this program reads {FORMAT}", meta.format);
        return Err(refuse(what, "use the version that wrote it"));
    }
    Ok((file, meta))
}

/// Removes the checkpoint at `path`, if there is one, and what writes cut short have left beside it.
///
/// # Errors
/// [`Error::Checkpoint`] if a file cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    sweep(path)?;
    remove_file(path)
}

/// Sets the checkpoint at `path` aside, if there is one, see [`cli::set_aside`], and removes what writes cut short have
/// left beside it. Where it is then.
pub(crate) fn set_aside(path: &Path) -> Result<Option<PathBuf>> {
    sweep(path)?;
    cli::set_aside(path).map_err(|e| {
        let what = format!("cannot be renamed: {e}");
        Error::Checkpoint {
            path: path.into(),
            what,
            remedy: "go on from it with --resume, or choose another output folder",
        }
    })
}

/// Removes what writes cut short by a kill have left beside `path`: `.NAME.*.tmp`.
pub(crate) fn sweep(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = path.file_name().map(|name| format!(".{}.", name.to_string_lossy())) else { return Ok(()) };
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_left = |file: &fs::DirEntry| {
        let other = file.file_name().to_string_lossy().into_owned();
        other.starts_with(&name) && other.ends_with(".tmp")
    };
    files.filter(is_left).try_for_each(|file| remove_file(&file.path()))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let what = format!("cannot be removed: {e}");
            Err(Error::Checkpoint {
                path: path.into(),
                what,
                remedy: "remove it by hand, or choose another output folder",
            })
        }
        _ => Ok(()),
    }
}

fn tensors<'a>(state: &'a State, log: &Log) -> Vec<(String, Tensor<'a>)> {
    let mut out = Vec::new();
    for (prefix, params) in [("", &state.params), ("adamw.m.", &state.m), ("adamw.v.", &state.v)] {
        for (spec, values) in params.specs.iter().zip(&params.values) {
            out.push((format!("{prefix}{}", spec.name), Tensor::F32(&spec.shape, values)));
        }
    }
    let mut column = |name: &str, dtype, bytes: Vec<u8>| {
        out.push((name.into(), Tensor::Log(dtype, [log.points.len()], bytes)));
    };
    let points = &log.points;
    column("log.step", Dtype::I64, points.iter().flat_map(|p| (p.step as i64).to_le_bytes()).collect());
    column("log.metric", Dtype::U8, points.iter().map(|p| p.metric as u8).collect());
    column("log.value", Dtype::F64, points.iter().flat_map(|p| p.value.to_le_bytes()).collect());
    out
}

/// The first field in which the file's run and the one asked for differ, in words.
fn difference(field: &str, file: &Value, asked: &Value) -> Option<String> {
    match (file, asked) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = b.iter().filter(|(k, _)| !a.contains_key(*k)).map(|(k, v)| (k, &Value::Null, v));
            let all = a.iter().map(|(k, v)| (k, v, b.get(k).unwrap_or(&Value::Null))).chain(missing);
            all.into_iter().find_map(|(k, a, b)| difference(&format!("{field}.{k}"), a, b))
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!("field {field} is {a} in the file and {b} in this run")),
    }
}
