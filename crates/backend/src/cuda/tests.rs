//! What can be said of a program without a device: what runs as one, and what memory it takes.

use super::groups::Groups;
use super::layout::Layout;
use super::lower::lower;
use super::*;
use crate::op::{Filter, GatedDeltaRule};
use crate::params::Init;
use program::View;

/// Blocks of attention with low-rank convolutions on q, k and v, as `crates/model` records them, and a SwiGLU MLP.
pub(super) fn tape(blocks: usize, conv: bool) -> Tape {
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

/// MLPs whose gate and up are convolved, as wide as the launch that makes these with SwiGLU takes them.
pub(super) fn convolved_mlp(blocks: usize) -> Tape {
    let (d, ffn, rank, width, vocab) = (32, 136, 4, 4, 64);
    let mut t = Tape::new(2, 16).unwrap();
    let normal = Init::Normal { std: 0.1 };
    let embed = t.param("embed", &[vocab, d], normal, true).unwrap();
    let mut x = t.embedding(embed).unwrap();
    for b in 0..blocks {
        let [gate, up] = ["gate", "up"].map(|name| {
            let w = t.param(format!("{b}.{name}"), &[ffn, d], normal, true).unwrap();
            let y = t.linear(x, w, None, None).unwrap();
            let a = t.param(format!("{b}.{name}.a"), &[rank, d], normal, true).unwrap();
            let z = t.linear(x, a, None, None).unwrap();
            let u = t.param(format!("{b}.{name}.u"), &[rank, width * ffn], normal, true).unwrap();
            let s = t.param(format!("{b}.{name}.static"), &[width, ffn], normal, false).unwrap();
            t.short_conv(y, Filter::LowRank { z, u, static_w: Some(s) }, width, true, false).unwrap()
        });
        let y = t.swiglu(gate, up).unwrap();
        let w = t.param(format!("{b}.down"), &[d, ffn], normal, true).unwrap();
        x = t.linear(y, w, None, Some(x)).unwrap();
    }
    let logits = t.linear(x, embed, None, None).unwrap();
    t.cross_entropy(logits);
    t
}

/// Blocks of the gated delta rule, whose projections are columns of one product.
pub(super) fn recurrent(blocks: usize) -> Tape {
    let (d, heads, vocab) = (32, 2, 64);
    let mut t = Tape::new(2, 16).unwrap();
    let normal = Init::Normal { std: 0.1 };
    let embed = t.param("embed", &[vocab, d], normal, true).unwrap();
    let mut x = t.embedding(embed).unwrap();
    for i in 0..blocks {
        let gain = t.param(format!("{i}.gain"), &[d], Init::Ones, false).unwrap();
        let h = t.rms_norm(x, gain, 1e-5).unwrap();
        let mut project = |name: &str, cols| {
            let w = t.param(format!("{i}.{name}"), &[cols, d], normal, true).unwrap();
            t.linear(h, w, None, None).unwrap()
        };
        let [q, k, v] = [("q", 16), ("k", 16), ("v", d)].map(|(name, cols)| project(name, cols));
        let [a, b] = ["a", "b"].map(|name| project(name, heads));
        let [a_log, dt_bias] =
            ["a_log", "dt_bias"].map(|name| t.param(format!("{i}.{name}"), &[heads], Init::Zeros, false).unwrap());
        let y = t.gated_delta_rule(GatedDeltaRule { q, k, v, a, b, a_log, dt_bias }).unwrap();
        let w = t.param(format!("{i}.o"), &[d, d], normal, true).unwrap();
        x = t.linear(y, w, None, Some(x)).unwrap();
    }
    let logits = t.linear(x, embed, None, None).unwrap();
    t.cross_entropy(logits);
    t
}

fn steps(tape: &Tape, pass: Pass) -> Vec<&'static str> {
    steps_on(tape, pass, "any")
}

fn steps_on(tape: &Tape, pass: Pass, arch: &str) -> Vec<&'static str> {
    let groups = Groups::new(tape);
    let layout = Layout::new(tape, &groups);
    lower(tape, &groups, &layout, pass, Dtype::Bf16, arch, None).program.steps.iter().map(|step| step.name).collect()
}

fn count(steps: &[&str], name: &str) -> usize {
    steps.iter().filter(|step| **step == name).count()
}

#[test]
fn linears_of_one_input_are_one_product_and_their_convolutions_one_launch() {
    let train = steps(&tape(3, true), Pass::Train { add: false });
    // Of a block: q, k, v and their generators; o; gate and up; down.
    for name in ["linear", "linear dx", "linear dw"] {
        assert_eq!(count(&train, name), 3 * 4, "{name}");
    }
    for name in ["short_conv", "short_conv back", "rope", "attention", "attention back"] {
        assert_eq!(count(&train, name), 3, "{name}");
    }
    assert_eq!(count(&train, "rope back"), 0, "attention turns its gradients back");
    assert_eq!(count(&train, "copy") + count(&train, "add"), 0, "no gradient is gathered or moved");
    assert_eq!(count(&steps(&tape(3, true), Pass::Evaluate { keep: false }), "short_conv"), 3);
}

#[test]
fn the_inputs_of_a_recurrence_are_one_product_and_their_gradients_are_not_moved() {
    let train = steps(&recurrent(3), Pass::Train { add: false });
    // Of a block: all projections; o.
    for (name, n) in [("linear", 6), ("linear dx", 6), ("gated_delta_rule", 3), ("gated_delta_rule back", 3)] {
        assert_eq!(count(&train, name), n, "{name}");
    }
    assert_eq!(count(&train, "copy") + count(&train, "add"), 0);
}

#[test]
fn convolutions_of_gate_and_up_run_with_swiglu_where_the_device_can() {
    let (tape, train) = (convolved_mlp(2), Pass::Train { add: false });
    let fused = steps_on(&tape, train, "sm_90a");
    for name in ["conv + swiglu", "conv + swiglu back", "short_conv back"] {
        assert_eq!(count(&fused, name), 2, "{name}");
    }
    for name in ["short_conv", "swiglu", "swiglu back", "copy", "add"] {
        assert_eq!(count(&fused, name), 0, "{name}");
    }
    for apart in [steps(&tape, train), steps_on(&tape, Pass::Evaluate { keep: true }, "sm_90a")] {
        assert_eq!((count(&apart, "short_conv"), count(&apart, "swiglu")), (2, 2));
    }
    let bytes = |arch| {
        let groups = Groups::new(&tape);
        lower(&tape, &groups, &Layout::new(&tape, &groups), train, Dtype::Bf16, arch, None).program.place().1
    };
    // Of 32 tokens and 2 x 136 channels; of the block that runs backward first nothing is saved.
    assert!(bytes("sm_90a") + 32 * 272 * 2 <= bytes("any"));
}

#[test]
fn an_output_that_is_read_twice_is_kept() {
    let mut t = Tape::new(1, 4).unwrap();
    let embed = t.param("embed", &[136, 136], Init::Ones, true).unwrap();
    let x = t.embedding(embed).unwrap();
    let [a, b] = ["a", "b"].map(|name| {
        let w = t.param(format!("{name}.w"), &[136, 136], Init::Ones, true).unwrap();
        let code = t.param(format!("{name}.a"), &[8, 136], Init::Ones, true).unwrap();
        let u = t.param(format!("{name}.u"), &[8, 4 * 136], Init::Ones, true).unwrap();
        let (y, z) = (t.linear(x, w, None, None).unwrap(), t.linear(x, code, None, None).unwrap());
        t.short_conv(y, Filter::LowRank { z, u, static_w: None }, 4, true, false).unwrap()
    });
    let h = t.swiglu(a, b).unwrap();
    let twice = t.add(h, a).unwrap();
    let logits = t.linear(twice, embed, None, None).unwrap();
    t.cross_entropy(logits);
    let train = steps_on(&t, Pass::Train { add: false }, "sm_90a");
    assert_eq!((count(&train, "short_conv"), count(&train, "swiglu"), count(&train, "conv + swiglu")), (1, 1, 0));
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
    let plan = MemoryPlan::new(&tape(8, true), Precision::Bf16, false).unwrap();
    assert!(plan.work < plan.work_unshared && plan.work > plan.work_unshared / 8, "{plan}");
    let shallow = MemoryPlan::new(&tape(2, true), Precision::Bf16, false).unwrap();
    assert!(plan.work > 2 * shallow.work, "activations of every block are kept: {plan}");
    assert!(plan.to_string().contains("moments"));
    let single = MemoryPlan::new(&tape(8, true), Precision::F32, false).unwrap();
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
    let train = steps(&t, Pass::Train { add: false });
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

/// The memories of a program on the host, filled at first touch with a pattern that no sum hides; `f32` programs only.
struct Host(std::collections::HashMap<program::Home, Vec<f32>>);

impl Host {
    fn at(&mut self, v: View, row: usize, col: usize) -> &mut f32 {
        let memory =
            self.0.entry(v.home).or_insert_with(|| (0..1 << 16).map(|i| (i * 37 % 101) as f32 - 50.0).collect());
        &mut memory[v.at + row * v.stride + col]
    }

    /// `out = a b`, by element functions of row and column.
    fn product(
        &mut self,
        out: View,
        inner: usize,
        a: impl Fn(&mut Self, usize, usize) -> f32,
        b: impl Fn(&mut Self, usize, usize) -> f32,
    ) {
        for row in 0..out.rows {
            for col in 0..out.cols {
                let sum = (0..inner).map(|k| a(self, row, k) * b(self, k, col)).sum();
                *self.at(out, row, col) = sum;
            }
        }
    }

    fn read(&mut self, v: View) -> Vec<f32> {
        (0..v.rows * v.cols).map(|i| *self.at(v, i / v.cols, i % v.cols)).collect()
    }
}

/// The products of q, k, v and their generators, run on the host as the steps name their matrices: 108 columns and 4 of padding
/// that hold garbage before.
#[test]
fn padded_products_are_those_of_their_parts() {
    let tape = tape(1, true);
    let (groups, specs) = (Groups::new(&tape), tape.specs());
    let layout = Layout::new(&tape, &groups);
    let program = lower(&tape, &groups, &layout, Pass::Train { add: false }, Dtype::F32, "any", None).program;
    let params = Params::init(specs.clone(), 5);
    let mut host = Host([(program::Home::Values, layout.pack(&params))].into());
    let names = ["0.q", "0.k", "0.v", "0.q.a", "0.k.a", "0.v.a"];
    let param = |name: &str| specs.iter().position(|s| s.name == name).unwrap();
    let first = layout.at[param("0.q")];
    let step = |name: &str, place: usize| {
        let found =
            program.steps.iter().find(|s| s.name == name && s.views[place].at == first && s.views[place].rows == 112);
        found.map(|s| s.views.clone()).unwrap()
    };

    let [x, w, y] = step("linear", 1)[..] else { panic!() };
    host.product(y, x.cols, |h, n, k| *h.at(x, n, k), |h, k, o| *h.at(w, o, k));
    let mut at = 0;
    for name in names {
        let rows = specs[param(name)].shape[0];
        let weight = &params.values[param(name)];
        for (n, o) in [(0, 0), (7, rows - 1), (31, rows / 2)] {
            let want: f32 = (0..32).map(|k| *host.at(x, n, k) * weight[o * 32 + k]).sum();
            assert_eq!(*host.at(y, n, at + o), want, "{name}");
        }
        at += rows;
    }
    assert_eq!((at, y.cols), (108, 112));

    let ([dy, dw_x, dw], [dx_dy, dx_w, dx]) = (&step("linear dw", 2)[..], &step("linear dx", 1)[..]) else { panic!() };
    assert_eq!((dy, dw_x, dx_w), (dx_dy, &x, &w));
    let given = host.read(dy.columns(0, 108));
    let pad = program.steps.iter().find(|s| s.name == "pad" && s.views[0].home == dy.home).unwrap().views[0];
    assert_eq!(pad, dy.columns(108, 4));
    (0..pad.rows * 4).for_each(|i| *host.at(pad, i / 4, i % 4) = 0.0);
    host.product(*dx, dy.cols, |h, n, o| *h.at(*dy, n, o), |h, o, k| *h.at(w, o, k));
    host.product(*dw, dy.rows, |h, o, n| *h.at(*dy, n, o), |h, n, k| *h.at(x, n, k));
    assert_eq!(host.read(dy.columns(0, 108)), given, "the gradient itself is left alone");
    let all: Vec<f32> = names.iter().flat_map(|name| params.values[param(name)].iter().copied()).collect();
    for (n, k) in [(0, 0), (31, 31), (5, 17)] {
        let want: f32 = (0..108).map(|o| given[n * 108 + o] * all[o * 32 + k]).sum();
        assert!((*host.at(*dx, n, k) - want).abs() <= 1e-4 * want.abs().max(1.0));
    }
    let flat = host.0[&program::Home::Gradients][..layout.taps].to_vec();
    let mut at = 0;
    for name in names {
        let (place, rows) = (layout.at[param(name)], specs[param(name)].shape[0]);
        let want: f32 = (0..32).map(|n| given[n * 108 + at] * *host.at(x, n, 3)).sum();
        assert_eq!(flat[place + 3], want, "{name}");
        at += rows;
    }
    assert!(flat[first + 108 * 32..first + 112 * 32].iter().all(|&g| g == 0.0), "padding has no gradient");
}
