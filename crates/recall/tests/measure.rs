//! Rows measured whole, on the CPU, at a size that takes milliseconds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use recall::{Device, Event, Measured, Options, Row, measure};
use report::measured::{self, Metric};
use serde_json::{Value, json};

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
    Options { device: Device::Cpu, threads, out: None, resume: false, deadline: None }
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
    let stopped = run(&row, &[0, 1], &Options { deadline: Some(Instant::now()), ..kept.clone() });
    assert!(!stopped.complete && stopped.points.is_empty());
    assert_eq!(bits(&run(&row, &[0, 1], &kept).points), bits(&whole.points));
    // Finished runs are read back, not run again, whatever the deadline.
    let steps = AtomicUsize::new(0);
    let count = |event: Event<'_>| {
        steps.fetch_add(usize::from(matches!(event, Event::Step { .. })), Ordering::Relaxed);
    };
    let kept = Options { deadline: Some(Instant::now()), ..kept };
    let again = measure("a.none", &row, &[0, 1], &kept, &count).unwrap();
    assert_eq!((bits(&again.points), steps.into_inner()), (bits(&whole.points), 0));
}

#[test]
fn a_run_that_diverges_shows_as_nan() {
    let diverged = AtomicUsize::new(0);
    let count = |event: Event<'_>| {
        diverged.fetch_add(usize::from(matches!(event, Event::Diverged { .. })), Ordering::Relaxed);
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
    let measured = run(&row(json!({ "grid": grid, "score": "macro-accuracy" })), &[0], &options(2));
    let value = |metric: &str| measured.points.iter().find(|p| p.metric == metric).unwrap().value;
    let best = |variation: &str| {
        let of = |setting: &str| value(&format!("accuracy[{variation}{setting}]"));
        let all = [("0.01", "0.0"), ("0.01", "0.5"), ("0.001", "0.0"), ("0.001", "0.5")];
        all.map(|(lr, decay)| of(&format!("train.lr={lr},train.weight_decay={decay}"))).into_iter().fold(0.0, f64::max)
    };
    assert_eq!(value("accuracy"), (best("") + best("task.vocab=32,")) / 2.0);
    assert_eq!(measured.points.len(), 9);
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
