//! Mixtures of experts: the router, the experts on the tokens that chose them, and back.

use std::mem::replace;

use kernels::cuda::dense::{self, MOE_EXPERTS, MOE_TOP_K, Mixture};
use kernels::moe::Shape;

use super::lower::Lower;
use super::program::View;
use crate::op::{Moe, Param};
use crate::tape::Tape;

/// What a mixture's backward needs of its forward.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// Choices, weights, slots.
    routing: View,
    /// Gate and up of each slot; the backward leaves their gradients.
    both: View,
}

impl Moe {
    /// Refuses sizes that the kernels cannot take.
    pub(super) fn check_cuda(&self, tape: &Tape) -> kernels::Result<()> {
        let s = self.shape(tape);
        let sizes = [("experts", s.experts, MOE_EXPERTS), ("top_k", s.top_k, MOE_TOP_K)];
        match sizes.into_iter().find(|(_, size, most)| size > most) {
            None => Ok(()),
            Some((name, found, most)) => Err(kernels::Error::Range {
                op: "cuda moe",
                name,
                found,
                range: format!("1..={most}"),
                remedy: "choose fewer, or run this model with --device cpu",
            }),
        }
    }
}

impl Lower<'_> {
    fn expert_weights(&self, op: &Moe, s: Shape) -> [View; 3] {
        let inward = |p| self.weight(p, s.experts * s.ffn, s.d);
        [inward(op.gate), inward(op.up), self.weight(op.down, s.experts * s.d, s.ffn)]
    }

    pub(super) fn moe_forward(&mut self, i: usize, op: Moe) {
        let (shape, options) = (op.shape(self.tape), op.options(1.0));
        let slots = Mixture::slots(shape);
        let logits = self.value(op.logits);
        let (routing, parts) = (self.statistics(Mixture::words(shape)), self.statistics(Mixture::route_parts(shape)));
        let (bias, biased) = (op.bias.map_or(logits, |b| self.master(b)), op.bias.is_some());
        let views = [logits, bias, parts, self.inputs.mixture(self.tape, i), routing];
        self.p.step("moe route", views, move |on, [logits, bias, parts, outcome, routing]| {
            let mixture = Mixture { shape, options, routing };
            dense::moe_route(on.device, mixture, logits, biased.then_some(bias), parts, outcome)
        });
        let hidden = self.temporary(slots, shape.ffn, self.dtype);
        let trains = self.trains();
        // A step has a fixed number of matrices: an evaluation names the hidden values in the place of gate and up.
        let both = if trains { self.temporary(slots, 2 * shape.ffn, self.dtype) } else { hidden };
        let out = self.temporary(slots, shape.d, self.dtype);
        let y = self.fresh(shape.d);
        let [gate, up, down] = self.expert_weights(&op, shape);
        let views = [self.value(op.x), gate, up, down, both, hidden, out, y, routing];
        self.p.step("moe", views, move |on, [x, gate, up, down, both, hidden, out, y, routing]| {
            let mixture = Mixture { shape, options, routing };
            let both = trains.then_some(both);
            dense::moe_experts(on.device, mixture, x, [gate, up, down], both, (hidden, out), y)
        });
        self.values[i] = Some(y);
        self.mixtures.insert(i, Kept { routing, both });
    }

    pub(super) fn moe_backward(&mut self, i: usize, op: Moe, dy: View) {
        let Some(Kept { routing, both }) = self.mixtures.remove(&i) else { return };
        let (shape, options) = (op.shape(self.tape), op.options(1.0));
        let slots = Mixture::slots(shape);
        let hidden = self.temporary(slots, shape.ffn, self.dtype);
        let out = self.temporary(slots, shape.d, self.dtype);
        let parts = self.statistics(Mixture::weight_parts(shape));
        let [gate, up, down] = self.expert_weights(&op, shape);
        let (dx, accumulate) = self.contribute(op.x);
        let views = [dy, gate, up, down, both, hidden, parts, out, dx, routing];
        self.p.step("moe back", views, move |on, [dy, gate, up, down, both, hidden, parts, out, dx, routing]| {
            let mixture = Mixture { shape, options, routing };
            let scratch = (hidden, parts, out);
            dense::moe_backward(on.device, mixture, dy, [gate, up, down], both, scratch, (dx, accumulate))
        });
        let params = [op.gate, op.up, op.down];
        let add = params.map(|p| replace(&mut self.touched[p.index()], true));
        let [dgate, dup, ddown] = params.map(|p| self.whole_gradient(p));
        let views = [self.value(op.x), dy, both, hidden, dgate, dup, ddown, routing];
        self.p.step("moe dw", views, move |on, [x, dy, both, hidden, dgate, dup, ddown, routing]| {
            let mixture = Mixture { shape, options, routing };
            dense::moe_weights_backward(on.device, mixture, (x, dy), (both, hidden), [dgate, dup, ddown], add)
        });
        let (dlogits, detours) = self.targets(&[op.logits]);
        let outcome = self.inputs.mixture(self.tape, i);
        let views = [self.value(op.logits), parts, outcome, self.inputs.share(), dlogits, routing];
        self.p.step("moe route back", views, move |on, [logits, parts, outcome, share, dlogits, routing]| {
            let mixture = Mixture { shape, options, routing };
            dense::moe_route_backward(on.device, mixture, logits, (parts, outcome, share), dlogits)
        });
        self.finish(detours);
        if let Some(bias) = op.bias {
            let accumulate = replace(&mut self.touched[bias.index()], true);
            self.p.step("moe excess", [outcome, self.whole_gradient(bias)], move |on, [load, excess]| {
                dense::moe_excess(on.device, shape, load, excess, accumulate)
            });
        }
    }

    fn whole_gradient(&self, p: Param) -> View {
        self.param_gradient(p, 1, self.tape.spec(p).numel())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::groups::Groups;
    use super::super::inputs::Inputs;
    use super::super::layout::Layout;
    use super::super::lower::{Lowered, Pass, lower};
    use super::super::{Dtype, supported};
    use super::*;
    use crate::op::Var;
    use crate::params::Init;

    /// An embedding, two mixtures of which the second is balanced by a bias, and a head.
    pub(in super::super) fn record(experts: usize, top_k: usize) -> Tape {
        let (d, ffn) = (16, 24);
        let mut t = Tape::new(2, 50).unwrap();
        let matrix = |t: &mut Tape, name: &str, rows, cols| t.param(name, &[rows, cols], Init::Zeros, true).unwrap();
        let table = matrix(&mut t, "table", 32, d);
        let mut x: Var = t.embedding(table).unwrap();
        for layer in ["a", "b"] {
            let router = matrix(&mut t, &format!("{layer}.router"), experts, d);
            let logits = t.linear(x, router, None, None).unwrap();
            let [gate, up] = ["gate", "up"].map(|w| matrix(&mut t, &format!("{layer}.{w}"), experts * ffn, d));
            let down = matrix(&mut t, &format!("{layer}.down"), experts * d, ffn);
            let bias = (layer == "b").then(|| t.balance("b.bias", experts, 0.1).unwrap());
            let (renormalize, aux_weight, z_weight) = (true, 0.1, 0.1);
            let moe = Moe { x, logits, gate, up, down, bias, top_k, renormalize, aux_weight, z_weight };
            let y = t.moe(moe).unwrap();
            x = t.add(x, y).unwrap();
        }
        let logits = t.linear(x, table, None, None).unwrap();
        t.cross_entropy(logits);
        t
    }

    fn lowered(tape: &Tape, pass: Pass) -> Lowered {
        let groups = Groups::new(tape);
        lower(tape, &groups, &Layout::new(tape, &groups), pass, Dtype::Bf16, "any", None)
    }

    fn count(lowered: &Lowered, name: &str) -> usize {
        lowered.program.steps.iter().filter(|step| step.name == name).count()
    }

    #[test]
    fn a_mixture_is_routed_forward_and_back_and_made_again() {
        let mut tape = record(5, 2);
        let train = lowered(&tape, Pass::Train { add: false });
        for name in ["moe route", "moe", "moe back", "moe dw", "moe route back"] {
            assert_eq!(count(&train, name), 2, "{name}");
        }
        assert_eq!((count(&train, "moe excess"), count(&train, "zero")), (1, 0), "no gradient is left out");
        let evaluate = lowered(&tape, Pass::Evaluate { keep: false });
        assert_eq!((count(&evaluate, "moe"), count(&evaluate, "moe back")), (2, 0));
        tape.set_recompute(true);
        assert_eq!(count(&lowered(&tape, Pass::Train { add: false }), "moe route"), 4);
    }

    #[test]
    fn a_balancing_bias_is_not_trained() {
        let tape = record(5, 2);
        let layout = Layout::new(&tape, &Groups::new(&tape));
        for (spec, &at) in tape.specs().iter().zip(&layout.at) {
            assert_eq!(at >= layout.trained, spec.name == "b.bias", "{}", spec.name);
        }
        assert!(layout.trained + 5 <= layout.len);
    }

    #[test]
    fn what_mixtures_report_comes_behind_the_scores() {
        let tape = record(3, 1);
        let inputs = Inputs::new(&tape, None);
        assert_eq!(inputs.outputs(), 2 * 100 + 2 * 4);
        let mut words = vec![0; 200];
        words.extend([60, 30, 10, 0.5f32.to_bits(), 0, 0, 100, 0.25f32.to_bits()]);
        let scores = inputs.scores(&words, [3, 3].into_iter());
        assert_eq!((scores.load, scores.aux), (vec![vec![60, 30, 10], vec![0, 0, 100]], 0.75));
    }

    #[test]
    fn what_is_beyond_the_kernels_is_refused_by_name() {
        assert!(supported(&record(256, 32)).is_ok());
        let refused = |experts, top_k| supported(&record(experts, top_k)).unwrap_err().to_string();
        let message = refused(257, 2);
        assert!(message.contains("cuda moe: experts = 257 is out of range 1..=256; choose fewer"), "{message}");
        assert!(refused(64, 33).contains("top_k = 33 is out of range 1..=32"));
    }
}
