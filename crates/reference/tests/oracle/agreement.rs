//! Every op and every model variant on an f32 backend against dfdx f64: loss, logits and the gradient of every parameter.

use backend::{Backend, Batch, CpuBackend, Part, Tape};
use model::Transformer;
use reference::DfdxBackend;

use crate::common::{VOCAB, distance, experts, norm, random_batch, random_state, rounding, variants, wide, wider};
use crate::op_tapes::{op_tapes, recurrent_tapes};

/// Relative distance allowed per tensor.
const TOLERANCE: f64 = 1e-5;
/// Where a gradient is 0 by the mathematics, a query's over one token say, the share of the whole gradient's norm that
/// f32 may round it to.
const ROUNDING: f64 = 2e-7;

/// `whole` is the norm of all tensors that `want` is one of, `rounding` the model's.
fn close(name: &str, what: &str, have: &[f64], want: &[f64], whole: f64, rounding: f64) {
    let (apart, size) = (distance(have, want), norm(want));
    let allowed = rounding * if size > 1e-12 * whole { TOLERANCE * size } else { ROUNDING * whole };
    assert!(apart <= allowed, "{name}: {what}: {apart:.3e} apart, of norm {size:.3e}");
}

fn check(other: &mut dyn Backend, name: &str, tape: &Tape, batch: &Batch, rounding: f64) {
    let state = random_state(tape, 4);
    let mut dfdx = DfdxBackend::<f64>::new();
    dfdx.load(state.clone()).unwrap();
    other.load(state).unwrap();

    let want = dfdx.evaluate(tape, batch).unwrap();
    let have = other.evaluate(tape, batch).unwrap();
    let name = &format!("{name} on {}", other.name());
    close(name, "loss", &[have.loss.into()], &[want.loss.into()], 0.0, rounding);
    close(name, "nll", &wide(&have.nll), &wide(&want.nll), 0.0, rounding);
    assert_eq!(have.predictions, want.predictions, "{name}");
    close(name, "auxiliary losses", &[have.aux.into()], &[want.aux.into()], 0.0, rounding);
    assert_eq!(have.load, want.load, "{name}");
    let logits = tape.logits().unwrap();
    close(name, "logits", &wide(&other.read(logits).unwrap()), &wide(&dfdx.read(logits).unwrap()), 0.0, rounding);

    let (_, want) = dfdx.loss_and_gradients(tape, batch).unwrap();
    assert_eq!(other.gradients(tape, batch).unwrap(), have, "{name}: evaluate and gradients score differently");
    let have = other.read_gradients().unwrap();
    let whole = norm(&want.concat());
    for ((spec, have), want) in tape.specs().iter().zip(&have.values).zip(&want) {
        close(name, &spec.name, &wide(have), want, whole, rounding);
    }
}

/// Rows of the lengths that break kernels, and packed rows: borders at 1, next to each other, and past the widest filter.
fn check_lengths(other: &mut dyn Backend, name: &str, model: &Transformer) {
    for (batch, len, borders) in
        [(2, 1, None), (1, 2, None), (2, 3, None), (1, 63, None), (1, 24, Some(vec![0, 1, 3, 12, 24]))]
    {
        let tape = model.record(batch, len).unwrap();
        let mut data = random_batch(&tape, VOCAB, len as u64);
        let name = format!("{name}, {batch} x {len}, borders {borders:?}");
        data.cu_seqlens = borders;
        check(other, &name, &tape, &data, rounding(model));
    }
}

#[test]
fn dfdx_f32_models() {
    for (name, model) in variants() {
        check_lengths(&mut DfdxBackend::<f32>::new(), &name, &model);
    }
}

#[test]
fn cpu_ops() {
    for (name, tape, batch) in op_tapes() {
        check(&mut CpuBackend::new(), &name, &tape, &batch, 1.0);
    }
}

#[test]
fn cpu_recurrences_across_chunks() {
    for (name, tape, batch) in recurrent_tapes() {
        check(&mut CpuBackend::new(), &name, &tape, &batch, 1.0);
    }
}

#[test]
fn cpu_models() {
    for (name, model) in variants() {
        check_lengths(&mut CpuBackend::new(), &name, &model);
    }
}

#[test]
fn cpu_wider_models() {
    for (name, model) in wider() {
        let tape = model.record(1, 300).unwrap();
        let mut batch = random_batch(&tape, VOCAB, 10);
        batch.cu_seqlens = Some(vec![0, 170, 300]);
        check(&mut CpuBackend::new(), &name, &tape, &batch, 1.0);
    }
}

/// Shares of two batches, one pass after the other, against the same sum of dfdx's gradients of each; auxiliary losses and the
/// loads of experts included.
#[test]
fn parts_of_a_batch_add_up() {
    let tape = experts(1.0).record(2, 9).unwrap();
    let parts = [(0.25, false), (0.75, true)].map(|(share, add)| Part { share, add });
    let batches = [1, 2].map(|seed| random_batch(&tape, VOCAB, seed));
    let state = random_state(&tape, 4);
    let mut dfdx = DfdxBackend::<f64>::new();
    dfdx.load(state.clone()).unwrap();
    let [one, two] = [0, 1].map(|i| dfdx.loss_and_gradients(&tape, &batches[i]).unwrap().1);
    for other in [&mut CpuBackend::new() as &mut dyn Backend, &mut DfdxBackend::<f32>::new()] {
        other.load(state.clone()).unwrap();
        for (batch, part) in batches.iter().zip(parts) {
            other.begin(&tape, batch, part).unwrap();
            let scores = other.scores().unwrap();
            assert_eq!(scores, other.evaluate(&tape, batch).unwrap(), "the part's own scores");
        }
        let have = other.read_gradients().unwrap();
        for (i, (spec, have)) in tape.specs().iter().zip(&have.values).enumerate() {
            // The loads of both parts count as they are.
            let [a, b] = if spec.balance.is_some() { [1.0, 1.0] } else { parts.map(|part| f64::from(part.share)) };
            let want: Vec<f64> = one[i].iter().zip(&two[i]).map(|(one, two)| a * one + b * two).collect();
            let whole = norm(&one.concat());
            close(&other.name(), &spec.name, &wide(have), &want, whole, rounding(&experts(1.0)));
        }
        assert!(other.scores().is_err(), "no pass is under way");
    }
}
