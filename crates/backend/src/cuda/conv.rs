//! Convolutions that run as one: their inputs and taps as one matrix each.

use kernels::cuda::dense::{self, Conv, Taps};
use kernels::cuda::short_conv::Options;

use super::lower::Lower;
use super::program::View;
use crate::op::{Filter, Op, Param, Var};

impl Lower<'_> {
    pub(super) fn conv_forward(&mut self, i: usize) {
        if self.under_swiglu(i).is_some() {
            // SwiGLU's launch makes them.
            return;
        }
        let Some(plan) = self.conv(i) else { return };
        let y = self.fresh(plan.x.cols);
        for (k, &member) in plan.members.iter().enumerate() {
            self.values[member] = Some(y.columns(k * plan.cols, plan.cols));
        }
        let views = [plan.x, y, plan.taps[0], plan.taps[1], plan.taps[2], self.inputs.cu_seqlens()];
        let spec = plan.spec;
        self.p.step("short_conv", views, move |on, [x, y, a, b, c, cu]| {
            dense::short_conv(on.device, spec.conv(x, [a, b, c], cu), y)
        });
    }

    /// The convolutions that run with op i: their inputs and taps as one.
    pub(super) fn conv(&self, i: usize) -> Option<ConvPlan> {
        let members = self.groups.of(i)?.0.clone();
        let convs: Vec<(Var, Filter)> = members
            .iter()
            .filter_map(
                |&m| if let Op::ShortConv { x, filter, .. } = self.tape.ops()[m] { Some((x, filter)) } else { None },
            )
            .collect();
        let Op::ShortConv { x, filter, width, residual, silu } = self.tape.ops()[i] else { return None };
        let streams = members.len();
        let cols = self.tape.cols(x);
        let code = |f: Filter| match f {
            Filter::Static { .. } => None,
            Filter::HeadWise { weight: code, .. } | Filter::LowRank { z: code, .. } => Some(code),
        };
        let xs: Vec<View> = convs.iter().map(|(x, _)| self.value(*x)).collect();
        let codes: Vec<Var> = convs.iter().filter_map(|(_, f)| code(*f)).collect();
        let code_views: Vec<View> = codes.iter().map(|z| self.value(*z)).collect();
        let code = View::hull(&code_views);
        let static_rows = |p: Param| self.weight(p, streams * width, cols);
        let x_all = View::hull(&xs)?;
        // Absent operands are named by one that is there: a step has a fixed number of matrices.
        let (kind, taps, generator, fixed) = match filter {
            Filter::Static { w } => (Kind::Static, [static_rows(w); 3], None, Some(w)),
            Filter::HeadWise { head_size, static_w, .. } => {
                let code = code?;
                (
                    Kind::HeadWise { head_size, fixed: static_w.is_some() },
                    [code, code, static_w.map_or(code, static_rows)],
                    None,
                    static_w,
                )
            }
            Filter::LowRank { z, u, static_w } => {
                let (code, rank) = (code?, self.tape.cols(z));
                let u_all = self.weight(u, streams * rank, width * cols);
                (
                    Kind::LowRank { fixed: static_w.is_some() },
                    [code, u_all, static_w.map_or(code, static_rows)],
                    Some(u),
                    static_w,
                )
            }
        };
        let options = Options { residual, silu };
        let spec = ConvSpec { kind, streams, batch: self.batch(), width, options, packed: self.packed };
        Some(ConvPlan {
            spec,
            members,
            inputs: convs.iter().map(|(x, _)| *x).collect(),
            codes,
            x: x_all,
            cols,
            taps,
            generator,
            fixed,
        })
    }
}

/// What a step needs of a convolution beside its matrices.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvSpec {
    pub(super) kind: Kind,
    streams: usize,
    batch: usize,
    pub(super) width: usize,
    pub(super) options: Options,
    packed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Static,
    HeadWise { head_size: usize, fixed: bool },
    LowRank { fixed: bool },
}

/// Convolutions of one launch.
pub(super) struct ConvPlan {
    pub(super) spec: ConvSpec,
    pub(super) members: Vec<usize>,
    pub(super) inputs: Vec<Var>,
    pub(super) codes: Vec<Var>,
    /// All inputs as one matrix, each of `cols` columns.
    pub(super) x: View,
    pub(super) cols: usize,
    /// Codes, generators, static taps; see [`ConvSpec::taps`].
    pub(super) taps: [View; 3],
    /// The first member's generator and static taps; the others' lie behind them.
    pub(super) generator: Option<Param>,
    pub(super) fixed: Option<Param>,
}

impl ConvSpec {
    pub(super) fn conv<'t>(
        &self,
        x: &'t kernels::cuda::Tensor,
        taps: [&'t kernels::cuda::Tensor; 3],
        cu_seqlens: &'t kernels::cuda::Tensor,
    ) -> Conv<'t> {
        let Self { streams, batch, width, options, packed, .. } = *self;
        Conv { streams, batch, width, options, cu_seqlens: packed.then_some(cu_seqlens), x, taps: self.taps(taps) }
    }

    pub(super) fn taps<'t>(&self, [code, u, fixed]: [&'t kernels::cuda::Tensor; 3]) -> Taps<'t> {
        match self.kind {
            Kind::Static => Taps::Static(fixed),
            Kind::HeadWise { head_size, fixed: has } => Taps::HeadWise(code, head_size, has.then_some(fixed)),
            Kind::LowRank { fixed: has } => Taps::LowRank(code, u, has.then_some(fixed)),
        }
    }

    /// Whether the taps' gradient of that place is written.
    pub(super) fn writes(&self) -> [bool; 3] {
        match self.kind {
            Kind::Static => [false, false, true],
            Kind::HeadWise { fixed, .. } => [true, false, fixed],
            Kind::LowRank { fixed } => [true, true, fixed],
        }
    }
}
