//! What the backend refuses, and that it says so.

use backend::{Backend, Batch, IGNORE, Init, Params, State, Tape};
use reference::DfdxBackend;

use crate::common::{VOCAB, random_batch, random_state, tiny};

fn says<T: std::fmt::Debug>(result: backend::Result<T>, part: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(part), "{message}");
}

#[test]
fn calls_out_of_order() {
    let tape = tiny().record(1, 4).unwrap();
    let batch = random_batch(&tape, VOCAB, 0);
    let mut dfdx = DfdxBackend::<f64>::new();
    says(dfdx.state(), "no parameters loaded");
    says(dfdx.evaluate(&tape, &batch), "no parameters loaded");
    dfdx.load(random_state(&tape, 0)).unwrap();
    says(dfdx.read_gradients(), "no gradients");
    says(dfdx.read(tape.logits().unwrap()), "no value");
    let rule = backend::AdamW { lr: 1.0, beta1: 0.9, beta2: 0.9, eps: 1e-8, weight_decay: 0.0, clip: 0.0 };
    says(dfdx.update(&rule), "no gradients");
    dfdx.gradients(&tape, &batch).unwrap();
    dfdx.load(random_state(&tape, 1)).unwrap();
    says(dfdx.read_gradients(), "no gradients");
}

#[test]
fn batches_and_parameters_that_do_not_fit() {
    let tape = tiny().record(1, 4).unwrap();
    let mut dfdx = DfdxBackend::<f32>::new();
    dfdx.load(random_state(&tape, 0)).unwrap();
    let good = random_batch(&tape, VOCAB, 0);
    let mut check = |batch: Batch, part| {
        says(dfdx.evaluate(&tape, &batch), part);
        says(dfdx.gradients(&tape, &batch), part);
    };
    check(Batch { ids: vec![0; 3], ..good.clone() }, "3 ids and 4 targets");
    check(Batch { ids: vec![0, 1, 11, 0], ..good.clone() }, "id 11 in a vocabulary of 11");
    check(Batch { ids: vec![IGNORE; 4], ..good.clone() }, "in a vocabulary of 11");
    check(Batch { targets: vec![0, 1, 11, IGNORE], ..good.clone() }, "target 11 in a vocabulary of 11");
    check(Batch { targets: vec![IGNORE; 4], ..good.clone() }, "none of 4 positions has a target");
    check(Batch { cu_seqlens: Some(vec![0, 5]), ..good.clone() }, "cu_seqlens [0, 5]");

    says(dfdx.set_parameter("norm.weight", vec![1.0; 3]), "3 values for 16 elements");
    says(dfdx.set_parameter("nothing", vec![]), "not among");
    let other = model::Transformer { d_model: 32, ..tiny() }.record(1, 4).unwrap();
    says(dfdx.evaluate(&other, &good), "parameter embed.weight");
    let mut state = random_state(&tape, 0);
    state.v = Params::zeros(other.specs());
    says(dfdx.load(state), "parameter embed.weight");
}

#[test]
fn a_tape_without_loss_runs_forward_only() {
    let mut tape = Tape::new(1, 2).unwrap();
    let table = tape.param("table", &[3, 2], Init::Normal { std: 1.0 }, true).unwrap();
    tape.param("unused", &[1], Init::Ones, false).unwrap();
    let x = tape.embedding(table).unwrap();
    let mut dfdx = DfdxBackend::<f64>::new();
    let state = State::new(Params::init(tape.specs(), 0));
    let rows = state.params.values[0].clone();
    dfdx.load(state).unwrap();
    let batch = Batch::new(vec![2, 0], vec![0, 1]);
    assert_eq!(dfdx.evaluate(&tape, &batch).unwrap(), backend::Scores::default());
    assert_eq!(dfdx.read(x).unwrap(), [&rows[4..], &rows[..2]].concat());
    says(dfdx.gradients(&tape, &batch), "no loss");
    says(dfdx.loss(&tape, &batch), "no loss");

    // A parameter that nothing uses has a gradient of zero.
    tape.cross_entropy(x);
    dfdx.gradients(&tape, &batch).unwrap();
    assert_eq!(dfdx.read_gradients().unwrap().get("unused").unwrap(), [0.0]);
}
