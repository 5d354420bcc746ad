//! What must hold of any backend, whatever its numbers: causality, sequences kept apart, dynamic filters that start
//! static, the same bits twice.

use backend::{Backend, Batch, CpuBackend, Params, State};
use model::{Conv, ConvKind, Place, Transformer};
use reference::DfdxBackend;

use crate::common::{VOCAB, conv, distance, norm, random_batch, random_state, rounding, tiny, variants, wide, wider};

/// The logits of one row, token by token.
fn logits(on: &mut dyn Backend, model: &Transformer, state: State, batch: &Batch) -> Vec<Vec<f32>> {
    let tape = model.record(1, batch.ids.len()).unwrap();
    on.load(state).unwrap();
    on.evaluate(&tape, batch).unwrap();
    on.read(tape.logits().unwrap()).unwrap().chunks(VOCAB).map(<[f32]>::to_vec).collect()
}

/// Another token at t leaves the logits before t as they are, bit by bit, and changes those at t.
fn check_causal(on: &mut dyn Backend) {
    for (name, model) in variants() {
        let tape = model.record(1, 12).unwrap();
        let (state, mut batch) = (random_state(&tape, 5), random_batch(&tape, VOCAB, 5));
        let before = logits(on, &model, state.clone(), &batch);
        for t in [11, 7, 1] {
            let was = batch.ids[t];
            batch.ids[t] = (was + 1) % VOCAB as u32;
            let after = logits(on, &model, state.clone(), &batch);
            batch.ids[t] = was;
            assert_eq!(before[..t], after[..t], "{name}: token {t} reaches back");
            assert_ne!(before[t], after[t], "{name}: token {t} has no effect");
        }
    }
}

/// Sequences packed in one row give what each gives alone.
fn check_packed(on: &mut dyn Backend) {
    let borders = [0, 1, 3, 12, 20];
    for (name, model) in variants() {
        let tape = model.record(1, 20).unwrap();
        let (state, mut batch) = (random_state(&tape, 6), random_batch(&tape, VOCAB, 6));
        batch.cu_seqlens = Some(borders.to_vec());
        let packed = logits(on, &model, state.clone(), &batch);
        for pair in borders.windows(2) {
            let part = pair[0]..pair[1];
            let alone = Batch::new(batch.ids[part.clone()].to_vec(), batch.targets[part.clone()].to_vec());
            let (alone, packed) = (logits(on, &model, state.clone(), &alone).concat(), packed[part].concat());
            let (alone, packed) = (wide(&alone), wide(&packed));
            let apart = distance(&packed, &alone) / norm(&alone);
            assert!(
                apart <= 1e-6 * rounding(&model),
                "{name}: tokens {pair:?} are {apart:.1e} from the sequence alone"
            );
        }
    }
}

/// At its initial values a dynamic convolution with static taps is the static convolution of the same seed.
fn check_starts_static(on: &mut dyn Backend) {
    for places in [vec![Place::Q, Place::K, Place::V], Place::ALL.to_vec()] {
        let mut start = |kind| {
            let model = Transformer { conv: Conv { on: places.clone(), ..conv(kind, 4, true) }, ..tiny() };
            let tape = model.record(1, 12).unwrap();
            let state = State::new(Params::init(tape.specs(), 7));
            wide(&logits(on, &model, state, &random_batch(&tape, VOCAB, 7)).concat())
        };
        let want = start(ConvKind::Static);
        assert_ne!(want, start(ConvKind::None));
        for kind in [ConvKind::HeadWise, ConvKind::LowRank] {
            let apart = distance(&start(kind), &want) / norm(&want);
            assert!(apart <= 1e-6, "{kind:?} on {places:?} is {apart:.1e} from static");
        }
    }
}

/// Runs from one state give the same bits, on any number of threads: scores, gradients and the state after an update.
fn check_repeats(models: &[(String, Transformer)], len: usize, fresh: impl Fn() -> Box<dyn Backend> + Sync) {
    let rule = backend::AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 };
    let pools = [1, 1, 2, 5].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    for (name, model) in models {
        let tape = model.record(2, len).unwrap();
        let batch = random_batch(&tape, VOCAB, 8);
        let run = || {
            let mut on = fresh();
            on.load(random_state(&tape, 8)).unwrap();
            let scores = on.gradients(&tape, &batch).unwrap();
            let gradients = on.read_gradients().unwrap();
            on.update(&rule).unwrap();
            (scores, gradients, on.state().unwrap())
        };
        let [first, rest @ ..] = pools.each_ref().map(|pool| pool.install(run));
        assert!(rest.iter().all(|other| *other == first), "{name}: runs differ");
    }
}

#[test]
fn dfdx_is_causal() {
    check_causal(&mut DfdxBackend::<f32>::new());
}

#[test]
fn dfdx_keeps_packed_sequences_apart() {
    check_packed(&mut DfdxBackend::<f64>::new());
}

#[test]
fn dfdx_starts_static() {
    check_starts_static(&mut DfdxBackend::<f64>::new());
}

#[test]
fn dfdx_repeats() {
    check_repeats(&variants(), 33, || Box::new(DfdxBackend::<f32>::new()));
}

#[test]
fn cpu_is_causal() {
    check_causal(&mut CpuBackend::new());
}

#[test]
fn cpu_keeps_packed_sequences_apart() {
    check_packed(&mut CpuBackend::new());
}

#[test]
fn cpu_starts_static() {
    check_starts_static(&mut CpuBackend::new());
}

#[test]
fn cpu_repeats() {
    check_repeats(&variants(), 33, || Box::new(CpuBackend::new()));
    check_repeats(&wider(), 300, || Box::new(CpuBackend::new()));
}
