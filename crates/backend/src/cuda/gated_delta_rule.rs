//! The gated delta rule: its work is shared with other launches, and the backward makes the states again.

use kernels::cuda::Dtype;
use kernels::cuda::dense::{self, DeltaGrad, DeltaRule, DeltaShape};

use super::lower::Lower;
use super::program::View;
use crate::op::{GatedDeltaRule, Param, Var};
use crate::tape::Tape;

/// Its dimensions for so many sequences.
pub(super) fn delta_shape(tape: &Tape, op: GatedDeltaRule, seqs: usize) -> DeltaShape {
    let heads = tape.cols(op.a);
    let (key_size, value_size) = (tape.cols(op.q) / heads, tape.cols(op.v) / heads);
    DeltaShape { rows: tape.tokens(), seqs, heads, key_size, value_size }
}

impl Lower<'_> {
    pub(super) fn delta_forward(&mut self, i: usize, op: GatedDeltaRule) {
        let o = self.fresh(self.tape.cols(op.v));
        let (shape, packed) = (self.delta_shape(op), self.packed);
        let [q, k, v, a, b, a_log, dt_bias, cu] = self.delta_operands(op);
        let [w, u, k_end, whole, states] = shape.work().map(|(rows, cols)| self.temporary(rows, cols, Dtype::F32));
        let views = [q, k, v, a, b, a_log, dt_bias, cu, o, w, u, k_end, whole, states];
        self.p.step("gated_delta_rule", views, move |on, [q, k, v, a, b, a_log, dt_bias, cu, o, work @ ..]| {
            let cu_seqlens = packed.then_some(cu);
            let op = DeltaRule { shape, cu_seqlens, inputs: [q, k, v, a, b], params: [a_log, dt_bias] };
            dense::gated_delta_rule(on.device, op, o, work)
        });
        self.values[i] = Some(o);
    }

    pub(super) fn delta_backward(&mut self, op: GatedDeltaRule, d_o: View) {
        let (shape, packed) = (self.delta_shape(op), self.packed);
        let mut detours = Vec::new();
        let [dq, dk, dv, da, db] = [op.q, op.k, op.v, op.a, op.b].map(|x| {
            let (dx, more) = self.targets(&[x]);
            detours.extend(more);
            dx
        });
        let mut gradient = |p: Param| {
            let accumulate = std::mem::replace(&mut self.touched[p.index()], true);
            (self.param_gradient(p, 1, shape.heads), accumulate)
        };
        let [(da_log, add_log), (ddt_bias, add_bias)] = [op.a_log, op.dt_bias].map(&mut gradient);
        let [q, k, v, a, b, a_log, dt_bias, cu] = self.delta_operands(op);
        let [w, u, k_end, whole, states] = shape.work().map(|(rows, cols)| self.temporary(rows, cols, Dtype::F32));
        let [t, q_start, dw, dstates] =
            shape.work_backward().map(|(rows, cols)| self.temporary(rows, cols, Dtype::F32));
        let shares = self.temporary(1, shape.shares(), Dtype::F64);
        let views = [
            q, k, v, a, b, a_log, dt_bias, cu, d_o, dq, dk, dv, da, db, da_log, ddt_bias, w, u, k_end, whole, states,
            t, q_start, dw, dstates, shares,
        ];
        self.p.step("gated_delta_rule back", views, move |on, views| {
            let [q, k, v, a, b, a_log, dt_bias, cu, d_o, dq, dk, dv, da, db, da_log, ddt_bias, rest @ ..] = views;
            let [w, u, k_end, whole, states, t, q_start, dw, dstates, shares] = rest;
            let cu_seqlens = packed.then_some(cu);
            let op = DeltaRule { shape, cu_seqlens, inputs: [q, k, v, a, b], params: [a_log, dt_bias] };
            let grad =
                DeltaGrad { inputs: [dq, dk, dv, da, db], params: [da_log, ddt_bias], accumulate: [add_log, add_bias] };
            let work = ([w, u, k_end, whole, states], [t, q_start, dw, dstates], shares);
            dense::gated_delta_rule_backward(on.device, op, d_o, grad, work)
        });
        self.finish(detours);
    }

    fn delta_shape(&self, op: GatedDeltaRule) -> DeltaShape {
        delta_shape(self.tape, op, if self.packed { self.inputs.cu_seqlens().cols - 1 } else { self.batch() })
    }

    /// q, k, v, a, b, a_log, dt_bias and the borders of sequences.
    fn delta_operands(&self, op: GatedDeltaRule) -> [View; 8] {
        let [q, k, v, a, b] = [op.q, op.k, op.v, op.a, op.b].map(|x: Var| self.value(x));
        [q, k, v, a, b, self.master(op.a_log), self.master(op.dt_bias), self.inputs.cu_seqlens()]
    }
}
