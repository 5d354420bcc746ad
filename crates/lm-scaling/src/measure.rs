//! Trains a row over its seeds and reads off what it measured.

use std::collections::BTreeMap;
use std::path::Path;

use backend::Backend;
use data::text::{Corpus, Error as TextError};
use report::measured::Metric;
use serde_json::{Map, json};
use train::{End, Event, Job, Options, Outcome, forget, train_all};

use crate::held_out::Texts;
use crate::{CorpusSource, Error, Result, Row, WithoutData};

/// Asks a row's trained model, which the backend holds, for values by name; the text has its held-out rows. Empty for
/// rows of a system that it does not concern.
pub type Probe = fn(&Row, &Corpus, &mut dyn Backend) -> train::Result<Vec<(&'static str, f64)>>;

/// What a row measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Every value, of finished seeds only: see [`measure`].
    pub points: Vec<Metric>,
    /// Whether every run came to its end; otherwise the deadline stopped some.
    pub complete: bool,
    /// SHA-256 of the text's tokens by file; empty if the text was not at hand.
    pub data_sha256: BTreeMap<String, String>,
    /// Why nothing was trained, if only parameters were counted.
    pub counted: Option<String>,
    /// Which metrics of the row's probes are left out, and why.
    pub left_out: Vec<String>,
}

/// Trains a row once per seed; `data` is the folder of prepared texts.
///
/// Metrics, each by seed:
///
/// | metric | unit | of |
/// |---|---|---|
/// | `params`, `active_params` | millions | trained values, tied ones once; those that a token meets |
/// | `loss`, `ppl`, `bpb` | nats a token, its exponential, bits per byte of text | held-out rows, every evaluation |
/// | `best_loss` | nats a token | the least `loss` |
/// | `train_loss` | nats a token | the logged steps |
/// | `initial_loss`, `initial_grad_norm` | | the first step |
/// | `flops` | FLOP | the whole training, see [`backend::Tape::flops`]: forward times 3 |
/// | `tokens_per_s` | tokens a second | training alone, of this process; side by side with the other seeds |
/// | `train_s` | seconds | the whole training at that rate |
///
/// and what the probes find, those given here and those that the row names (see [`crate::HeldOut`]).
///
/// A run that diverges has NaN for what is held out. Each run keeps a checkpoint until the whole row is complete.
///
/// # Errors
/// If the row does not fit, the text cannot be read (unless the row says to count then), what its probes read is
/// damaged, a checkpoint cannot be read or written, or the device fails.
pub fn measure(
    id: &str,
    row: &Row,
    seeds: &[u64],
    data: Option<&Path>,
    probes: &[Probe],
    options: &Options,
    listen: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Measured> {
    row.check()?;
    let counts: Vec<Metric> = seeds.iter().flat_map(|&seed| counts(id, seed, row)).flatten().collect();
    let corpus = match row.data.open(data) {
        Err(e @ TextError::Text { .. }) if row.without_data == WithoutData::Count => {
            let counted = Some(e.to_string());
            return Ok(Measured { points: counts, complete: true, counted, ..Measured::default() });
        }
        opened => opened?,
    };
    if corpus.vocab() as usize > row.model.vocab {
        let what = format!("{}, but the text has {} different tokens", row.model.vocab, corpus.vocab());
        return Err(Error::Row { field: "model.vocab", what, remedy: "give the text's, or more" });
    }
    let held_out = Texts::load(row, data)?;
    let sources: Vec<_> = seeds.iter().map(|&seed| CorpusSource { corpus: &corpus, seed }).collect();
    let record = |batch, len| row.model.record(batch, len);
    let run = Map::from_iter([("row".into(), json!(row)), ("data".into(), json!(corpus.sha256()))]);
    let probe = |backend: &mut dyn Backend| {
        let found = probes.iter().map(|probe| probe(row, &corpus, backend)).collect::<train::Result<Vec<_>>>()?;
        Ok([found.concat(), held_out.score(row, backend)?].concat())
    };
    let jobs = seeds.iter().zip(&sources).map(|(&seed, source)| {
        let name = format!("{id}.seed-{seed}");
        Job { name, seed, run: run.clone(), record: &record, source, config: &row.train, probe: Some(&probe) }
    });
    let jobs: Vec<Job<'_>> = jobs.collect();
    let outcomes = train_all(&jobs, options, listen).map_err(|(job, source)| Error::Run {
        row: id.into(),
        seed: seeds[job],
        source: source.into(),
    })?;

    let complete = outcomes.iter().all(|outcome| outcome.end != End::Deadline);
    let mut data_sha256 = corpus.sha256();
    data_sha256.extend(held_out.sha256.clone());
    let left_out = held_out.left_out.clone();
    let mut measured = Measured { points: counts, complete, data_sha256, counted: None, left_out };
    for (&seed, outcome) in seeds.iter().zip(&outcomes).filter(|(_, outcome)| outcome.end != End::Deadline) {
        measured.points.extend(of_run(id, seed, row, &corpus, outcome)?);
    }
    if complete {
        forget(&jobs, options)?;
    }
    Ok(measured)
}

/// What needs no training.
fn counts(id: &str, seed: u64, row: &Row) -> Result<Vec<Metric>> {
    let tape = row.model.record(1, 1)?;
    let counts = [("params", tape.parameter_count()), ("active_params", tape.active_parameter_count())];
    let point = |(metric, count): (&str, usize)| point(id, seed, 0, metric, count as f64 / 1e6);
    Ok(counts.map(point).into())
}

fn point(id: &str, seed: u64, step: u64, metric: &str, value: f64) -> Metric {
    Metric { row: id.into(), seed, step, metric: metric.into(), value }
}

fn of_run(id: &str, seed: u64, row: &Row, corpus: &Corpus, outcome: &Outcome) -> Result<Vec<Metric>> {
    let Outcome { log, step: last, tokens_per_second, .. } = outcome;
    let point = |step, metric: &str, value| point(id, seed, step, metric, value);
    let bits_per_byte = |loss: f64| loss / (std::f64::consts::LN_2 * corpus.bytes_per_token());
    let mut points = Vec::new();
    let mut best = f64::INFINITY;
    for (step, loss) in log.series(train::Metric::EvalLoss) {
        points.push(point(step, "loss", loss));
        points.push(point(step, "ppl", loss.exp()));
        points.push(point(step, "bpb", bits_per_byte(loss)));
        best = if loss < best || loss.is_nan() { loss } else { best };
    }
    points.push(point(*last, "best_loss", best));
    points.extend(log.series(train::Metric::Loss).map(|(step, value)| point(step, "train_loss", value)));
    for (name, metric) in [("initial_loss", train::Metric::Loss), ("initial_grad_norm", train::Metric::GradNorm)] {
        points.extend(log.series(metric).next().map(|(step, value)| point(step, name, value)));
    }
    points.push(point(*last, "flops", row.training_flops(*last)?));
    points.extend(tokens_per_second.map(|rate| point(*last, "tokens_per_s", rate)));
    let tokens = *last as f64 * (row.train.batch * row.data.context) as f64;
    points.extend(tokens_per_second.map(|rate| point(*last, "train_s", tokens / rate)));
    points.extend(outcome.probed.iter().map(|(metric, value)| point(*last, metric, *value)));
    Ok(points)
}
