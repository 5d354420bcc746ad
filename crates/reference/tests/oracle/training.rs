//! Twenty AdamW steps on one backend and another: the losses stay together.

use backend::{AdamW, Backend, CpuBackend, Params, State};
use model::{ConvKind, Transformer};
use reference::DfdxBackend;

use crate::common::{VOCAB, conv, experts, random_batch, tiny};

/// The losses and the state after 20 steps from the initial values of seed 9, each on a batch of its own, with clipping and decay at work.
fn train(on: &mut dyn Backend, model: &Transformer) -> (Vec<f32>, State) {
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
    (losses, on.state().unwrap())
}

fn check(one: &mut dyn Backend, other: &mut dyn Backend) {
    let kinds = [ConvKind::None, ConvKind::Static, ConvKind::HeadWise, ConvKind::LowRank];
    let models = kinds.map(|kind| (kind, tiny())).into_iter().chain([(ConvKind::LowRank, experts(0.1))]);
    for (kind, base) in models {
        let model = Transformer { conv: conv(kind, 4, true), ..base };
        let ((a, after), (b, other_after)) = (train(one, &model), train(other, &model));
        for (i, spec) in after.params.specs.iter().enumerate().filter(|(_, spec)| spec.balance.is_some()) {
            // Moved by its own rule: steps of 0.01 around a mean of 0, the same on both.
            let bias = &after.params.values[i];
            assert!(bias.iter().any(|&b| b.abs() > 0.005) && bias.iter().sum::<f32>().abs() < 1e-6, "{bias:?}");
            assert_eq!(bias, &other_after.params.values[i], "{}", spec.name);
            assert!(after.m.values[i].iter().chain(&after.v.values[i]).all(|&m| m == 0.0), "{}", spec.name);
        }
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

/// The norm says that a step came to nothing; it is told once.
#[test]
fn gradients_that_are_not_finite_change_nothing() {
    let backends: [Box<dyn Backend>; 2] = [Box::new(CpuBackend::new()), Box::new(DfdxBackend::<f32>::new())];
    let rule = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 0.5 };
    let tape = experts(0.1).record(2, 16).unwrap();
    for mut on in backends {
        let mut state = State::new(Params::init(tape.specs(), 9));
        state.params.values[0].fill(f32::INFINITY);
        on.load(state.clone()).unwrap();
        on.gradients(&tape, &random_batch(&tape, VOCAB, 0)).unwrap();
        let norm = on.update(&rule).unwrap();
        assert!(!norm.is_finite(), "{}: {norm}", on.name());
        let after = on.state().unwrap();
        assert_eq!((after.params, after.m, after.v), (state.params, state.m, state.v), "{}", on.name());
        assert!(on.grad_norm().unwrap_err().to_string().contains("no rule was applied"));
    }
}
