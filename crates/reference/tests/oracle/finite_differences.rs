//! dfdx's f64 gradients against central differences of dfdx's f64 loss: each op through a small tape, and whole models.

use crate::common::{conv, distance, norm, random_batch, random_state, tiny};
use backend::{Batch, Filter, Init, Param, Result, Tape, Var};
use model::{ConvKind, Mlp, Norm, Place, Positions, Transformer};
use reference::DfdxBackend;

/// Columns of the values under test; also the vocabulary of the small tapes.
const D: usize = 8;
const STEP: f64 = 1e-4;

/// Differences of up to `samples` elements of each parameter, spread over it, against the gradient of the same.
fn check(name: &str, tape: &Tape, batch: &Batch, samples: usize) {
    let mut dfdx = DfdxBackend::<f64>::new();
    backend::Backend::load(&mut dfdx, random_state(tape, 1)).unwrap();
    let (loss, gradients) = dfdx.loss_and_gradients(tape, batch).unwrap();
    assert_eq!(loss, dfdx.loss(tape, batch).unwrap(), "{name}: the loss depends on the tape");
    let all = norm(&gradients.concat());
    assert!(all > 1e-3, "{name}: gradient of norm {all} shows nothing");
    for (spec, gradient) in tape.specs().iter().zip(&gradients) {
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

fn param(t: &mut Tape, name: &str, shape: &[usize]) -> Param {
    t.param(name, shape, Init::Zeros, true).unwrap()
}

/// `x` through a linear layer of its own.
fn branch(t: &mut Tape, name: &str, x: Var, cols: usize) -> Var {
    let w = param(t, name, &[cols, t.cols(x)]);
    t.linear(x, w, None, None).unwrap()
}

type Build = Box<dyn Fn(&mut Tape, Var) -> Result<Var>>;

/// An op, recorded on an embedding of D columns and giving D columns.
fn ops() -> Vec<(String, Build)> {
    fn case(name: &str, build: impl Fn(&mut Tape, Var) -> Result<Var> + 'static) -> (String, Build) {
        (name.into(), Box::new(build))
    }
    let mut ops = vec![
        case("embedding", |_, x| Ok(x)),
        case("add_positions", |t, x| {
            let table = param(t, "positions", &[9, D]);
            t.add_positions(x, table)
        }),
        case("linear", |t, x| {
            let (w, bias) = (param(t, "w", &[D, D]), param(t, "bias", &[D]));
            let y = branch(t, "other", x, D);
            t.linear(x, w, Some(bias), Some(y))
        }),
        case("linear, its input the residual", |t, x| {
            let w = param(t, "w", &[D, D]);
            t.linear(x, w, None, Some(x))
        }),
        case("rms_norm", |t, x| {
            let gain = param(t, "gain", &[D]);
            t.rms_norm(x, gain, 1e-5)
        }),
        case("rms_norm by groups", |t, x| {
            let gain = param(t, "gain", &[D / 4]);
            t.rms_norm(x, gain, 1e-2)
        }),
        case("layer_norm", |t, x| {
            let (gain, bias) = (param(t, "gain", &[D]), param(t, "bias", &[D]));
            t.layer_norm(x, gain, bias, 1e-5)
        }),
        case("rope", |t, x| t.rope(x, 2, 100.0)),
        case("attention", |t, x| {
            let [q, k, v] = ["q", "k", "v"].map(|name| branch(t, name, x, D));
            t.attention(q, k, v, 2)
        }),
        case("attention of one value", |t, x| t.attention(x, x, x, 1)),
        case("swiglu", |t, x| {
            let (gate, up) = (branch(t, "gate", x, D), branch(t, "up", x, D));
            t.swiglu(gate, up)
        }),
        case("swiglu of one value", |t, x| t.swiglu(x, x)),
        case("gelu", |t, x| Ok(t.gelu(x))),
        case("add", |t, x| {
            let y = branch(t, "other", x, D);
            t.add(x, y)
        }),
        case("add to itself", |t, x| t.add(x, x)),
    ];
    for width in [1, 2, 4, 8] {
        for (residual, silu) in [(false, false), (true, false), (true, true)] {
            let options = format!("width {width}, residual {residual}, silu {silu}");
            ops.push(case(&format!("static conv, {options}"), move |t, x| {
                let w = param(t, "static_w", &[width, D]);
                t.short_conv(x, Filter::Static { w }, width, residual, silu)
            }));
            for bias in [false, true] {
                let static_w = move |t: &mut Tape| bias.then(|| param(t, "static_w", &[width, D]));
                ops.push(case(&format!("head-wise conv, {options}, bias {bias}"), move |t, x| {
                    let weight = branch(t, "weight", x, D / 4 * width);
                    let filter = Filter::HeadWise { weight, head_size: 4, static_w: static_w(t) };
                    t.short_conv(x, filter, width, residual, silu)
                }));
                ops.push(case(&format!("low-rank conv, {options}, bias {bias}"), move |t, x| {
                    let (z, u) = (branch(t, "a", x, 3), param(t, "u", &[3, width * D]));
                    let filter = Filter::LowRank { z, u, static_w: static_w(t) };
                    t.short_conv(x, filter, width, residual, silu)
                }));
            }
        }
    }
    ops
}

#[test]
fn every_op() {
    for (name, build) in ops() {
        for (batch, len, borders) in [(2, 3, None), (1, 6, Some(vec![0, 1, 3, 6]))] {
            let mut tape = Tape::new(batch, len).unwrap();
            let table = param(&mut tape, "table", &[D, D]);
            let x = tape.embedding(table).unwrap();
            let y = build(&mut tape, x).unwrap();
            tape.cross_entropy(y);
            let mut data = random_batch(&tape, D, 2);
            data.cu_seqlens = borders;
            check(&format!("{name}, {batch} x {len}"), &tape, &data, 16);
        }
    }
}

#[test]
fn whole_models() {
    use ConvKind::{HeadWise, LowRank, Static};
    let mut models = vec![
        ("plain".to_string(), tiny()),
        ("qk-norm, tied".into(), Transformer { qk_norm: true, tied: true, ..tiny() }),
        (
            "layer norm, gelu, learned positions".into(),
            Transformer { norm: Norm::Layer, mlp: Mlp::Gelu, positions: Positions::Learned, ..tiny() },
        ),
    ];
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
