//! The steps of a forward pass.

use kernels::cuda::Dtype;
use kernels::cuda::dense::{self, Conv, Taps, Turn};
use kernels::cuda::matmul::Operand;
use kernels::cuda::short_conv::Options;

use super::groups::Group;
use super::lower::{Lower, Pass, norm_of};
use super::program::View;
use crate::op::{Filter, Op, Param, Var};

/// Most bytes of the logits of a chunk of rows.
const LOGITS: usize = 2 << 30;

impl Lower<'_> {
    pub(super) fn forward(&mut self) {
        for i in 0..self.tape.ops().len() {
            if self.values[i].is_none() {
                self.run(i);
            }
        }
    }

    /// Runs op i, and those that run with it.
    fn run(&mut self, i: usize) {
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
            Op::CrossEntropy { logits } => self.loss(logits),
            // Refused before lowering.
            Op::Moe(_) | Op::GatedDeltaRule(_) | Op::Ssd(_) => {}
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
    fn product(&mut self, name: &'static str, x: View, w: View, y: View, bias: Option<Param>, add: Option<View>) {
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

    fn conv_forward(&mut self, i: usize) {
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

    /// The input and weight of the classifier that makes these logits, if they are for the loss alone.
    pub(super) fn head(&self, logits: Var) -> Option<(Var, Param)> {
        let Op::Linear { x, w, bias: None, residual: None } = self.tape.ops()[logits.index()] else { return None };
        (self.tape.logits() == Some(logits) && self.groups.uses[logits.index()].len() == 1).then_some((x, w))
    }

    /// The loss, and with it the classifier: logits of a chunk of rows, their loss and, in training, their gradient in place and
    /// what follows from it. The logits of all rows never exist at once.
    fn loss(&mut self, logits: Var) {
        let (n, vocab) = (self.tokens(), self.tape.cols(logits));
        let train = self.pass == Pass::Train;
        let Some((x, w)) = self.head(logits) else {
            let value = self.value(logits);
            let target = if train { self.temporary(n, vocab, self.dtype) } else { value };
            if train {
                self.copy(value, target);
                self.grads[logits.index()] = Some(target);
            }
            return self.score(target, 0, train);
        };
        let most = LOGITS / (vocab.next_multiple_of(8) * self.dtype.bytes());
        let chunks = if self.keeps() { 1 } else { n.div_ceil(most.max(128)) };
        let rows = n.div_ceil(chunks).next_multiple_of(128).min(n);
        let buffer = self.p.buffer(rows, vocab, self.dtype, self.keeps());
        let (input, weight) = (self.value(x), self.weight(w, vocab, self.tape.cols(x)));
        for from in (0..n).step_by(rows) {
            let chunk = buffer.rows(0, rows.min(n - from));
            let input = input.rows(from, chunk.rows);
            self.product("classifier", input, weight, chunk, None, None);
            self.score(chunk, from, train);
            if train {
                let (dx, accumulate) = if from == 0 { self.contribute(x) } else { (self.gradient(x), false) };
                self.input_gradient("classifier dx", chunk, weight, dx.rows(from, chunk.rows), accumulate);
                self.weight_gradient("classifier dw", chunk, input, w);
            }
        }
        if self.keeps() {
            self.values[logits.index()] = Some(buffer);
        }
    }

    fn score(&mut self, logits: View, from: usize, train: bool) {
        let part = |v: View| v.columns(from, logits.rows);
        let (targets, nll, argmax) = (part(self.inputs.targets()), part(self.inputs.nll()), part(self.inputs.argmax()));
        self.p.step(
            "cross_entropy",
            [logits, targets, nll, argmax, self.inputs.weight()],
            move |on, [l, t, n, a, w]| dense::cross_entropy(on.device, l, t, n, a, train.then_some(w)),
        );
    }
}

/// What a step needs of a convolution beside its matrices.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvSpec {
    kind: Kind,
    streams: usize,
    batch: usize,
    width: usize,
    options: Options,
    packed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
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

/// Bytes of all values of a tape, and of its logits.
pub(super) fn value_bytes(tape: &crate::tape::Tape, dtype: Dtype) -> usize {
    (0..tape.ops().len()).map(|i| tape.tokens() * tape.cols(Var(i)) * dtype.bytes()).sum()
}
