//! What can be said of a program without a device: what runs as one, and what memory it takes.

use super::*;
use crate::op::Filter;
use crate::params::Init;

/// Blocks of attention with low-rank convolutions on q, k and v, as `crates/model` records them, and a SwiGLU MLP.
fn tape(blocks: usize, conv: bool) -> Tape {
    let (d, ffn, rank, width, vocab) = (32, 48, 4, 4, 64);
    let mut t = Tape::new(2, 16).unwrap();
    let normal = Init::Normal { std: 0.1 };
    let embed = t.param("embed", &[vocab, d], normal, true).unwrap();
    let mut x = t.embedding(embed).unwrap();
    for b in 0..blocks {
        let gain = t.param(format!("{b}.gain"), &[d], Init::Ones, false).unwrap();
        let h = t.rms_norm(x, gain, 1e-5).unwrap();
        let qkv = ["q", "k", "v"].map(|name| {
            let w = t.param(format!("{b}.{name}"), &[d, d], normal, true).unwrap();
            let mut y = t.linear(h, w, None, None).unwrap();
            if conv {
                let a = t.param(format!("{b}.{name}.a"), &[rank, d], normal, true).unwrap();
                let z = t.linear(h, a, None, None).unwrap();
                let u = t.param(format!("{b}.{name}.u"), &[rank, width * d], normal, true).unwrap();
                let s = t.param(format!("{b}.{name}.static"), &[width, d], normal, false).unwrap();
                y = t.short_conv(y, Filter::LowRank { z, u, static_w: Some(s) }, width, true, false).unwrap();
            }
            if name == "v" { y } else { t.rope(y, 2, 1e4).unwrap() }
        });
        let o = t.attention(qkv[0], qkv[1], qkv[2], 2).unwrap();
        let w = t.param(format!("{b}.o"), &[d, d], normal, true).unwrap();
        x = t.linear(o, w, None, Some(x)).unwrap();
        let [gate, up] = ["gate", "up"].map(|name| {
            let w = t.param(format!("{b}.{name}"), &[ffn, d], normal, true).unwrap();
            t.linear(x, w, None, None).unwrap()
        });
        let y = t.swiglu(gate, up).unwrap();
        let w = t.param(format!("{b}.down"), &[d, ffn], normal, true).unwrap();
        x = t.linear(y, w, None, Some(x)).unwrap();
    }
    let logits = t.linear(x, embed, None, None).unwrap();
    t.cross_entropy(logits);
    t
}

fn steps(tape: &Tape, pass: Pass) -> Vec<&'static str> {
    let groups = Groups::new(tape);
    let layout = Layout::new(tape, &groups);
    lower(tape, &groups, &layout, pass, Dtype::Bf16, None).program.steps.iter().map(|step| step.name).collect()
}

fn count(steps: &[&str], name: &str) -> usize {
    steps.iter().filter(|step| **step == name).count()
}

#[test]
fn linears_of_one_input_are_one_product_and_their_convolutions_one_launch() {
    let train = steps(&tape(3, true), Pass::Train);
    // Of a block: q, k, v and their generators; o; gate and up; down.
    for name in ["linear", "linear dx", "linear dw"] {
        assert_eq!(count(&train, name), 3 * 4, "{name}");
    }
    for name in ["short_conv", "short_conv back", "rope", "rope back", "attention", "attention back"] {
        assert_eq!(count(&train, name), 3, "{name}");
    }
    assert_eq!(count(&train, "copy") + count(&train, "add"), 0, "no gradient is gathered or moved");
    assert_eq!(count(&steps(&tape(3, true), Pass::Evaluate { keep: false }), "short_conv"), 3);
}

#[test]
fn every_parameter_has_a_place_of_its_own_and_taps_come_last() {
    let tape = tape(2, true);
    let layout = Layout::new(&tape, &Groups::new(&tape));
    let specs = tape.specs();
    let mut ends: Vec<(usize, usize)> =
        layout.at.iter().zip(specs.iter()).map(|(&at, s)| (at, at + s.numel())).collect();
    for (spec, &(from, to)) in specs.iter().zip(&ends) {
        let tap = spec.name.ends_with(".u") || spec.name.ends_with(".static");
        assert_eq!(from >= layout.taps, tap, "{}", spec.name);
        let decays = to <= layout.decayed || (from >= layout.taps && to <= layout.taps_decayed);
        assert_eq!(decays, spec.decay, "{}", spec.name);
    }
    // The weights of q, k, v and their generators: 3 x 32 + 3 x 4 rows, and 4 of padding that nothing else lies in.
    let place = |name: &str| specs.iter().position(|s| s.name == name).map(|i| layout.at[i]).unwrap();
    assert_eq!(place("0.v.a") + 4 * 32 - place("0.q"), 108 * 32);
    let padding = place("0.q") + 108 * 32..place("0.q") + 112 * 32;
    assert!(layout.at.iter().all(|at| !padding.contains(at)));
    ends.sort_unstable();
    assert!(ends.windows(2).all(|w| w[0].1 <= w[1].0) && ends[ends.len() - 1].1 <= layout.len);
    let params = Params::init(specs.clone(), 3);
    assert_eq!(layout.unpack(specs, &layout.pack(&params)), params);
}

#[test]
fn memory_is_planned_without_a_device() {
    let plan = MemoryPlan::new(&tape(8, true), Precision::Bf16).unwrap();
    assert!(plan.work < plan.work_unshared && plan.work > plan.work_unshared / 8, "{plan}");
    let shallow = MemoryPlan::new(&tape(2, true), Precision::Bf16).unwrap();
    assert!(plan.work > 2 * shallow.work, "activations of every block are kept: {plan}");
    assert!(plan.to_string().contains("moments"));
    let single = MemoryPlan::new(&tape(8, true), Precision::F32).unwrap();
    assert!(single.work > plan.work && single.parameters < plan.parameters);
}

#[test]
fn a_residual_shares_its_gradient_until_it_changes() {
    // x is read by the sum twice: both shares of its gradient are the sum's.
    let mut t = Tape::new(1, 4).unwrap();
    let embed = t.param("embed", &[8, 8], Init::Ones, true).unwrap();
    let x = t.embedding(embed).unwrap();
    let y = t.gelu(x);
    let z = t.add(x, y).unwrap();
    let z = t.add(z, x).unwrap();
    let logits = t.linear(z, embed, None, None).unwrap();
    t.cross_entropy(logits);
    let train = steps(&t, Pass::Train);
    assert_eq!(count(&train, "gelu back"), 1);
    assert!(count(&train, "add") >= 4, "two sums forward, two contributions to x's gradient: {train:?}");
}

#[test]
fn what_is_not_there_is_said_by_name() {
    // Only where there is a driver could this open.
    match CudaBackend::new(0, Precision::F32) {
        Ok(backend) => assert_eq!(backend.name(), "cuda:0-f32"),
        Err(e) => assert!(e.to_string().contains("hint:"), "{e}"),
    }
}
