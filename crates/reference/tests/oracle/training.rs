//! Twenty AdamW steps on one backend and another: the losses stay together.

use backend::{AdamW, Backend, CpuBackend, Params, State};
use model::{ConvKind, Transformer};
use reference::DfdxBackend;

use crate::common::{VOCAB, conv, experts, random_batch, tiny};

/// The losses of 20 steps from the initial values of seed 9, each on a batch of its own, with clipping and decay at work.
fn losses(on: &mut dyn Backend, model: &Transformer) -> Vec<f32> {
    let tape = model.record(2, 16).unwrap();
    let rule = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 0.5 };
    on.load(State::new(Params::init(tape.specs(), 9))).unwrap();
    let mut losses = Vec::new();
    for step in 0..20 {
        // Three batches in turn, so that there is something to learn.
        losses.push(on.gradients(&tape, &random_batch(&tape, VOCAB, step % 3)).unwrap().loss);
        let norm = on.update(&rule).unwrap();
        assert!(norm.is_finite() && norm > 0.0);
    }
    losses
}

fn check(one: &mut dyn Backend, other: &mut dyn Backend) {
    let kinds = [ConvKind::None, ConvKind::Static, ConvKind::HeadWise, ConvKind::LowRank];
    let models = kinds.map(|kind| (kind, tiny())).into_iter().chain([(ConvKind::LowRank, experts(0.1))]);
    for (kind, base) in models {
        let model = Transformer { conv: conv(kind, 4, true), ..base };
        let (a, b) = (losses(one, &model), losses(other, &model));
        assert!(a[19] < 0.8 * a[0], "{kind:?}: {} learns nothing: {a:?}", one.name());
        for (step, (a, b)) in a.iter().zip(&b).enumerate() {
            let apart = (a - b).abs();
            assert!(apart <= 1e-4 * b, "{kind:?}, step {step}: {a} on {}, {b} on {}", one.name(), other.name());
        }
    }
}

#[test]
fn dfdx_f32_follows_dfdx_f64() {
    check(&mut DfdxBackend::<f32>::new(), &mut DfdxBackend::<f64>::new());
}

#[test]
fn cpu_follows_dfdx_f32() {
    check(&mut CpuBackend::new(), &mut DfdxBackend::<f32>::new());
}
