//! SwiGLU with the convolutions of gate and up in its launch: their outputs are kept nowhere, and made again for the backward.

use kernels::cuda::dense;
use kernels::cuda::short_conv::{Shape, takes_swiglu};

use super::conv::{ConvPlan, Kind};
use super::lower::Lower;
use super::program::View;
use crate::op::{Op, Var};

impl Lower<'_> {
    /// The convolutions that run with op i, if they are those of a SwiGLU's gate and up, nothing else reads their outputs and the
    /// device has a launch for all three.
    pub(super) fn under_swiglu(&self, i: usize) -> Option<ConvPlan> {
        let &[gate, up] = &self.groups.of(i)?.0[..] else { return None };
        let [readers, others] = [gate, up].map(|op| &self.groups.uses[op][..]);
        let (&[swiglu], true) = (readers, readers == others) else { return None };
        let reads = Op::SwiGlu { gate: Var(gate), up: Var(up) };
        if self.keeps() || self.tape.ops()[swiglu] != reads {
            return None;
        }
        let plan = self.conv(i)?;
        let Kind::LowRank { .. } = plan.spec.kind else { return None };
        let [code, u, fixed] = plan.taps;
        let len = self.tokens() / self.batch();
        let shape = Shape { streams: 2, batch: self.batch(), len, d: plan.cols, width: plan.spec.width };
        let aligned =
            |v: View| (v.at * v.dtype.bytes()).is_multiple_of(16) && (v.stride * v.dtype.bytes()).is_multiple_of(16);
        // Static taps that are not there are named by the code, of which any place will do.
        let rows = [plan.x, u, if plan.fixed.is_some() { fixed } else { u }];
        let taken = takes_swiglu(self.arch, shape, plan.spec.options, code.cols / 2, self.dtype);
        (taken && rows.into_iter().all(aligned)).then_some(plan)
    }

    pub(super) fn conv_swiglu(&mut self, i: usize, plan: &ConvPlan) {
        let h = self.fresh(plan.cols);
        let spec = plan.spec;
        let views = [plan.x, h, plan.taps[0], plan.taps[1], plan.taps[2], self.inputs.cu_seqlens()];
        self.p.step("conv + swiglu", views, move |on, [x, h, a, b, c, cu]| {
            dense::short_conv_swiglu(on.device, spec.conv(x, [a, b, c], cu), h)
        });
        self.values[i] = Some(h);
    }

    /// The gradients of the convolutions' outputs, neighbours in a buffer of their own: there are no values that it could mirror.
    pub(super) fn conv_swiglu_backward(&mut self, dh: View, plan: &ConvPlan) {
        let dab = self.temporary(self.tokens(), 2 * plan.cols, self.dtype);
        for (k, &member) in plan.members.iter().enumerate() {
            self.grads[member] = Some(dab.columns(k * plan.cols, plan.cols));
        }
        let spec = plan.spec;
        let views = [plan.x, dh, dab, plan.taps[0], plan.taps[1], plan.taps[2], self.inputs.cu_seqlens()];
        self.p.step("conv + swiglu back", views, move |on, [x, dh, dab, a, b, c, cu]| {
            dense::short_conv_swiglu_backward(on.device, spec.conv(x, [a, b, c], cu), dh, dab)
        });
    }
}
