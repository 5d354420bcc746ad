//! Trains a row over its seeds and reads off what it measured.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backend::{Backend, CpuBackend};
use reference::DfdxBackend;
use report::measured::Metric;
use serde_json::json;
use train::{Checkpoint, End, Evaluation, Log, Outcome, Progress, Run};

use crate::{Error, Result, Row, Score, TaskSource, Trial};

/// Time between two checkpoints of a run.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);

/// What runs the tapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Our kernels on the CPU.
    Cpu,
    /// dfdx in f32: the slow oracle.
    Dfdx,
}

impl Device {
    fn backend(self) -> Box<dyn Backend> {
        match self {
            Self::Cpu => Box::new(CpuBackend::new()),
            Self::Dfdx => Box::new(DfdxBackend::<f32>::new()),
        }
    }
}

/// How to measure, none of which changes the numbers of a CPU run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What runs the tapes.
    pub device: Device,
    /// Threads in all.
    pub threads: usize,
    /// Folder for checkpoints; none are kept if absent.
    pub out: Option<PathBuf>,
    /// Whether to go on from the checkpoints in `out`.
    pub resume: bool,
    /// When to stop.
    pub deadline: Option<Instant>,
}

/// What happens while a row is measured. Seeds run side by side, so their events interleave.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Which of the row's runs, from 0.
    pub run: usize,
    /// How many runs the row has: seeds times trials.
    pub runs: usize,
    /// The run's seed.
    pub seed: u64,
    /// What happened.
    pub what: What<'a>,
}

/// What happened to a run.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// A step was made.
    Step {
        /// The step, counted from 1.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// The step's loss.
        loss: f32,
        /// Training tokens a second since this process took the run up.
        tokens_per_second: f64,
    },
    /// It was evaluated.
    Evaluated {
        /// After this step.
        step: u64,
        /// What that found.
        evaluation: &'a Evaluation,
    },
    /// Its loss or gradient is no longer finite; its metrics are NaN.
    Diverged {
        /// Where, and what to try.
        error: &'a train::Error,
    },
}

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
/// `solved` (0 or 1) and, if so, `steps_to_solve`. A row with a grid has `accuracy` alone, beside the
/// `trial_accuracy` of each of its trainings, whose number, counted from 1, stands in place of the step. A run
/// that diverges has NaN for `accuracy` and `loss`.
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
    let jobs: Vec<(u64, usize)> = seeds.iter().flat_map(|&seed| (0..trials.len()).map(move |t| (seed, t))).collect();
    let place = |run: usize| {
        let (seed, trial) = jobs[run];
        Place { id, seed, trial, trials: trials.len(), run, runs: jobs.len() }
    };
    let outcomes = side_by_side(jobs.len(), options.threads.max(1), |job| {
        let place = place(job);
        one(&place, &trials[place.trial], options, listen)
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
        let paths = (0..jobs.len()).filter_map(|job| place(job).path(options));
        paths.into_iter().try_for_each(|path| train::remove(&path))?;
    }
    Ok(measured)
}

/// Runs `jobs` calls with `threads` threads and returns their results in order: single-threaded ones side by side,
/// and those left over after a multiple of `threads` with the threads shared out among them. An error stops the calls
/// not yet begun; of several the first in order is returned.
fn side_by_side<T: Send>(jobs: usize, threads: usize, call: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let results: Vec<Mutex<Option<Result<T>>>> = (0..jobs).map(|_| Mutex::new(None)).collect();
    let failed = AtomicBool::new(false);
    let even = jobs - jobs % threads;
    for (first, end) in [(0, even), (even, jobs)] {
        let workers = threads.min(end - first);
        let next = AtomicUsize::new(first);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads / workers).build();
                    while !failed.load(Ordering::Relaxed) {
                        let job = next.fetch_add(1, Ordering::Relaxed);
                        if job >= end {
                            break;
                        }
                        let result = match &pool {
                            Ok(pool) => pool.install(|| call(job)),
                            Err(e) => Err(Error::Threads { threads, what: e.to_string() }),
                        };
                        failed.fetch_or(result.is_err(), Ordering::Relaxed);
                        if let Ok(mut slot) = results[job].lock() {
                            *slot = Some(result);
                        }
                    }
                });
            }
        });
    }
    let results = results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten());
    results.collect()
}

/// Which of a row's runs.
struct Place<'a> {
    id: &'a str,
    seed: u64,
    trial: usize,
    trials: usize,
    run: usize,
    runs: usize,
}

impl Place<'_> {
    /// `varkey.none.seed-0.safetensors`, `mad-fuzzy.none.seed-0.trial-12.safetensors`.
    fn path(&self, options: &Options) -> Option<PathBuf> {
        let trial = if self.trials > 1 { format!(".trial-{}", self.trial + 1) } else { String::new() };
        let name = format!("{}.seed-{}{trial}.safetensors", self.id, self.seed);
        options.out.as_ref().map(|folder| folder.join(name))
    }

    fn event<'e>(&self, what: What<'e>) -> Event<'e> {
        Event { run: self.run, runs: self.runs, seed: self.seed, what }
    }
}

/// One training. One that diverged ends at that step with NaN as its evaluation.
fn one(place: &Place<'_>, trial: &Trial, options: &Options, listen: &(dyn Fn(Event<'_>) + Sync)) -> Result<Outcome> {
    let Row { task, model, train, .. } = &trial.row;
    let checkpoint = place.path(options).map(|path| Checkpoint {
        path,
        every: CHECKPOINT_EVERY,
        resume: options.resume,
        run: json!({ "row": trial.row, "seed": place.seed, "device": format!("{:?}", options.device) }),
    });
    let source = TaskSource { task: task.clone(), seed: place.seed };
    let mut teller = Teller { place, steps: train.steps, listen };
    let run = Run { seed: place.seed, checkpoint, deadline: options.deadline, progress: &mut teller };
    let record = |batch, len| model.record(batch, len);
    match train::train(&mut *options.device.backend(), &record, &source, train, run) {
        Ok(outcome) => Ok(outcome),
        Err(error @ train::Error::Diverged { step, .. }) => {
            listen(place.event(What::Diverged { error: &error }));
            let nan = |metric| train::Point { step, metric, value: f64::NAN };
            let points = [train::Metric::Accuracy, train::Metric::MacroAccuracy, train::Metric::EvalLoss].map(nan);
            Ok(Outcome { log: Log { points: points.into() }, step, end: End::Steps, tokens_per_second: None })
        }
        Err(source) => Err(Error::Run {
            row: place.id.into(),
            seed: place.seed,
            trial: if trial.name.is_empty() { String::new() } else { format!(", {}", trial.name) },
            source: source.into(),
        }),
    }
}

/// Passes a run's progress on.
struct Teller<'a> {
    place: &'a Place<'a>,
    steps: u64,
    listen: &'a (dyn Fn(Event<'_>) + Sync),
}

impl Progress for Teller<'_> {
    fn step(&mut self, step: u64, loss: f32, tokens_per_second: f64) {
        (self.listen)(self.place.event(What::Step { step, steps: self.steps, loss, tokens_per_second }));
    }

    fn evaluated(&mut self, step: u64, evaluation: &Evaluation) {
        (self.listen)(self.place.event(What::Evaluated { step, evaluation }));
    }
}

fn score(row: &Row) -> train::Metric {
    match row.score {
        Score::Accuracy => train::Metric::Accuracy,
        Score::MacroAccuracy => train::Metric::MacroAccuracy,
    }
}

/// What a row's one training measured.
fn single(id: &str, seed: u64, row: &Row, outcome: &Outcome) -> Vec<Metric> {
    let point = |step, metric: &str, value| Metric { row: id.into(), seed, step, metric: metric.into(), value };
    let log = &outcome.log;
    let mut points = Vec::new();
    for (name, metric) in
        [("accuracy", score(row)), ("loss", train::Metric::EvalLoss), ("train_loss", train::Metric::Loss)]
    {
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

/// The mean over a grid's variations of the best of its settings, and each training's accuracy. One that diverged makes
/// its variation's best NaN: what broke must show.
fn grid(id: &str, seed: u64, row: &Row, outcomes: &[Outcome]) -> Vec<Metric> {
    let settings = row.grid.as_ref().map_or(1, |grid| grid.lr.len().max(1) * grid.weight_decay.len().max(1));
    let metric = score(row);
    let accuracy = |o: &Outcome| o.log.last(metric).unwrap_or(f64::NAN);
    let bests: Vec<f64> = outcomes
        .chunks(settings)
        .map(|tried| {
            tried.iter().map(accuracy).fold(f64::NEG_INFINITY, |best, a| if a > best || a.is_nan() { a } else { best })
        })
        .collect();
    let mean = bests.iter().sum::<f64>() / bests.len() as f64;
    let step = outcomes.iter().map(|o| o.step).max().unwrap_or(0);
    let point = |step, metric: &str, value| Metric { row: id.into(), seed, step, metric: metric.into(), value };
    let each = (1..).zip(outcomes).map(|(number, o)| point(number, "trial_accuracy", accuracy(o)));
    std::iter::once(point(step, "accuracy", mean)).chain(each).collect()
}
