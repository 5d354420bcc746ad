//! The steps of a backward pass: every op in reverse.

use kernels::cuda::Dtype;
use kernels::cuda::dense::{self, ConvGrad, NORM_BLOCKS, Sorted, Turn};
use kernels::cuda::matmul::Operand;

use super::gradients::Detour;
use super::groups::Group;
use super::layout::Layout;
use super::lower::{Lower, norm_of};
use super::program::{Home, View};
use crate::op::{Op, Param, Var};

impl Lower<'_> {
    pub(super) fn backward(&mut self) {
        for i in (0..self.tape.ops().len()).rev() {
            self.make_again(i + 1);
            self.run_backward(i);
        }
        for p in 0..self.touched.len() {
            if !self.touched[p] {
                let gradient = self.param_gradient(Param(p), 1, self.tape.spec(Param(p)).numel());
                self.p.step("zero", [gradient], |on, [g]| g.zero(on.device));
            }
        }
    }

    fn run_backward(&mut self, i: usize) {
        match self.tape.ops()[i] {
            Op::Linear { .. } | Op::ShortConv { .. } | Op::Rope { .. } => {
                // A group runs backward where its first op stands: by then all of its outputs' readers have.
                let Some(group) = self.groups.of(i) else { return };
                if group.0.iter().min() == Some(&i) {
                    self.run_group(i, &group.0.clone());
                }
            }
            Op::CrossEntropy { .. } => {}
            op => {
                let Some(dy) = self.grads[i].take() else { return };
                self.current = Some(dy);
                self.run_op(i, op, dy);
            }
        }
        self.current = None;
    }

    fn run_group(&mut self, i: usize, members: &[usize]) {
        let vars: Vec<Var> = members.iter().map(|&m| Var(m)).collect();
        match self.tape.ops()[i] {
            Op::Linear { x, bias, residual, .. } => {
                let Some(dy) = self.gather(&vars) else { return };
                let w = self.weights(&Group(members.to_vec()));
                let given = dy;
                let dy = self.widened(dy, w.rows);
                let (dx, accumulate) = self.contribute(x);
                self.input_gradient("linear dx", dy, w, dx, accumulate);
                if let Some((_, first)) = self.linear(members[0]) {
                    self.weight_gradient("linear dw", dy, self.value(x), first);
                    for &member in members {
                        if let Some((_, w)) = self.linear(member) {
                            self.touched[w.index()] = true;
                        }
                    }
                }
                if let Some(b) = bias {
                    let accumulate = std::mem::replace(&mut self.touched[b.index()], true);
                    let parts = self.statistics(64 * dy.cols);
                    let views = [dy, self.param_gradient(b, 1, dy.cols), parts];
                    self.p.step("linear dbias", views, move |on, [dy, db, parts]| {
                        dense::column_sums(on.device, dy, db, accumulate, parts)
                    });
                }
                if let Some(r) = residual {
                    self.pass_on(r, given);
                }
            }
            Op::Rope { x, heads, theta } => {
                let Some(dy) = self.gather(&vars) else { return };
                let inputs: Vec<Var> = members
                    .iter()
                    .filter_map(|&m| if let Op::Rope { x, .. } = self.tape.ops()[m] { Some(x) } else { None })
                    .collect();
                let (dx, detours) = self.targets(&inputs);
                let table = self.table(self.tape.cols(x) / heads, theta);
                let heads = heads * members.len();
                self.p.step("rope back", [table, self.inputs.positions(), dy, dx], move |on, [t, p, dy, dx]| {
                    dense::rope(on.device, Turn::Back, heads, t, p, dy, dx)
                });
                self.finish(detours);
            }
            Op::ShortConv { .. } => self.conv_backward(i, &vars),
            _ => {}
        }
    }

    /// What rotary positions of one base made q and k of, and the base, if attention alone reads these.
    fn turned(&self, q: Var, k: Var) -> Option<([Var; 2], f32)> {
        let of = |y: Var| match self.tape.ops()[y.index()] {
            Op::Rope { x, theta, .. } if self.groups.uses[y.index()].len() == 1 => Some((x, theta)),
            _ => None,
        };
        let ((x_q, theta), (x_k, other)) = (of(q)?, of(k)?);
        (theta == other).then_some(([x_q, x_k], theta))
    }

    fn conv_backward(&mut self, i: usize, vars: &[Var]) {
        let Some(dy) = self.gather(vars) else { return };
        let Some(plan) = self.conv(i) else { return };
        let (dx, mut detours) = self.targets(&plan.inputs);
        let [_, writes_u, writes_fixed] = plan.spec.writes();
        let mut grads = [dx; 3];
        if !plan.codes.is_empty() {
            let (dcode, more) = self.targets(&plan.codes);
            grads = [dcode; 3];
            detours.extend(more);
        }
        let mut params = Vec::new();
        if let (true, Some(u)) = (writes_u, plan.generator) {
            grads[1] = self.tap_gradient(u, plan.taps[1], &mut detours);
            params.push(u);
        }
        if let (true, Some(fixed)) = (writes_fixed, plan.fixed) {
            grads[2] = self.tap_gradient(fixed, plan.taps[2], &mut detours);
            params.push(fixed);
        }
        let spec = plan.spec;
        let views = [
            plan.x,
            dy,
            dx,
            plan.taps[0],
            plan.taps[1],
            plan.taps[2],
            grads[0],
            grads[1],
            grads[2],
            self.inputs.cu_seqlens(),
        ];
        self.p.step("short_conv back", views, move |on, [x, dy, dx, a, b, c, da, db, dc, cu]| {
            let grad = ConvGrad { dx, taps: spec.taps([da, db, dc]) };
            dense::short_conv_backward(on.device, spec.conv(x, [a, b, c], cu), dy, grad)
        });
        self.finish(detours);
        for &member in &plan.members {
            if let Op::ShortConv { filter, .. } = self.tape.ops()[member] {
                use crate::op::Filter::{HeadWise, LowRank, Static};
                let (u, fixed) = match filter {
                    Static { w } => (None, Some(w)),
                    HeadWise { static_w, .. } => (None, static_w),
                    LowRank { u, static_w, .. } => (Some(u), static_w),
                };
                [u, fixed].into_iter().flatten().for_each(|p| self.touched[p.index()] = true);
            }
        }
    }

    /// The gradient of a group's outputs with zeros in the columns that pad its product.
    fn widened(&mut self, dy: View, cols: usize) -> View {
        if dy.cols == cols {
            return dy;
        }
        // The padding of dy's own rows where there is such; otherwise a copy.
        let own = matches!(dy.home, Home::Work(_)) && dy.at == 0 && dy.stride == cols;
        let whole = if own { View { cols, ..dy } } else { self.temporary(self.tokens(), cols, self.dtype) };
        if !own {
            self.copy(dy, whole.columns(0, dy.cols));
        }
        let padding = whole.columns(dy.cols, cols - dy.cols);
        self.p.step("pad", [padding], |on, [p]| dense::clear(on.device, p));
        whole
    }

    /// Where the gradient of taps shaped like `like` is written.
    fn tap_gradient(&mut self, p: Param, like: View, detours: &mut Vec<Detour>) -> View {
        let gradient = self.param_gradient(p, like.rows, like.cols);
        if !self.touched[p.index()] {
            return gradient;
        }
        let mut written = self.temporary(like.rows, like.cols, gradient.dtype);
        written.stride = like.cols;
        detours.push(Detour { written, gradient, accumulate: true });
        written
    }

    /// Runs an op of its own backward; `dy` is its output's gradient, complete.
    fn run_op(&mut self, i: usize, op: Op, dy: View) {
        match op {
            Op::Embedding { table } => {
                let shape = self.tape.spec(table).shape.clone();
                let dtable = self.param_gradient(table, shape[0], shape[1]);
                let accumulate = std::mem::replace(&mut self.touched[table.index()], true);
                if !accumulate {
                    self.p.step("zero", [dtable], |on, [g]| g.zero(on.device));
                }
                let [order, tokens, starts, count] = self.inputs.sorted();
                let views = [dy, order, starts, tokens, count, dtable];
                self.p.step("embedding back", views, move |on, [dy, order, starts, tokens, count, dtable]| {
                    let sorted = Sorted { order, starts, tokens, count };
                    dense::embedding_backward(on.device, dy, sorted, dtable, accumulate)
                });
            }
            Op::AddPositions { x, table } => {
                let shape = self.tape.spec(table).shape.clone();
                let accumulate = std::mem::replace(&mut self.touched[table.index()], true);
                let views = [dy, self.inputs.cu_seqlens(), self.param_gradient(table, shape[0], shape[1])];
                self.p.step("positions back", views, move |on, [dy, cu, dtable]| {
                    dense::positions_backward(on.device, dy, cu, dtable, accumulate)
                });
                self.pass_on(x, dy);
            }
            Op::RmsNorm { x, gain, eps } => self.norm_backward(i, dy, x, gain, None, eps),
            Op::LayerNorm { x, gain, bias, eps } => self.norm_backward(i, dy, x, gain, Some(bias), eps),
            Op::Attention { q, k, v, heads } => {
                let (Some(o), Some(lse)) = (self.values[i], self.saved[i]) else { return };
                let mut detours = Vec::new();
                // Where only rotary positions stand before q and k, the gradients pass those too before they are written.
                let turned = self.turned(q, k);
                let [x_q, x_k] = turned.map_or([q, k], |(inputs, _)| inputs);
                let [dq, dk, dv] = [x_q, x_k, v].map(|x| {
                    let (dx, more) = self.targets(&[x]);
                    detours.extend(more);
                    dx
                });
                let table = turned.map(|(_, theta)| self.table(self.tape.cols(q) / heads, theta));
                let turns = table.is_some();
                let [q, k, v] = [q, k, v].map(|x| self.value(x));
                let (batch, packed) = (self.batch(), self.packed);
                let views = [q, k, v, o, lse, dy, dq, dk, dv, table.unwrap_or(lse), self.inputs.cu_seqlens()];
                self.p.step("attention back", views, move |on, [q, k, v, o, lse, dy, dq, dk, dv, t, cu]| {
                    let (cu, t) = (packed.then_some(cu), turns.then_some(t));
                    dense::attention_backward(on.device, batch, heads, cu, [q, k, v], (o, lse, dy), [dq, dk, dv], t)
                });
                self.finish(detours);
            }
            Op::SwiGlu { gate, up } => {
                if let Some(plan) = self.under_swiglu(gate.index()) {
                    return self.conv_swiglu_backward(dy, &plan);
                }
                let (dgate, mut detours) = self.targets(&[gate]);
                let (dup, more) = self.targets(&[up]);
                detours.extend(more);
                let views = [self.value(gate), self.value(up), dy, dgate, dup];
                self.p.step("swiglu back", views, |on, [g, u, dy, dg, du]| {
                    dense::swiglu_backward(on.device, g, u, dy, dg, du)
                });
                self.finish(detours);
            }
            Op::Gelu { x } => {
                let (dx, detours) = self.targets(&[x]);
                let views = [self.value(x), dy, dx];
                self.p.step("gelu back", views, |on, [x, dy, dx]| dense::gelu_backward(on.device, x, dy, dx));
                self.finish(detours);
            }
            Op::Moe(moe) => self.moe_backward(i, moe, dy),
            Op::Ssd(op) => self.ssd_backward(i, op, dy),
            Op::Add { a, b } => {
                self.pass_on(a, dy);
                self.pass_on(b, dy);
            }
            Op::GatedDeltaRule(op) => self.delta_backward(op, dy),
            Op::Linear { .. } | Op::ShortConv { .. } | Op::Rope { .. } | Op::CrossEntropy { .. } => {}
        }
    }

    fn norm_backward(&mut self, i: usize, dy: View, x: Var, gain: Param, bias: Option<Param>, eps: f32) {
        let Some(stats) = self.saved[i] else { return };
        let (dx, accumulate) = self.contribute(x);
        let params = std::mem::replace(&mut self.touched[gain.index()], true);
        let cols = self.tape.spec(gain).numel();
        let parts = self.statistics(NORM_BLOCKS * cols * (1 + usize::from(bias.is_some())));
        let dgain = self.param_gradient(gain, 1, cols);
        let dbias = bias.map_or(dgain, |b| self.param_gradient(b, 1, cols));
        let layer = bias.is_some();
        if let Some(b) = bias {
            self.touched[b.index()] = true;
        }
        let gain = self.master(gain);
        let views = [self.value(x), stats, dy, dx, gain, dgain, dbias, parts];
        self.p.step("norm back", views, move |on, [x, s, dy, dx, g, dg, db, parts]| {
            let norm = norm_of(g, layer.then_some(g), eps);
            let params = (dg, layer.then_some(db), params);
            dense::norm_backward(on.device, norm, x, s, dy, (dx, accumulate), params, parts)
        });
    }

    /// `dx (+)= dy w`.
    pub(super) fn input_gradient(&mut self, name: &'static str, dy: View, w: View, dx: View, accumulate: bool) {
        self.p.step(name, [dy, w, dx], move |on, [dy, w, dx]| {
            on.matmul.run(on.device, Operand::plain(dy), Operand::plain(w), dx, accumulate.then_some(dx), None)
        });
    }

    /// The gradient of the weight p and of those that follow it: `dy^T x`, added to what this pass has of it.
    pub(super) fn weight_gradient(&mut self, name: &'static str, dy: View, x: View, p: Param) {
        let accumulate = std::mem::replace(&mut self.touched[p.index()], true);
        let dw = self.param_gradient(p, dy.cols, x.cols);
        self.p.step(name, [dy, x, dw], move |on, [dy, x, dw]| {
            on.matmul.run(on.device, Operand::transposed(dy), Operand::plain(x), dw, accumulate.then_some(dw), None)
        });
    }

    /// Where a parameter's gradient lies, as `[rows, cols]`.
    pub(super) fn param_gradient(&self, p: Param, rows: usize, cols: usize) -> View {
        let (at, Layout { taps, trained, .. }) = (self.layout.at[p.index()], self.layout);
        let (home, at, dtype) = if at < *taps {
            (Home::Gradients, at, Dtype::F32)
        } else if at < *trained {
            (Home::TapGradients, at - taps, self.dtype)
        } else {
            (Home::Gradients, taps + at - trained, Dtype::F32)
        };
        View { home, at, rows, cols, stride: cols, dtype }
    }
}
