//! Runs that go on on another device.

use backend::{Backend, Batch, CpuBackend, Params, State};
use reference::DfdxBackend;
use serde_json::json;
use train::{Checkpoint, End, Error, Leg, Log, Outcome, Progress, Run, Source, save, train};

use super::{SEED, bits, checkpoint, config, file, record, run, task};

/// Rows until a step, and then none.
pub(crate) struct Until(pub(crate) u64);

impl Source for Until {
    fn row_len(&self) -> usize {
        task().row_len()
    }

    fn train(&self, step: u64, rows: usize) -> Result<Batch, Box<dyn std::error::Error + Send + Sync>> {
        if step > self.0 { Err("no more rows".into()) } else { task().train(step, rows) }
    }

    fn eval(&self, first: usize, rows: usize) -> Result<Batch, Box<dyn std::error::Error + Send + Sync>> {
        task().eval(first, rows)
    }
}

/// Keeps what it hears of moves.
#[derive(Default)]
struct Moves(Vec<String>);

impl Progress for Moves {
    fn step(&mut self, _: u64, _: f32, _: f64) {}

    fn evaluated(&mut self, _: u64, _: &train::Evaluation) {}

    fn moved(&mut self, log: &Log) {
        self.0.push(log.made_where());
    }
}

#[test]
fn a_run_moves_between_devices_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(30);
    // Goes on up to a step, where the rows end.
    let part = |backend: &mut dyn Backend, last: u64, seed: u64| {
        let checkpoint = Checkpoint { run: json!({ "seed": seed }), ..checkpoint(&file(&folder), true).unwrap() };
        let mut moves = Moves::default();
        let run = Run { seed: SEED, checkpoint: Some(checkpoint), deadline: None, progress: &mut moves };
        (train(backend, &record, &Until(last), &config, run), moves.0)
    };
    let ends = |(outcome, moves): (train::Result<Outcome>, Vec<String>)| {
        assert!(matches!(outcome, Err(Error::Source { .. })));
        moves
    };
    assert!(ends(part(&mut CpuBackend::new(), 11, SEED)).is_empty());
    let moves = ends(part(&mut DfdxBackend::<f32>::new(), 17, SEED));
    assert_eq!(moves, ["steps 1 to 11 on cpu, from 12 on dfdx-f32"]);
    // What makes the run what it is still must not change.
    let refused = part(&mut CpuBackend::new(), 30, SEED + 1).0.unwrap_err().to_string();
    assert!(refused.contains("field run.seed is 5 in the file and 6 in this run"), "{refused}");
    let (outcome, moves) = part(&mut CpuBackend::new(), 30, SEED);
    let (outcome, unbroken) = (outcome.unwrap(), run(&config, None, None).unwrap());
    let legs = "steps 1 to 11 on cpu, steps 12 to 17 on dfdx-f32, from 18 on cpu";
    assert_eq!((outcome.end, moves, outcome.log.made_where()), (End::Steps, vec![legs.into()], legs.into()));
    let on_one = outcome.log.points.iter().take_while(|point| point.step < 12).count();
    assert_eq!(bits(&outcome)[..on_one], bits(&unbroken)[..on_one]);
    assert_eq!(outcome.log.points.len(), unbroken.log.points.len());
    for (a, b) in outcome.log.points.iter().zip(&unbroken.log.points) {
        assert!((a.value - b.value).abs() <= 1e-3 * b.value.abs().max(1.0), "{a:?} {b:?}");
    }
    // A finished run of another device is told of, and left as it is.
    let (outcome, moves) = part(&mut DfdxBackend::<f32>::new(), 0, SEED);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.tokens_per_second, moves, outcome.log.made_where()), (None, vec![legs.into()], legs.into()));
}

#[test]
fn a_checkpoint_of_a_gpu_goes_on_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = State::new(Params::init(record(1, 1).unwrap().specs(), SEED));
    state.step = 4;
    let log = Log { legs: vec![Leg { from: 1, device: "cuda:0-bf16".into() }], ..Log::default() };
    save(&file(&folder), &state, &log, &json!({ "seed": SEED })).unwrap();
    let outcome = run(&config(6), checkpoint(&file(&folder), true), None).unwrap();
    assert_eq!(outcome.log.made_where(), "steps 1 to 4 on cuda:0-bf16, from 5 on cpu");
}
