//! Rows measured whole, on the CPU, at a size that takes milliseconds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use recall::{Measured, Row, measure};
use report::measured::{self, Metric};
use serde_json::{Value, json};
use train::{Device, Event, Options, What};

/// A small row with a partial row laid over it.
fn row(change: Value) -> Row {
    let mut row = json!({
        "task": { "task": "mqar", "vocab": 16, "len": 16, "pairs": 2, "power": 0.1, "filler": "zero" },
        "model": { "d_model": 16, "layers": 1, "heads": 2, "mlp": "none", "positions": "learned" },
        "train": { "steps": 24, "batch": 8, "lr": 1e-2, "eval_every": 10, "eval_examples": 16, "log_every": 12 },
    });
    for (table, fields) in change.as_object().unwrap() {
        match (row.get_mut(table), fields) {
            (Some(Value::Object(into)), Value::Object(from)) => into.extend(from.clone()),
            _ => row[table] = fields.clone(),
        }
    }
    serde_json::from_value(row).unwrap()
}

fn options(threads: usize) -> Options {
    Options { device: Device::Cpu, threads, out: None, resume: false, keep: false, deadline: None }
}

fn run(row: &Row, seeds: &[u64], options: &Options) -> Measured {
    measure("a.none", row, seeds, options, &|_| ()).unwrap()
}

fn bits(points: &[Metric]) -> Vec<(u64, u64, &str, u64)> {
    points.iter().map(|p| (p.seed, p.step, p.metric.as_str(), p.value.to_bits())).collect()
}

#[test]
fn a_row_measures_what_it_says() {
    let stop = json!({ "at_least": 0.0, "evaluations": 2 });
    let measured = run(&row(json!({ "train": { "early_stop": stop } })), &[3], &options(1));
    assert!(measured.complete);
    let steps =
        |metric: &str| -> Vec<u64> { measured.points.iter().filter(|p| p.metric == metric).map(|p| p.step).collect() };
    assert_eq!(steps("accuracy"), [10, 20]);
    assert_eq!(steps("loss"), [10, 20]);
    assert_eq!(steps("train_loss"), (1..=20).collect::<Vec<_>>());
    assert_eq!((steps("initial_loss"), steps("initial_grad_norm")), (vec![1], vec![1]));
    let last = measured::Measured::new(&measured.points);
    assert_eq!(last.seeds("a.none", "solved")[&3], 1.0);
    assert_eq!(last.seeds("a.none", "steps_to_solve")[&3], 10.0);
    let initial = last.seeds("a.none", "initial_loss")[&3];
    assert!((initial - 16f64.ln()).abs() < 0.05, "initial loss {initial}");
}

#[test]
fn numbers_do_not_depend_on_the_threads() {
    let row = row(json!({}));
    let one = run(&row, &[0, 1, 2], &options(1));
    for threads in [2, 3, 8] {
        let other = run(&row, &[0, 1, 2], &options(threads));
        assert_eq!(bits(&other.points), bits(&one.points), "{threads} threads");
    }
    let of_seed = |seed| one.points.iter().find(|p| p.seed == seed && p.metric == "initial_loss").unwrap().value;
    assert_ne!(of_seed(0), of_seed(1));
}

#[test]
fn what_a_deadline_stops_is_not_measured_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let row = row(json!({ "train": { "steps": 200 } }));
    let whole = run(&row, &[0, 1], &options(2));
    let kept = Options { out: Some(folder.path().into()), resume: true, ..options(2) };
    // The second seed is stopped in its tenth step.
    let late = Instant::now() + Duration::from_secs(1);
    let wait = |event: Event<'_>| {
        if event.seed == 1 && matches!(event.what, What::Step { step: 10, .. }) {
            std::thread::sleep(late.saturating_duration_since(Instant::now()));
        }
    };
    let until = Options { deadline: Some(late), ..kept.clone() };
    let stopped = measure("a.none", &row, &[0, 1], &until, &wait).unwrap();
    assert!(!stopped.complete && stopped.points.iter().all(|p| p.seed == 0));
    assert!(folder.path().join("a.none.seed-1.safetensors").exists());
    assert_eq!(bits(&run(&row, &[0, 1], &kept).points), bits(&whole.points));
    // A complete row leaves no checkpoints.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_run_that_diverges_shows_as_nan() {
    let diverged = AtomicUsize::new(0);
    let count = |event: Event<'_>| {
        diverged.fetch_add(usize::from(matches!(event.what, What::Diverged { .. })), Ordering::Relaxed);
    };
    let row = row(json!({ "train": { "lr": 1e30 } }));
    let measured = measure("a.none", &row, &[0, 1], &options(1), &count).unwrap();
    assert!(measured.complete);
    assert_eq!(diverged.into_inner(), 2);
    let last = measured::Measured::new(&measured.points);
    assert!(last.seeds("a.none", "accuracy").values().all(|v| v.is_nan()));
}

#[test]
fn a_grid_is_the_mean_over_variations_of_the_best_setting() {
    let grid = json!({ "lr": [1e-2, 1e-3], "weight_decay": [0.0, 0.5], "variations": [{ "task": { "vocab": 32 } }] });
    let grid_row = row(json!({ "grid": grid, "score": "macro-accuracy" }));
    let measured = run(&grid_row, &[0], &options(2));
    let trials: Vec<f64> = measured.points.iter().filter(|p| p.metric == "trial_accuracy").map(|p| p.value).collect();
    assert_eq!(trials.len(), 8);
    let best = |trials: &[f64]| trials.iter().copied().fold(0.0, f64::max);
    let accuracy = measured.points.iter().find(|p| p.metric == "accuracy").unwrap();
    assert_eq!((accuracy.step, accuracy.value), (24, (best(&trials[..4]) + best(&trials[4..])) / 2.0));
    // The loss is that of the trainings whose accuracy counts.
    let values =
        |metric: &str| -> Vec<f64> { measured.points.iter().filter(|p| p.metric == metric).map(|p| p.value).collect() };
    let losses = values("trial_loss");
    let chosen =
        |from: usize| from + (0..4).rev().max_by(|&a, &b| trials[from + a].total_cmp(&trials[from + b])).unwrap();
    assert_eq!(values("loss"), [(losses[chosen(0)] + losses[chosen(4)]) / 2.0]);
    assert_eq!((values("token_accuracy").len(), values("trial_token_accuracy").len()), (1, 8));
    // The first trial is the row itself with the first rate and decay.
    let first = row(json!({ "train": { "lr": 1e-2, "weight_decay": 0.0 }, "score": "macro-accuracy" }));
    let alone = measured::Measured::new(&run(&first, &[0], &options(1)).points);
    assert_eq!(alone.seeds("a.none", "accuracy")[&0], trials[0]);
    let names: Vec<String> = grid_row.trials().unwrap().into_iter().map(|trial| trial.name).collect();
    assert_eq!(names[1], "train.lr=0.01,train.weight_decay=0.5");
    assert_eq!(names[4], "task.vocab=32,train.lr=0.01,train.weight_decay=0.0");
}

/// A value of a metric that the item does not list would be refused at the end of a long run.
#[test]
fn every_metric_is_one_of_the_items() {
    let item = report::paper::item("figure-recall").unwrap();
    let stop = json!({ "early_stop": { "at_least": 0.0 } });
    let grid = json!({ "lr": [1e-2, 1e-3] });
    for row in [row(json!({ "train": stop })), row(json!({ "grid": grid, "score": "macro-accuracy" }))] {
        for point in run(&row, &[0], &options(1)).points {
            assert!(item.metric(&point.metric).is_some(), "{}", point.metric);
        }
    }
}

#[test]
fn refusals_name_the_field_and_the_remedy() {
    let refused = |change: Value| -> String {
        let mut written = serde_json::to_value(row(json!({}))).unwrap();
        for (table, fields) in change.as_object().unwrap() {
            let into = written[table].as_object_mut().unwrap();
            into.extend(fields.as_object().unwrap().clone());
        }
        match serde_json::from_value::<Row>(written).map(|row| row.check()) {
            Err(e) => e.to_string(),
            Ok(checked) => checked.unwrap_err().to_string(),
        }
    };
    for (change, part) in [
        (json!({ "task": { "pairs": 7 } }), "mqar"),
        (json!({ "task": { "paris": 7 } }), "paris"),
        (json!({ "model": { "d_modle": 7 } }), "d_modle"),
        (json!({ "model": { "vocab": 7 } }), "model.vocab: 7, but the task has 16; leave it out"),
        (json!({ "model": { "heads": 3 } }), "3 heads do not divide d_model 16"),
        (json!({ "train": { "lr": 0.0 } }), "train.lr: 0 is out of range"),
    ] {
        let message = refused(change);
        assert!(message.contains(part), "{message}");
    }
    let grid = json!({ "variations": [{ "task": { "vcoab": 32 } }] });
    let message = row(json!({ "grid": grid })).check().unwrap_err().to_string();
    assert!(message.contains("task.vcoab=32") && message.contains("vcoab"), "{message}");
}
