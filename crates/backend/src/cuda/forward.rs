//! The steps of a forward pass.

use kernels::cuda::Dtype;
use kernels::cuda::dense::{self, Turn};
use kernels::cuda::matmul::Operand;

use super::groups::Group;
use super::lower::{Lower, norm_of};
use super::program::View;
use crate::op::{Op, Param, Var};

impl Lower<'_> {
    pub(super) fn forward(&mut self) {
        for i in 0..self.tape.ops().len() {
            if self.values[i].is_none() {
                self.run(i);
            }
        }
    }

    /// Runs op i, and those that run with it.
    pub(super) fn run(&mut self, i: usize) {
        match self.tape.ops()[i] {
            Op::Embedding { table } => {
                let (y, shape) = (self.fresh(self.tape.cols(Var(i))), &self.tape.spec(table).shape);
                let table = self.weight(table, shape[0], shape[1]);
                let step = [table, self.inputs.ids(), y];
                self.p.step("embedding", step, |on, [t, ids, y]| dense::embedding(on.device, t, ids, y));
                self.values[i] = Some(y);
            }
            Op::AddPositions { x, table } => {
                let (y, shape) = (self.fresh(self.tape.cols(x)), &self.tape.spec(table).shape);
                let views = [self.value(x), self.weight(table, shape[0], shape[1]), self.inputs.positions(), y];
                self.p.step("positions", views, |on, [x, t, p, y]| dense::positions(on.device, x, t, p, y));
                self.values[i] = Some(y);
            }
            Op::Linear { x, bias, residual, .. } => self.linear_forward(i, x, bias, residual),
            Op::RmsNorm { .. } | Op::LayerNorm { .. } => self.norm_forward(i, None),
            Op::Add { a, b } => self.add_forward(i, a, b),
            Op::Rope { x, heads, theta } => self.rope_forward(i, x, heads, theta),
            Op::Attention { q, k, v, heads } => self.attention_forward(i, [q, k, v], heads),
            Op::SwiGlu { gate, up } => {
                if let Some(plan) = self.under_swiglu(gate.index()) {
                    return self.conv_swiglu(i, &plan);
                }
                let y = self.fresh(self.tape.cols(gate));
                let views = [self.value(gate), self.value(up), y];
                self.p.step("swiglu", views, |on, [g, u, y]| dense::swiglu(on.device, g, u, y));
                self.values[i] = Some(y);
            }
            Op::Gelu { x } => {
                let y = self.fresh(self.tape.cols(x));
                self.p.step("gelu", [self.value(x), y], |on, [x, y]| dense::gelu(on.device, x, y));
                self.values[i] = Some(y);
            }
            Op::ShortConv { .. } => self.conv_forward(i),
            Op::Ssd(op) => self.ssd_forward(i, op),
            Op::GatedDeltaRule(op) => self.delta_forward(i, op),
            Op::CrossEntropy { logits } => self.loss(logits),
            Op::Moe(moe) => self.moe_forward(i, moe),
        }
    }

    fn linear_forward(&mut self, i: usize, x: Var, bias: Option<Param>, residual: Option<Var>) {
        if self.head(Var(i)).is_some() {
            // The classifier runs with the loss, by chunks of rows.
            return;
        }
        let Some(group) = self.groups.of(i) else { return };
        let w = self.weights(group);
        let y = self.fresh(w.rows);
        let mut at = 0;
        for &member in &group.0 {
            let cols = self.tape.cols(Var(member));
            self.values[member] = Some(y.columns(at, cols));
            at += cols;
        }
        self.product("linear", self.value(x), w, y, bias, residual.map(|r| self.value(r)));
    }

    /// `y = x w^T (+ bias) (+ add)`.
    pub(super) fn product(
        &mut self,
        name: &'static str,
        x: View,
        w: View,
        y: View,
        bias: Option<Param>,
        add: Option<View>,
    ) {
        let bias = bias.map(|b| self.weight(b, 1, y.cols));
        match (bias, add) {
            (None, None) => self.p.step(name, [x, w, y], |on, [x, w, y]| {
                on.matmul.run(on.device, Operand::plain(x), Operand::transposed(w), y, None, None)
            }),
            (None, Some(r)) => self.p.step(name, [x, w, y, r], |on, [x, w, y, r]| {
                on.matmul.run(on.device, Operand::plain(x), Operand::transposed(w), y, Some(r), None)
            }),
            (Some(b), None) => self.p.step(name, [x, w, y, b], |on, [x, w, y, b]| {
                on.matmul.run(on.device, Operand::plain(x), Operand::transposed(w), y, None, Some(b))
            }),
            (Some(b), Some(r)) => self.p.step(name, [x, w, y, b, r], |on, [x, w, y, b, r]| {
                on.matmul.run(on.device, Operand::plain(x), Operand::transposed(w), y, Some(r), Some(b))
            }),
        }
    }

    /// A norm; with `add`, of the sum of two values, which becomes the value of the sum's op.
    fn norm_forward(&mut self, i: usize, add: Option<(usize, Var, Var)>) {
        let (x, gain, bias, eps) = match self.tape.ops()[i] {
            Op::RmsNorm { x, gain, eps } => (x, gain, None, eps),
            Op::LayerNorm { x, gain, bias, eps } => (x, gain, Some(bias), eps),
            _ => return,
        };
        let cols = self.tape.cols(x);
        let groups = self.tokens() * cols / self.tape.spec(gain).numel();
        let stats = self.statistics(groups * (1 + usize::from(bias.is_some())));
        let y = self.fresh(cols);
        let (gain, bias) = (self.master(gain), bias.map(|b| self.master(b)));
        match add {
            None => {
                let x = self.value(x);
                // A step has a fixed number of matrices: an RMS norm names its gain in the place of a bias.
                let layer = bias.is_some();
                self.p.step("norm", [x, y, stats, gain, bias.unwrap_or(gain)], move |on, [x, y, s, g, b]| {
                    dense::norm(on.device, norm_of(g, layer.then_some(b), eps), x, None, y, s)
                });
            }
            Some((op, a, b)) => {
                let sum = self.fresh(cols);
                self.values[op] = Some(sum);
                let layer = bias.is_some();
                let views = [self.value(a), self.value(b), sum, y, stats, gain, bias.unwrap_or(gain)];
                self.p.step("add + norm", views, move |on, [a, b, sum, y, s, g, bias]| {
                    dense::norm(on.device, norm_of(g, layer.then_some(bias), eps), a, Some((b, sum)), y, s)
                });
            }
        }
        self.values[i] = Some(y);
        self.saved[i] = Some(stats);
    }

    /// A sum; where a norm of all its columns follows, both in one pass.
    fn add_forward(&mut self, i: usize, a: Var, b: Var) {
        let cols = self.tape.cols(a);
        let norm = self.groups.uses[i].iter().copied().find(|&j| match self.tape.ops()[j] {
            Op::RmsNorm { gain, .. } | Op::LayerNorm { gain, .. } => self.tape.spec(gain).numel() == cols,
            _ => false,
        });
        if let Some(norm) = norm {
            return self.norm_forward(norm, Some((i, a, b)));
        }
        let y = self.fresh(cols);
        self.add(self.value(a), self.value(b), y);
        self.values[i] = Some(y);
    }

    /// Turns a group of neighbours, over their inputs where nothing needs those any more.
    fn rope_forward(&mut self, i: usize, first: Var, heads: usize, theta: f32) {
        let Some(Group(members)) = self.groups.of(i) else { return };
        let inputs: Vec<View> = members.iter().filter_map(|&m| self.rope_input(m)).map(|x| self.value(x)).collect();
        let Some(x) = View::hull(&inputs) else { return };
        let y = if self.over(first) { x } else { self.fresh(x.cols) };
        let cols = self.tape.cols(first);
        for (k, &member) in members.iter().enumerate() {
            self.values[member] = Some(y.columns(k * cols, cols));
        }
        let (table, heads) = (self.table(cols / heads, theta), heads * members.len());
        self.p.step("rope", [table, self.inputs.positions(), x, y], move |on, [t, p, x, y]| {
            dense::rope(on.device, Turn::Forward, heads, t, p, x, y)
        });
    }

    fn rope_input(&self, op: usize) -> Option<Var> {
        if let Op::Rope { x, .. } = self.tape.ops()[op] { Some(x) } else { None }
    }

    /// Whether a value's only reader may write over it: whoever made it does not need it for its backward.
    fn over(&self, x: Var) -> bool {
        let made_by = &self.tape.ops()[x.index()];
        !self.keeps() && self.groups.uses[x.index()].len() == 1 && !matches!(made_by, Op::Attention { .. })
    }

    fn attention_forward(&mut self, i: usize, qkv: [Var; 3], heads: usize) {
        let o = self.fresh(self.tape.cols(qkv[0]));
        let lse = self.statistics(self.tokens() * heads);
        let [q, k, v] = qkv.map(|x| self.value(x));
        let (batch, packed) = (self.batch(), self.packed);
        self.p.step("attention", [q, k, v, o, lse, self.inputs.cu_seqlens()], move |on, [q, k, v, o, lse, cu]| {
            dense::attention(on.device, batch, heads, packed.then_some(cu), [q, k, v], o, lse)
        });
        self.values[i] = Some(o);
        self.saved[i] = Some(lse);
    }
}

/// Bytes of all values of a tape.
pub(super) fn value_bytes(tape: &crate::tape::Tape, dtype: Dtype) -> usize {
    (0..tape.ops().len()).map(|i| tape.tokens() * tape.cols(Var(i)) * dtype.bytes()).sum()
}
