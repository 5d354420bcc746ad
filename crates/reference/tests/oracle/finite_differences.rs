//! dfdx's f64 gradients against central differences of dfdx's f64 loss: each op through a small tape, and whole models.

use crate::common::{conv, distance, experts, linear_rnns, norm, random_batch, random_state, tiny};
use crate::op_tapes::op_tapes;
use backend::{Backend, Batch, Tape};
use model::{ConvKind, Mlp, Norm, Place, Positions, Transformer};
use reference::DfdxBackend;

const STEP: f64 = 1e-4;

/// Differences of up to `samples` elements of each parameter, spread over it, against the gradient of the same.
fn check(name: &str, tape: &Tape, batch: &Batch, samples: usize) {
    let mut dfdx = DfdxBackend::<f64>::new();
    dfdx.load(random_state(tape, 1)).unwrap();
    let (loss, gradients) = dfdx.loss_and_gradients(tape, batch).unwrap();
    assert_eq!(loss, dfdx.loss(tape, batch).unwrap(), "{name}: the loss depends on the tape");
    let all = norm(&gradients.concat());
    assert!(all > 1e-3, "{name}: gradient of norm {all} shows nothing");
    for (spec, gradient) in tape.specs().iter().zip(&gradients) {
        if spec.balance.is_some() {
            // Not differentiated: it holds the load of the experts.
            continue;
        }
        let values = dfdx.parameter(&spec.name).unwrap();
        let stride = values.len().div_ceil(samples);
        let (mut by_difference, mut by_dfdx) = (Vec::new(), Vec::new());
        for i in (0..values.len()).step_by(stride) {
            let mut at = |shift: f64| {
                let mut moved = values.clone();
                moved[i] += shift;
                dfdx.set_parameter(&spec.name, moved).unwrap();
                dfdx.loss(tape, batch).unwrap()
            };
            // Central, of fourth order: the models are too curved for the second.
            let (near, far) = (at(STEP) - at(-STEP), at(2.0 * STEP) - at(-2.0 * STEP));
            by_difference.push((8.0 * near - far) / (12.0 * STEP));
            by_dfdx.push(gradient[i]);
        }
        dfdx.set_parameter(&spec.name, values).unwrap();
        let apart = distance(&by_dfdx, &by_difference);
        // What rounding of the loss leaves in a difference is about 1e-16 / 1e-4.
        let allowed = 1e-7 * norm(&by_difference) + 1e-11;
        assert!(apart <= allowed, "{name}: {}: {by_dfdx:?} against {by_difference:?}", spec.name);
    }
}

#[test]
fn every_op() {
    for (name, tape, batch) in op_tapes() {
        check(&name, &tape, &batch, 16);
    }
}

#[test]
fn whole_models() {
    use ConvKind::{HeadWise, LowRank, Static};
    let mut models = vec![
        ("plain".to_string(), tiny()),
        ("experts".into(), experts(1.0)),
        ("qk-norm, tied".into(), Transformer { qk_norm: true, tied: true, ..tiny() }),
        (
            "layer norm, gelu, learned positions".into(),
            Transformer { norm: Norm::Layer, mlp: Mlp::Gelu, positions: Positions::Learned, ..tiny() },
        ),
    ];
    for (name, mixer) in linear_rnns() {
        let conv = conv(LowRank, 4, true);
        models.push((format!("{name}, low-rank"), Transformer { mixer, conv, ..tiny() }));
    }
    for kind in [Static, HeadWise, LowRank] {
        for bias in [true, false] {
            let mut conv = conv(kind, 4, bias);
            models.push((format!("{kind:?}, bias {bias}"), Transformer { conv: conv.clone(), ..tiny() }));
            conv.on = Place::ALL.to_vec();
            models.push((format!("{kind:?} on all linears, bias {bias}"), Transformer { conv, ..tiny() }));
        }
    }
    for (name, model) in models {
        let tape = model.record(1, 9).unwrap();
        let mut batch = random_batch(&tape, model.vocab, 3);
        batch.cu_seqlens = Some(vec![0, 2, 9]);
        check(&name, &tape, &batch, 3);
    }
}
