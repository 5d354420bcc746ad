//! The loop.
//!
//! A step: batch, gradients in as many passes as the configuration says, update; its loss, gradient norm and rate are
//! logged; then an evaluation and a checkpoint where due. A checkpoint therefore always stands between two whole steps,
//! and a run resumed from it goes on as if it had never stopped. On another device it goes on with other roundings; the
//! log then says so.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backend::{Backend, Params, State, Tape};
use serde_json::Value;

use crate::evaluate::{Evaluation, evaluate};
use crate::parts::Parts;
use crate::{Error, Log, Metric, Result, Source, TrainConfig, checkpoint};

/// Everything about a run that does not change what it computes, and its seed.
pub struct Run<'a> {
    /// Seed of the initial parameters.
    pub seed: u64,
    /// Where to keep the state; nowhere if absent.
    pub checkpoint: Option<Checkpoint>,
    /// When to stop, after the step under way and with a checkpoint.
    pub deadline: Option<Instant>,
    /// Hears of every step.
    pub progress: &'a mut dyn Progress,
}

/// Where the state of a run is kept, and whether to go on from it.
pub struct Checkpoint {
    /// The file.
    pub path: PathBuf,
    /// Time between two writes. The last state is always written.
    pub every: Duration,
    /// Whether to start from the file, if there is one; otherwise it is set aside under another name.
    pub resume: bool,
    /// What makes this run what it is: its configurations and seed. A file made by another is refused.
    pub run: Value,
}

/// Hears of a run's steps.
pub trait Progress {
    /// A step was made. The rate is that of training alone, since this process started.
    fn step(&mut self, step: u64, loss: f32, tokens_per_second: f64);

    /// An evaluation was made.
    fn evaluated(&mut self, step: u64, evaluation: &Evaluation);

    /// The run goes on, or had ended, with steps that another device made: see [`Log::legs`].
    fn moved(&mut self, log: &Log);

    /// The loss or gradient is no longer finite: an [`Error::Diverged`] says where, and what to try.
    fn diverged(&mut self, error: &Error) {
        let _ = error;
    }

    /// The run is taken up after so many steps made before, all of them if it had ended.
    fn begun(&mut self, step: u64) {
        let _ = step;
    }

    /// The run starts over, and the checkpoint that was there is under this name.
    fn set_aside(&mut self, old: &Path) {
        let _ = old;
    }
}

/// Nobody listens.
impl Progress for () {
    fn step(&mut self, _: u64, _: f32, _: f64) {}

    fn evaluated(&mut self, _: u64, _: &Evaluation) {}

    fn moved(&mut self, _: &Log) {}
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps made.
    Steps,
    /// The condition of the early stop was met.
    EarlyStop,
    /// The deadline passed; the run can be resumed.
    Deadline,
    /// The loss or the gradient stopped being finite; the log ends with that step and NaN as its evaluation.
    Diverged,
}

/// A run as it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Everything measured since the first step, also by processes before this one.
    pub log: Log,
    /// Steps made.
    pub step: u64,
    /// Why it ended.
    pub end: End,
    /// Training tokens a second in this process; none if it made no step.
    pub tokens_per_second: Option<f64>,
    /// What a job's probe found in the trained model.
    pub probed: Vec<(&'static str, f64)>,
}

/// Trains until the last step, the early stop or the deadline. `record` gives the model's tape for so many rows
/// of so many tokens. The backend is left with the final state.
///
/// # Errors
/// [`Error::Config`], [`Error::Source`], [`Error::Checkpoint`], [`Error::Backend`]. A loss or gradient that is not finite
/// ends the run with [`End::Diverged`], and [`Progress::diverged`] hears of it.
pub fn train(
    backend: &mut dyn Backend,
    record: &dyn Fn(usize, usize) -> backend::Result<Tape>,
    source: &dyn Source,
    config: &TrainConfig,
    mut run: Run<'_>,
) -> Result<Outcome> {
    config.check()?;
    let mut tape = record(config.batch / config.accumulate, source.row_len())?;
    tape.set_recompute(config.recompute);
    let tape = tape;
    let (state, mut log) = start(&tape, &mut run)?;
    let (mut step, first) = (state.step, state.step);
    backend.load(state)?;
    run.progress.begun(step);

    let solved = |log: &Log| config.early_stop.as_ref().is_some_and(|stop| log.solved_at(stop).is_some());
    let (mut is_solved, mut saved, mut training) = (solved(&log), (step, Instant::now()), Duration::ZERO);
    let here = backend.name();
    if step < config.steps && !is_solved {
        log.made_by(step + 1, &here);
    }
    if log.legs.iter().any(|leg| leg.device != here) {
        run.progress.moved(&log);
    }
    let tokens = (config.batch * source.row_len()) as f64;
    let mut next = None;
    let rate = |step: u64, time: Duration| (step - first) as f64 * tokens / time.as_secs_f64();
    loop {
        let end = match run.deadline {
            _ if step >= config.steps => Some(End::Steps),
            _ if is_solved => Some(End::EarlyStop),
            Some(deadline) if Instant::now() >= deadline => Some(End::Deadline),
            _ => None,
        };
        if let Some(c) = &run.checkpoint
            && saved.0 != step
            && (end.is_some() || saved.1.elapsed() >= c.every)
        {
            checkpoint::save(&c.path, &backend.state()?, &log, &c.run)?;
            saved = (step, Instant::now());
        }
        if let Some(end) = end {
            let tokens_per_second = (step > first).then(|| rate(step, training));
            return Ok(Outcome { log, step, end, tokens_per_second, probed: Vec::new() });
        }

        step += 1;
        let started = Instant::now();
        let [loss, grad_norm] = match update(backend, &tape, source, config, step, &mut next) {
            Err(error @ Error::Diverged { loss, grad_norm, .. }) => {
                run.progress.diverged(&error);
                log.push_step(step, loss, grad_norm, config.lr_at(step));
                for metric in [Metric::EvalLoss, Metric::Accuracy, Metric::MacroAccuracy] {
                    log.push(step, metric, f64::NAN);
                }
                return Ok(Outcome { log, step, end: End::Diverged, tokens_per_second: None, probed: Vec::new() });
            }
            made => made?,
        };
        training += started.elapsed();
        run.progress.step(step, loss, rate(step, training));
        if config.logs(step) {
            log.push_step(step, loss, grad_norm, config.lr_at(step));
        }
        if config.evaluates(step) {
            let e = evaluate(backend, record, source, config.eval_examples, config.batch / config.accumulate)?;
            log.push(step, Metric::EvalLoss, e.loss);
            log.push(step, Metric::Accuracy, e.accuracy);
            log.push(step, Metric::MacroAccuracy, e.macro_accuracy);
            is_solved = solved(&log);
            run.progress.evaluated(step, &e);
        }
    }
}

/// The state and log to go on from: the checkpoint's, or fresh ones.
fn start(tape: &Tape, run: &mut Run<'_>) -> Result<(State, Log)> {
    if let Some(c) = &run.checkpoint {
        if c.resume && c.path.exists() {
            checkpoint::sweep(&c.path)?;
            return checkpoint::load(&c.path, &tape.specs(), &c.run);
        }
        if let Some(old) = checkpoint::set_aside(&c.path)? {
            run.progress.set_aside(&old);
        }
    }
    Ok((State::new(Params::init(tape.specs(), run.seed)), Log::default()))
}

/// One step; its loss and gradient norm. `next` holds its batch, if the step before has made it, and then that of the step after:
/// while a device works, the host makes what comes next.
fn update(
    backend: &mut dyn Backend,
    tape: &Tape,
    source: &dyn Source,
    config: &TrainConfig,
    step: u64,
    next: &mut Option<Result<Parts>>,
) -> Result<[f32; 2]> {
    let make = |step: u64| -> Result<Parts> {
        let what = || format!("training batch of step {step}");
        let batch = source.train(step, config.batch).map_err(|source| Error::Source { what: what(), source })?;
        Ok(Parts::new(batch, config.accumulate))
    };
    let parts = next.take().unwrap_or_else(|| make(step))?;
    let last = step == config.steps;
    let rule = config.rule(step);
    let made = parts.step(
        backend,
        tape,
        &rule,
        move || if last { None } else { next.insert(make(step + 1)).as_ref().ok() },
    )?;
    if made.iter().any(|value| !value.is_finite()) {
        return Err(diverged(backend, config, step, made)?);
    }
    Ok(made)
}

/// The error of a step that is not finite, with the tensors to look at.
fn diverged(backend: &mut dyn Backend, config: &TrainConfig, step: u64, [loss, grad_norm]: [f32; 2]) -> Result<Error> {
    let (mut broken, mut finite) = (Vec::new(), Vec::new());
    for (kind, params) in [("", backend.state()?.params), (" (gradient)", backend.read_gradients()?)] {
        for (spec, values) in params.specs.iter().zip(&params.values) {
            let square: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            let (norm, name) = (square.sqrt(), format!("{}{kind}", spec.name));
            if norm.is_finite() { finite.push((norm, values.len(), name)) } else { broken.push(name) }
        }
    }
    finite.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut tensors = vec![match &broken[..] {
        [] => "every tensor is finite".to_string(),
        [first, ..] => format!("{} of {} tensors are not, {first} first", broken.len(), broken.len() + finite.len()),
    }];
    tensors.extend(
        finite
            .iter()
            .take(3)
            .map(|(norm, len, name)| format!("{name} has norm {norm:.3e}, rms {:.3e}", norm / (*len as f64).sqrt())),
    );
    let lr = config.lr_at(step);
    let clip = if config.clip == 0.0 { "set train.clip to 1" } else { "lower train.clip" };
    let hint = format!("lower train.lr ({lr:.2e} at this step), lengthen train.warmup ({}), or {clip}", config.warmup);
    Ok(Error::Diverged { step, loss, grad_norm, tensors: tensors.join(", "), hint })
}
