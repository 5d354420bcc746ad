//! The plan of the recall figure against the protocol it states.

use cli::Experiment;
use recall::{Figure, Row};
use report::plan::Plan;

fn rows(scale: &str) -> Vec<(String, Row)> {
    let rows = Plan::parse(Figure.plan()).unwrap().resolve(scale, None).unwrap();
    rows.into_iter().map(|row| (row.id, cli::parse(&row.config).unwrap())).collect()
}

#[test]
fn every_row_fits_at_every_scale() {
    for scale in ["smoke", "small", "paper"] {
        for (id, row) in rows(scale) {
            row.check().unwrap_or_else(|e| panic!("{id} at scale {scale}: {e}"));
        }
    }
}

/// MAD's protocol: 200 epochs, 6 settings, and so many one-at-a-time changes of each task.
#[test]
fn mad_at_scale_paper_is_the_suites_grid() {
    let changes = [("fuzzy", 10), ("memorization", 5), ("in-context", 10), ("noisy", 13), ("selective-copying", 12)];
    let rows = rows("paper");
    for (task, changes) in changes {
        for variant in ["none", "static", "headwise", "lowrank"] {
            let id = format!("mad-{task}.{variant}");
            let (_, row) = rows.iter().find(|row| row.0 == id).unwrap();
            let trials = row.trials().unwrap();
            assert_eq!(trials.len(), 6 * (changes + 1), "{id}");
            for trial in trials {
                let seen = trial.row.train.steps * trial.row.train.batch as u64;
                assert_eq!(seen, 200 * trial.row.task.train_examples().unwrap(), "{id}, {}", trial.name);
            }
        }
    }
}

/// The variants of a group differ in their convolution alone.
#[test]
fn variants_differ_in_the_convolution_alone() {
    for scale in ["smoke", "small", "paper"] {
        let rows = rows(scale);
        for (id, row) in &rows {
            let group = id.split_once('.').unwrap().0;
            let mut none = rows.iter().find(|row| row.0 == format!("{group}.none")).unwrap().1.clone();
            none.model.conv = row.model.conv.clone();
            assert_eq!(none, *row, "{id} at scale {scale}");
        }
    }
}

/// A step is three forward passes; a grid's cost is that of all its trainings.
#[test]
fn the_cost_of_a_row_is_that_of_its_trainings() {
    let planned =
        |scale, id: &str| Plan::parse(Figure.plan()).unwrap().resolve(scale, Some(&[id.into()])).unwrap().remove(0);
    let cost = |scale, id| Figure.flops(&planned(scale, id).config, None).unwrap();
    let row: Row = cli::parse(&planned("smoke", "varkey.static").config).unwrap();
    let forward = row.model.record(row.train.batch, row.task.len()).unwrap().flops();
    assert_eq!(cost("smoke", "varkey.static"), 3.0 * forward * row.train.steps as f64);
    let grid: Row = cli::parse(&planned("paper", "mad-noisy.none").config).unwrap();
    let (trials, alone) = (grid.trials().unwrap().len(), Row { grid: None, ..grid });
    let forward = alone.model.record(alone.train.batch, alone.task.len()).unwrap().flops();
    let one = 3.0 * forward * alone.train.steps as f64;
    // Its variations are of longer rows, larger vocabularies or fewer examples.
    let times = cost("paper", "mad-noisy.none") / one;
    assert!((0.5..4.0).contains(&(times / trials as f64)), "{times} trainings' worth for {trials} of them");
}
