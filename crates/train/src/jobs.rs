//! Many trainings side by side: the seeds of a row, the settings of a grid.
//!
//! The numbers do not depend on how many run at a time, nor on the threads each has.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backend::{Backend, Tape};
use serde_json::{Map, Value};

use crate::{
    Checkpoint, Device, End, Error, Evaluation, Log, Outcome, Progress, Result, Run, Source, TrainConfig, checkpoint,
    train,
};

/// Time between two checkpoints of a run.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(20);

/// One training.
pub struct Job<'a> {
    /// Its checkpoint is `NAME.safetensors`.
    pub name: String,
    /// Seed of the initial parameters.
    pub seed: u64,
    /// What makes it what it is beside the seed, see [`Checkpoint::run`]: `row`, its configurations, from which
    /// a checkpoint is made a model again, and what else the caller's results depend on.
    pub run: Map<String, Value>,
    /// The model's tape for so many rows of so many tokens.
    pub record: &'a (dyn Fn(usize, usize) -> backend::Result<Tape> + Sync),
    /// Its rows.
    pub source: &'a (dyn Source + Sync),
    /// How it is trained.
    pub config: &'a TrainConfig,
    /// What is asked of the trained model.
    pub probe: Option<&'a Probe<'a>>,
}

/// Asks a trained model, which the backend holds, for values by name.
pub type Probe<'a> = dyn Fn(&mut dyn Backend) -> Result<Vec<(&'static str, f64)>> + Sync + 'a;

/// How to train, none of which changes the numbers of a CPU run.
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
    /// Whether checkpoints stay where they are when all is done.
    pub keep: bool,
    /// When to stop.
    pub deadline: Option<Instant>,
}

/// What happens to one of several trainings. They run side by side, so their events interleave.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Which of them, from 0.
    pub run: usize,
    /// How many there are.
    pub runs: usize,
    /// Its seed.
    pub seed: u64,
    /// What happened.
    pub what: What<'a>,
}

/// What happened to a training.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// It was taken up, from its start or from a checkpoint.
    Begun {
        /// Steps made before.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
    },
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
    /// It goes on from a checkpoint that another device wrote: its bits are those of no device alone.
    Moved {
        /// The log so far, which says what made which steps.
        log: &'a Log,
    },
    /// It starts over; the checkpoint that was there is kept under another name.
    SetAside {
        /// The path it has now.
        old: &'a Path,
    },
    /// Its loss or gradient is no longer finite; what is evaluated is NaN.
    Diverged {
        /// Where, and what to try.
        error: &'a Error,
    },
}

/// Trains every job and returns their outcomes in order. One that diverges ends at that step, see [`End::Diverged`]. Each
/// keeps a checkpoint in [`Options::out`]; see [`forget`].
///
/// # Errors
/// The position of a job and why it failed: of several the first. Those not yet begun are left out.
pub fn train_all(
    jobs: &[Job<'_>],
    options: &Options,
    listen: &(dyn Fn(Event<'_>) + Sync),
) -> std::result::Result<Vec<Outcome>, (usize, Error)> {
    side_by_side(jobs.len(), options.threads.max(1), |place| {
        let job = &jobs[place];
        one(job, options, place, &|what| listen(Event { run: place, runs: jobs.len(), seed: job.seed, what }))
    })
}

/// Removes the checkpoints of jobs that are done with, unless they are to be kept.
///
/// # Errors
/// [`Error::Checkpoint`] if a file cannot be removed.
pub fn forget(jobs: &[Job<'_>], options: &Options) -> Result<()> {
    let paths = jobs.iter().filter(|_| !options.keep).filter_map(|job| job.path(options));
    paths.into_iter().try_for_each(|path| checkpoint::remove(&path))
}

impl Job<'_> {
    fn path(&self, options: &Options) -> Option<PathBuf> {
        options.out.as_ref().map(|folder| folder.join(format!("{}.safetensors", self.name)))
    }
}

fn one(job: &Job<'_>, options: &Options, place: usize, tell: &dyn Fn(What<'_>)) -> Result<Outcome> {
    let mut run = job.run.clone();
    run.insert("seed".into(), job.seed.into());
    let (every, resume, run) = (CHECKPOINT_EVERY, options.resume, Value::Object(run));
    let checkpoint = job.path(options).map(|path| Checkpoint { path, every, resume, run });
    let mut teller = Teller { steps: job.config.steps, tell };
    let run = Run { seed: job.seed, checkpoint, deadline: options.deadline, progress: &mut teller };
    let mut backend = options.device.backend(place)?;
    let mut outcome = train(&mut *backend, &job.record, job.source, job.config, run)?;
    if let (Some(probe), End::Steps | End::EarlyStop) = (job.probe, outcome.end) {
        outcome.probed = probe(&mut *backend)?;
    }
    Ok(outcome)
}

/// Passes a run's progress on.
struct Teller<'a> {
    steps: u64,
    tell: &'a dyn Fn(What<'_>),
}

impl Progress for Teller<'_> {
    fn step(&mut self, step: u64, loss: f32, tokens_per_second: f64) {
        (self.tell)(What::Step { step, steps: self.steps, loss, tokens_per_second });
    }

    fn evaluated(&mut self, step: u64, evaluation: &Evaluation) {
        (self.tell)(What::Evaluated { step, evaluation });
    }

    fn moved(&mut self, log: &Log) {
        (self.tell)(What::Moved { log });
    }

    fn diverged(&mut self, error: &Error) {
        (self.tell)(What::Diverged { error });
    }

    fn begun(&mut self, step: u64) {
        (self.tell)(What::Begun { step, steps: self.steps });
    }

    fn set_aside(&mut self, old: &Path) {
        (self.tell)(What::SetAside { old });
    }
}

/// Runs `jobs` calls with `threads` threads and returns their results in order: single-threaded ones side by side,
/// and those left over after a multiple of `threads` with the threads shared out among them. An error stops the calls
/// not yet begun; of several the first in order is returned.
fn side_by_side<T: Send>(
    jobs: usize,
    threads: usize,
    call: impl Fn(usize) -> Result<T> + Sync,
) -> std::result::Result<Vec<T>, (usize, Error)> {
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
    let results = results.into_iter().map(|slot| slot.into_inner().ok().flatten());
    let done = results.enumerate().filter_map(|(job, result)| result.map(|result| (job, result)));
    done.map(|(job, result)| result.map_err(|e| (job, e))).collect()
}
