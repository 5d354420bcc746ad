//! Trains a row over its seeds and reads off what it measured.

use report::measured::Metric;
use serde_json::{Map, json};
use train::{End, Event, Job, Options, Outcome, forget, train_all};

use crate::{Error, Result, Row, Score, TaskSource};

/// What a row measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Every value, of finished seeds only: see [`measure`].
    pub points: Vec<Metric>,
    /// Whether every run came to its end; otherwise the deadline stopped some.
    pub complete: bool,
}

/// Trains a row once per seed (and trial of its grid).
///
/// Metrics, each by seed: `accuracy` (the row's score) and `loss` on test examples at every evaluation, `train_loss`
/// at the logged steps, `initial_loss` and `initial_grad_norm` of the first step; where the row has an early stop,
/// `solved` (0 or 1) and, if so, `steps_to_solve`. Where the score is the mean over classes, `token_accuracy` is the share
/// of labels that are right. A row with a grid has the last `accuracy`, `loss` and `token_accuracy` of its best settings, and the
/// same of each of its trainings as `trial_accuracy` and so on, their number, counted from 1, in place of the step. A run that
/// diverges has NaN for all three.
///
/// Each run keeps a checkpoint in [`Options::out`] until the whole row is complete.
///
/// # Errors
/// If the row does not fit, a checkpoint cannot be read or written, or the device fails.
pub fn measure(
    id: &str,
    row: &Row,
    seeds: &[u64],
    options: &Options,
    listen: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Measured> {
    row.check()?;
    let trials = row.trials()?;
    let places: Vec<(u64, usize)> = seeds.iter().flat_map(|&seed| (0..trials.len()).map(move |t| (seed, t))).collect();
    let parts: Vec<_> = places
        .iter()
        .map(|&(seed, trial)| {
            let Row { task, model, .. } = &trials[trial].row;
            let record = move |batch, len| model.record(batch, len);
            (record, TaskSource { task: task.clone(), seed })
        })
        .collect();
    let jobs = places.iter().zip(&parts).map(|(&(seed, trial), (record, source))| {
        let row = &trials[trial].row;
        // `varkey.none.seed-0`, `mad-fuzzy.none.seed-0.trial-12`.
        let suffix = if trials.len() > 1 { format!(".trial-{}", trial + 1) } else { String::new() };
        let run = Map::from_iter([("row".into(), json!(row))]);
        Job { name: format!("{id}.seed-{seed}{suffix}"), seed, run, record, source, config: &row.train, probe: None }
    });
    let jobs: Vec<Job<'_>> = jobs.collect();
    let outcomes = train_all(&jobs, options, listen).map_err(|(job, source)| {
        let (seed, trial) = places[job];
        let name = &trials[trial].name;
        let trial = if name.is_empty() { String::new() } else { format!(", {name}") };
        Error::Run { row: id.into(), seed, trial, source: source.into() }
    })?;

    let mut measured = Measured { complete: true, ..Measured::default() };
    for (&seed, outcomes) in seeds.iter().zip(outcomes.chunks(trials.len())) {
        if outcomes.iter().any(|o| o.end == End::Deadline) {
            measured.complete = false;
        } else if let [outcome] = outcomes {
            measured.points.extend(single(id, seed, row, outcome));
        } else {
            measured.points.extend(grid(id, seed, row, outcomes));
        }
    }
    if measured.complete {
        forget(&jobs, options)?;
    }
    Ok(measured)
}

/// What test examples tell of a training, the row's score first: names in records and in the log.
fn tested(row: &Row) -> Vec<(&'static str, train::Metric)> {
    let loss = ("loss", train::Metric::EvalLoss);
    match row.score {
        Score::Accuracy => vec![("accuracy", train::Metric::Accuracy), loss],
        Score::MacroAccuracy => {
            vec![("accuracy", train::Metric::MacroAccuracy), loss, ("token_accuracy", train::Metric::Accuracy)]
        }
    }
}

/// What a row's one training measured.
fn single(id: &str, seed: u64, row: &Row, outcome: &Outcome) -> Vec<Metric> {
    let point = |step, metric: &str, value| Metric { row: id.into(), seed, step, metric: metric.into(), value };
    let log = &outcome.log;
    let mut points = Vec::new();
    for (name, metric) in tested(row).into_iter().chain([("train_loss", train::Metric::Loss)]) {
        points.extend(log.series(metric).map(|(step, value)| point(step, name, value)));
    }
    for (name, metric) in [("initial_loss", train::Metric::Loss), ("initial_grad_norm", train::Metric::GradNorm)] {
        points.extend(log.series(metric).next().map(|(step, value)| point(step, name, value)));
    }
    if let Some(stop) = &row.train.early_stop {
        let solved = log.solved_at(stop);
        points.push(point(outcome.step, "solved", f64::from(u8::from(solved.is_some()))));
        points.extend(solved.map(|step| point(step, "steps_to_solve", step as f64)));
    }
    points
}

/// What the best of a grid's settings came to, in the mean over its variations, and what each training did. One that diverged is its
/// variation's best: what broke must show.
fn grid(id: &str, seed: u64, row: &Row, outcomes: &[Outcome]) -> Vec<Metric> {
    let settings = row.grid.as_ref().map_or(1, |grid| grid.lr.len().max(1) * grid.weight_decay.len().max(1));
    let tested = tested(row);
    let last = |o: &Outcome, metric| o.log.last(metric).unwrap_or(f64::NAN);
    let score = |o: &Outcome| last(o, tested[0].1);
    let better = |a, b| if score(b) > score(a) || score(b).is_nan() { b } else { a };
    let bests: Vec<&Outcome> = outcomes.chunks(settings).filter_map(|tried| tried.iter().reduce(better)).collect();
    let step = outcomes.iter().map(|o| o.step).max().unwrap_or(0);
    let point = |step, metric: String, value| Metric { row: id.into(), seed, step, metric, value };
    let mut points = Vec::new();
    for &(name, metric) in &tested {
        let mean = bests.iter().map(|o| last(o, metric)).sum::<f64>() / bests.len() as f64;
        points.push(point(step, name.into(), mean));
        points.extend((1..).zip(outcomes).map(|(number, o)| point(number, format!("trial_{name}"), last(o, metric))));
    }
    points
}
