//! Batches taken in parts.

use backend::{Backend, Batch, CpuBackend, IGNORE, Init, ParamSpec, Params, Part, State};
use reference::DfdxBackend;
use train::{Error, Parts, Run, Source, TrainConfig, train};

use super::moves::Until;
use super::{SEED, bits, checkpoint, config, file, record, run, task};

/// Loss and gradients of a batch in `n` parts.
fn gradients(backend: &mut dyn Backend, batch: &Batch, n: usize) -> (f32, Vec<Vec<f32>>) {
    let tape = record(8 / n, 16).unwrap();
    let init = |spec: &ParamSpec| ParamSpec { init: Init::Normal { std: 0.1 }, ..spec.clone() };
    let specs = tape.specs();
    let scattered = specs.iter().map(init).collect();
    backend.load(State::new(Params { values: Params::init(scattered, SEED).values, specs })).unwrap();
    let loss = Parts::new(batch.clone(), n).gradients(backend, &tape, |_| Ok(None)).unwrap();
    (loss, backend.read_gradients().unwrap().values)
}

#[test]
fn gradients_of_parts_add_up_to_the_batchs() {
    let mut batch = task().train(3, 8).unwrap();
    // Labels of their own number in every part; the third has none.
    batch.targets[..8].copy_from_slice(&[3, 1, 4, 1, 5, 9, 2, 6]);
    batch.targets[4 * 16..6 * 16].fill(IGNORE);
    for backend in [&mut CpuBackend::new() as &mut dyn Backend, &mut DfdxBackend::<f32>::new()] {
        let (loss, whole) = gradients(backend, &batch, 1);
        for n in [2, 4, 8] {
            let (sum, parts) = gradients(backend, &batch, n);
            assert!((sum - loss).abs() <= 1e-6 * loss, "{n} parts: loss {sum}, whole {loss}");
            for (whole, parts) in whole.iter().zip(&parts) {
                let largest = whole.iter().fold(0f32, |max, g| max.max(g.abs()));
                let off = whole.iter().zip(parts).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
                assert!(largest > 0.0 && off <= 1e-6 * largest.max(1e-2), "{n} parts: {off:e} of {largest:e}");
            }
            assert_eq!(gradients(backend, &batch, n), (sum, parts), "the same bits again");
        }
    }
    let part = Part { share: 0.5, add: true };
    let tape = record(8, 16).unwrap();
    let mut fresh = CpuBackend::new();
    fresh.load(State::new(Params::init(tape.specs(), SEED))).unwrap();
    assert!(fresh.begin(&tape, &batch, part).unwrap_err().to_string().contains("no gradients to add to"));
}

#[test]
fn a_run_in_parts_follows_the_one_in_whole_batches() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(&config(30), None, None).unwrap();
    let config = TrainConfig { accumulate: 4, recompute: true, ..config(30) };
    let parts = run(&config, None, None).unwrap();
    for (a, b) in whole.log.points.iter().zip(&parts.log.points) {
        assert!((a.value - b.value).abs() <= 1e-3 * b.value.abs().max(1.0), "{a:?} {b:?}");
    }
    let Err(Error::Source { .. }) = train(
        &mut CpuBackend::new(),
        &record,
        &Until(13),
        &config,
        Run { seed: SEED, checkpoint: checkpoint(&file(&folder), false), deadline: None, progress: &mut () },
    ) else {
        panic!("there were rows")
    };
    let resumed = run(&config, checkpoint(&file(&folder), true), None).unwrap();
    assert_eq!(bits(&resumed), bits(&parts));
}
