//! Whole runs of a small Transformer on multi-query associative recall: stop, kill, resume, diverge.

mod moves;
mod parts;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backend::{Batch, CpuBackend, Tape};
use data::{Filler, Mqar, Split, Task};
use model::{Conv, ConvKind, Mlp, Norm, Positions, Transformer};
use serde_json::json;
use train::{Checkpoint, EarlyStop, End, Error, Log, Metric, Outcome, Progress, Run, Source, TrainConfig, train};

const SEED: u64 = 5;

struct Rows(Task);

impl Source for Rows {
    fn row_len(&self) -> usize {
        self.0.len()
    }

    fn train(&self, step: u64, rows: usize) -> Result<Batch, Box<dyn std::error::Error + Send + Sync>> {
        let example = self.0.batch(SEED, Split::Train, (step - 1) * rows as u64, rows)?;
        Ok(Batch::new(example.ids, example.targets))
    }

    fn eval(&self, first: usize, rows: usize) -> Result<Batch, Box<dyn std::error::Error + Send + Sync>> {
        let example = self.0.batch(SEED, Split::Test, first as u64, rows)?;
        Ok(Batch::new(example.ids, example.targets))
    }
}

fn task() -> Rows {
    let filler = Filler::Zero;
    Rows(Task::Mqar(Mqar { vocab: 16, len: 16, pairs: 2, power: 0.1, filler, train_examples: Some(64) }))
}

fn record(batch: usize, len: usize) -> backend::Result<Tape> {
    let model = Transformer {
        vocab: 16,
        d_model: 16,
        layers: 1,
        heads: 2,
        mixer: model::Mixer::Attention,
        mlp: Mlp::Swiglu,
        ffn: 24,
        norm: Norm::Rms,
        positions: Positions::Learned,
        rope_theta: 1e4,
        max_len: 16,
        tied: false,
        qk_norm: false,
        conv: Conv { kind: ConvKind::LowRank, rank: 4, ..Conv::default() },
        init_std: 0.02,
        depth_scaled_init: true,
    };
    model.record(batch, len)
}

fn config(steps: u64) -> TrainConfig {
    let json = json!({
        "steps": steps, "batch": 8, "lr": 1e-2, "warmup": 0.1, "weight_decay": 0.1,
        "eval_every": 7, "eval_examples": 20, "log_every": 3,
    });
    serde_json::from_value(json).unwrap()
}

fn checkpoint(path: &Path, resume: bool) -> Option<Checkpoint> {
    Some(Checkpoint { path: path.into(), every: Duration::ZERO, resume, run: json!({ "seed": SEED }) })
}

fn run(config: &TrainConfig, checkpoint: Option<Checkpoint>, deadline: Option<Instant>) -> train::Result<Outcome> {
    let run = Run { seed: SEED, checkpoint, deadline, progress: &mut () };
    train(&mut CpuBackend::new(), &record, &task(), config, run)
}

/// Every number of a log by its bits.
fn bits(outcome: &Outcome) -> Vec<(u64, &'static str, u64)> {
    outcome.log.points.iter().map(|p| (p.step, p.metric.name(), p.value.to_bits())).collect()
}

fn file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("run.safetensors")
}

#[test]
fn it_learns_and_logs_what_it_promises() {
    let outcome = run(&config(60), None, None).unwrap();
    assert_eq!((outcome.end, outcome.step), (End::Steps, 60));
    let losses: Vec<_> = outcome.log.series(Metric::Loss).collect();
    let steps: Vec<u64> = losses.iter().map(|l| l.0).collect();
    let want: Vec<u64> = (1..=20).chain((21..=60).step_by(3)).collect();
    assert_eq!(steps, want);
    assert!((losses[0].1 - f64::from(16f32.ln())).abs() < 0.05, "first loss {}", losses[0].1);
    assert!(losses[losses.len() - 1].1 < losses[0].1 - 0.3);
    let evaluations: Vec<u64> = outcome.log.series(Metric::Accuracy).map(|l| l.0).collect();
    assert_eq!(evaluations, [7, 14, 21, 28, 35, 42, 49, 56, 60]);
    assert_eq!(outcome.log.series(Metric::GradNorm).count(), steps.len());
    assert!(outcome.tokens_per_second.unwrap() > 0.0);
}

#[test]
fn a_run_stopped_at_the_deadline_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(30);
    let unbroken = run(&config, None, None).unwrap();
    let stopped = run(&config, checkpoint(&file(&folder), true), Some(Instant::now())).unwrap();
    assert_eq!((stopped.end, stopped.step, stopped.tokens_per_second), (End::Deadline, 0, None));
    let deadline = Instant::now() + Duration::from_millis(300);
    let halfway = Run {
        seed: SEED,
        checkpoint: checkpoint(&file(&folder), true),
        deadline: Some(deadline),
        progress: &mut WaitInStep { step: 11, until: deadline },
    };
    let stopped = train(&mut CpuBackend::new(), &record, &task(), &config, halfway).unwrap();
    assert_eq!(stopped.end, End::Deadline);
    assert!(stopped.step <= 11);
    let resumed = run(&config, checkpoint(&file(&folder), true), None).unwrap();
    assert_eq!(resumed.end, End::Steps);
    assert_eq!(bits(&resumed), bits(&unbroken));
    // A finished run is not run again.
    let again = run(&config, checkpoint(&file(&folder), true), None).unwrap();
    assert_eq!((again.tokens_per_second, bits(&again)), (None, bits(&unbroken)));
}

/// Keeps what it hears.
#[derive(Default)]
struct Heard {
    steps: Vec<u64>,
    aside: Vec<String>,
    begun: Vec<u64>,
    diverged: Vec<String>,
}

impl Progress for Heard {
    fn step(&mut self, step: u64, _: f32, _: f64) {
        self.steps.push(step);
    }

    fn evaluated(&mut self, _: u64, _: &train::Evaluation) {}

    fn moved(&mut self, _: &Log) {}

    fn begun(&mut self, step: u64) {
        self.begun.push(step);
    }

    fn diverged(&mut self, error: &Error) {
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
        self.diverged.push(error.to_string());
    }

    fn set_aside(&mut self, old: &Path) {
        self.aside.push(old.file_name().unwrap().to_string_lossy().into_owned());
    }
}

#[test]
fn starting_over_keeps_the_unfinished_againunder_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let (config, mut heard) = (config(30), Heard::default());
    for steps in [11, 5, 3] {
        let checkpoint = checkpoint(&file(&folder), false);
        let run = Run { seed: SEED, checkpoint, deadline: None, progress: &mut heard };
        train(&mut CpuBackend::new(), &record, &moves::Until(steps), &config, run).unwrap_err();
    }
    assert_eq!(heard.aside, ["run.old-1.safetensors", "run.old-2.safetensors"]);
    // Named as before it is resumed.
    std::fs::rename(folder.path().join("run.old-1.safetensors"), file(&folder)).unwrap();
    let mut heard = Heard::default();
    let again = Run { seed: SEED, checkpoint: checkpoint(&file(&folder), true), deadline: None, progress: &mut heard };
    let resumed = train(&mut CpuBackend::new(), &record, &task(), &config, again).unwrap();
    assert_eq!((heard.begun, heard.steps.first(), heard.aside.len()), (vec![11], Some(&12), 0));
    assert_eq!(bits(&resumed), bits(&run(&config, None, None).unwrap()));
}

/// Waits in one step, so that a deadline passes there at the latest.
struct WaitInStep {
    step: u64,
    until: Instant,
}

impl Progress for WaitInStep {
    fn step(&mut self, step: u64, _: f32, _: f64) {
        if step == self.step {
            std::thread::sleep(self.until.saturating_duration_since(Instant::now()));
        }
    }

    fn evaluated(&mut self, _: u64, _: &train::Evaluation) {}

    fn moved(&mut self, _: &Log) {}
}

/// Runs itself as a process of its own, kills that in the middle, and resumes.
#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    const FOLDER: &str = "TRAIN_TEST_FOLDER";
    let config = config(400);
    if let Some(path) = std::env::var_os(FOLDER) {
        run(&config, checkpoint(Path::new(&path), true), None).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_run_goes_on_bit_for_bit"])
        .env(FOLDER, &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let step = || run(&config, checkpoint(&path, true), Some(begun)).unwrap().step;
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint after a minute");
        assert!(child.try_wait().unwrap().is_none(), "the child ended too early");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(30));
    child.kill().unwrap();
    child.wait().unwrap();
    let killed_at = step();
    assert!(killed_at > 0 && killed_at < 400, "killed at step {killed_at}");
    let resumed = run(&config, checkpoint(&path, true), None).unwrap();
    assert_eq!(bits(&resumed), bits(&run(&config, None, None).unwrap()));
}

#[test]
fn an_early_stop_ends_the_run_and_stays_ended() {
    let folder = tempfile::tempdir().unwrap();
    let stop = EarlyStop { metric: Metric::Accuracy, at_least: 0.0, evaluations: 3 };
    let config = TrainConfig { early_stop: Some(stop), ..config(60) };
    let outcome = run(&config, checkpoint(&file(&folder), false), None).unwrap();
    assert_eq!((outcome.end, outcome.step), (End::EarlyStop, 21));
    let again = run(&config, checkpoint(&file(&folder), true), None).unwrap();
    assert_eq!((again.end, again.step, again.tokens_per_second), (End::EarlyStop, 21, None));
}

#[test]
fn a_run_that_diverges_says_where_and_what_to_try() {
    // Rates far too high: one breaks the gradient at once, the other the loss after a while.
    for lr in [1e30, 1e8] {
        let config = TrainConfig { lr, warmup: 0.0, ..config(60) };
        let mut heard = Heard::default();
        let run = Run { seed: SEED, checkpoint: None, deadline: None, progress: &mut heard };
        let outcome = train(&mut CpuBackend::new(), &record, &task(), &config, run).unwrap();
        assert!(outcome.end == End::Diverged && outcome.step > 1 && outcome.tokens_per_second.is_none());
        let steps: Vec<u64> = outcome.log.series(Metric::Loss).map(|(step, _)| step).collect();
        assert_eq!(steps.first().zip(steps.last()), Some((&1, &outcome.step)), "the log is kept");
        assert!(outcome.log.last(Metric::Accuracy).unwrap().is_nan());
        let [message] = &heard.diverged[..] else { panic!("{:?}", heard.diverged) };
        for part in ["not finite; ", "tensors are not, embed.weight", "hint: lower train.lr"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn another_seeds_checkpoint_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    run(&config(8), checkpoint(&file(&folder), false), None).unwrap();
    let other = Checkpoint { run: json!({ "seed": 6 }), ..checkpoint(&file(&folder), true).unwrap() };
    let message = run(&config(8), Some(other), None).unwrap_err().to_string();
    assert!(message.contains("field run.seed is 5 in the file and 6 in this run; resume with"), "{message}");
}
