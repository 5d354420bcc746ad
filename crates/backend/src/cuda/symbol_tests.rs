//! Programs run by symbol on one memory as it is planned, with and without recomputation and for the parts of a batch: every element
//! is a hash of how it came about, so that a value read after others have taken its bytes, or before it is made, ends in another
//! gradient.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::groups::Groups;
use super::layout::Layout;
use super::lower::lower;
use super::moe::tests::record;
use super::ssd::tests::recurrences;
use super::tests::{convolved_mlp, recurrent, tape};
use super::*;
use crate::op::Op;
use crate::params::ParamSpec;
use program::{Home, Step, View};
use segments::segments;

/// Which matrices of a step are written, and of those which hold sums that it may add to.
fn written(name: &str, views: usize) -> (&'static [usize], bool) {
    match name {
        "embedding" | "add" | "swiglu" | "linear" | "classifier" => (&[2], false),
        "norm" => (&[1, 2], false),
        "add + norm" => (&[2, 3, 4], false),
        "copy" | "short_conv" | "gelu" | "conv + swiglu" => (&[1], false),
        "rope" | "rope back" => (&[3], false),
        "attention" => (&[3, 4], false),
        "cross_entropy" => (&[0, 2, 3], false),
        "linear dx" | "linear dw" | "classifier dx" | "classifier dw" => (&[2], true),
        // The last is scratch; the gain stands in the place of the bias of a layer norm.
        "norm back" => (&[3, 5, 6, 7], true),
        "swiglu back" => (&[3, 4], false),
        "gelu back" | "conv + swiglu back" => (&[2], false),
        "attention back" => (&[6, 7, 8], false),
        "short_conv back" => (&[2, 6, 7, 8], false),
        "embedding back" => (&[5], true),
        // All work is written before it is read.
        "gated_delta_rule" => (&[8, 9, 10, 11, 12, 13], false),
        "gated_delta_rule back" => (&[9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25], true),
        "chunks" | "moe excess" => (&[1], name == "moe excess"),
        "ssd" => (&[8, 9], false),
        "ssd back" => (&[10, 11, 12, 13, 14, 15, 16, 17, 18], true),
        "moe route" => (&[2, 3, 4], false),
        "moe" => (&[4, 5, 6, 7], false),
        // Gate and up become their gradients.
        "moe back" => (&[4, 5, 6, 7, 8], true),
        "moe dw" => (&[4, 5, 6], true),
        "moe route back" => (&[4], false),
        "zero" | "pad" => (&[0], false),
        other => panic!("{other} of {views} matrices"),
    }
}

/// What each element of each memory came from.
struct Symbols {
    places: Vec<usize>,
    elements: HashMap<(Option<Home>, usize), u64>,
    /// Regions of gradients written so far.
    held: HashSet<(Home, usize)>,
}

impl Symbols {
    /// The bytes of an element, by the half word.
    fn key(&self, v: View, i: usize) -> (Option<Home>, usize) {
        let at = v.at + i / v.cols * v.stride + i % v.cols;
        match v.home {
            Home::Work(buffer) => (None, self.places[buffer] / 2 + at * v.dtype.bytes() / 2),
            home => (Some(home), at * v.dtype.bytes() / 2),
        }
    }

    fn read(&self, v: View) -> u64 {
        let mut hasher = DefaultHasher::new();
        for i in 0..v.rows * v.cols {
            self.elements.get(&self.key(v, i)).copied().unwrap_or(0).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn run(&mut self, step: &Step) {
        let (outputs, sums) = written(step.name, step.views.len());
        let fresh = |s: &Self, v: View| !s.held.contains(&(v.home, v.at));
        let reads = step.views.iter().enumerate().map(|(i, &v)| match outputs.contains(&i) {
            // Operands named twice are inputs too; what a gradient holds is, where something has been added to it before.
            true if step.name == "cross_entropy" && i == 0 => self.read(v),
            true if sums && !fresh(self, v) => self.read(v),
            true => 0,
            false => self.read(v),
        });
        let mut reads: Vec<u64> = reads.collect();
        if step.name == "add + norm" {
            // As a sum and then a norm: the sum is rounded before it is normed.
            let sum = View { ..step.views[2] };
            self.write(("add", 2), &[reads[0], reads[1], 0], sum);
            reads = vec![self.read(sum), 0, 0, reads[5], reads[6]];
            self.write(("norm", 1), &reads, step.views[3]);
            self.write(("norm", 2), &reads, step.views[4]);
            return;
        }
        for &o in outputs {
            self.write((step.name, o), &reads, step.views[o]);
            self.held.insert((step.views[o].home, step.views[o].at));
        }
    }

    fn write(&mut self, what: (&str, usize), reads: &[u64], v: View) {
        for i in 0..v.rows * v.cols {
            let mut hasher = DefaultHasher::new();
            (what, reads, i).hash(&mut hasher);
            self.elements.insert(self.key(v, i), hasher.finish());
            // The other half of a wide element, and what of it was there.
            if v.dtype.bytes() == 4 {
                let (home, at) = self.key(v, i);
                self.elements.insert((home, at + 1), hasher.finish());
            }
        }
    }
}

/// Hashes of all gradients, losses and likeliest tokens after a training pass; with `before`, one that adds to gradients that this
/// marks.
fn outcome(tape: &Tape, before: Option<u64>, arch: &str) -> Vec<(String, u64)> {
    let groups = Groups::new(tape);
    let layout = Layout::new(tape, &groups);
    let program = lower(tape, &groups, &layout, Pass::Train { add: before.is_some() }, Dtype::Bf16, arch, None).program;
    let mut symbols = Symbols { places: program.place().0, elements: HashMap::new(), held: HashSet::new() };
    // Parameters and inputs differ from element to element.
    for home in [Home::Values, Home::Copy, Home::Inputs, Home::Tables] {
        for at in 0..1 << 17 {
            let mut hasher = DefaultHasher::new();
            (home, at).hash(&mut hasher);
            symbols.elements.insert((Some(home), at), hasher.finish());
        }
    }
    if let Some(before) = before {
        let balances = layout.len - layout.trained;
        let lens =
            [(Home::Gradients, 2 * (layout.taps + balances)), (Home::TapGradients, layout.trained - layout.taps)];
        for (home, len) in lens {
            for at in 0..len {
                symbols.elements.insert((Some(home), at), before);
            }
            // Sums of f32 gradients start anywhere in them.
            symbols.held.extend((0..len).map(|at| (home, at)));
        }
    }
    program.steps.iter().for_each(|step| symbols.run(step));
    let mut left: Vec<(String, u64)> = symbols
        .elements
        .iter()
        .filter(|((home, _), _)| matches!(home, Some(Home::Gradients | Home::TapGradients | Home::Outputs)))
        .map(|((home, at), &hash)| (format!("{home:?} {at}"), hash))
        .collect();
    left.sort();
    left
}

fn recomputing(tape: &Tape) -> Tape {
    let mut tape = tape.clone();
    tape.set_recompute(true);
    tape
}

#[test]
fn gradients_come_about_as_without_recomputation() {
    for (tape, arch) in [
        (tape(3, false), "any"),
        (tape(3, true), "any"),
        (convolved_mlp(2), "any"),
        (convolved_mlp(2), "sm_90a"),
        (recurrent(3), "any"),
        (recurrences(3, 4, 8), "any"),
        (record(5, 2), "any"),
    ] {
        let (plain, again) = (outcome(&tape, None, arch), outcome(&recomputing(&tape), None, arch));
        assert!(plain.len() > 10_000 && plain.iter().all(|(_, hash)| *hash != 0));
        let differing = plain.iter().zip(&again).find(|(a, b)| a != b);
        assert_eq!((plain.len(), differing), (again.len(), None), "{arch}");
    }
}

/// Every gradient of a pass that adds depends on what was there before, and every parameter's is written.
#[test]
fn a_part_adds_to_every_gradient() {
    for (tape, arch) in [
        (tape(2, true), "any"),
        (convolved_mlp(1), "sm_90a"),
        (recurrent(2), "any"),
        (recurrences(2, 4, 4), "any"),
        (record(5, 2), "any"),
    ] {
        let (one, other) = (outcome(&tape, Some(1), arch), outcome(&tape, Some(2), arch));
        for (a, b) in one.iter().zip(&other) {
            assert_eq!(a == b, a.0.contains("Outputs"), "{}: scores are the part's own, gradients are sums", a.0);
        }
        // By the half word: gradients of taps are as narrow as activations.
        let tap = |s: &ParamSpec| s.name.ends_with(".u") || s.name.ends_with(".static");
        let halves = |s: &ParamSpec| s.numel() * if tap(s) { 1 } else { 2 };
        let written = one.iter().filter(|(at, hash)| *hash > 2 && !at.contains("Outputs")).count();
        assert!(written >= tape.specs().iter().map(halves).sum(), "{written}");
    }
}

#[test]
fn a_block_is_cut_at_the_residual_stream() {
    let tape = tape(2, true);
    let found = segments(&tape, &Groups::new(&tape));
    let names =
        |segment: &segments::Segment| -> Vec<&str> { segment.again.iter().map(|&i| tape.ops()[i].name()).collect() };
    // Two blocks of a mixer and an MLP each; what ends a stretch is kept.
    assert_eq!(found.len(), 4);
    assert_eq!(names(&found[1]), ["linear", "linear", "swiglu"]);
    assert!(names(&found[0]).contains(&"attention") && names(&found[0])[0] == "rms_norm");
    for segment in &found {
        assert!(matches!(tape.ops()[segment.end - 1], Op::Linear { residual: Some(_), .. }));
        assert!(!segment.again.contains(&(segment.end - 1)));
    }
}

#[test]
fn recomputation_takes_less_memory_and_one_more_forward_pass() {
    let tape = tape(8, true);
    let again = recomputing(&tape);
    let plan = |tape: &Tape| MemoryPlan::new(tape, Precision::Bf16, false).unwrap();
    let (kept, less) = (plan(&tape), plan(&again));
    assert!(less.work < kept.work / 2, "{less} {kept}");
    assert_eq!(less.total() - less.work, kept.total() - kept.work);
    let deeper = plan(&recomputing(&super::tests::tape(16, true)));
    // A block more keeps its two sums, of 2 x 16 tokens, 32 columns and 2 bytes, and some padding.
    assert!(deeper.work - less.work <= 8 * 2 * 2 * 2048, "{deeper} {less}");
    let count = |tape: &Tape, name: &str| {
        let groups = Groups::new(tape);
        let layout = Layout::new(tape, &groups);
        let steps = lower(tape, &groups, &layout, Pass::Train { add: false }, Dtype::Bf16, "any", None).program.steps;
        steps.iter().filter(|step| step.name == name).count()
    };
    for (name, n) in [("attention", 8), ("short_conv", 8), ("swiglu", 8), ("attention back", 0), ("classifier", 0)] {
        assert_eq!(count(&again, name), count(&tape, name) + n, "{name}");
    }
}
