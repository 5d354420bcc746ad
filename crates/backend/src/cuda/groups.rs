//! Which ops of a tape run as one: linears of one input as one product, and the convolutions and rotations of its outputs as one
//! launch over neighbouring columns.

use std::collections::HashMap;

use crate::op::{Filter, GatedDeltaRule, Moe, Op, Param, Var};
use crate::tape::Tape;

/// Ops that run where the first of them stands. The outputs are neighbouring columns of one matrix, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group(pub(super) Vec<usize>);

/// The groups of a tape, and what they were made from.
#[derive(Debug)]
pub(super) struct Groups {
    groups: Vec<Group>,
    /// The group that each op is in, for linears, convolutions and rotations.
    of: Vec<Option<usize>>,
    /// The ops that read each value.
    pub(super) uses: Vec<Vec<usize>>,
    /// How many ops name each parameter.
    pub(super) param_uses: Vec<usize>,
}

impl Groups {
    pub(super) fn new(tape: &Tape) -> Self {
        let ops = tape.ops();
        let mut uses = vec![Vec::new(); ops.len()];
        let mut param_uses = vec![0; tape.specs().len()];
        for (i, op) in ops.iter().enumerate() {
            inputs(op).into_iter().for_each(|x| uses[x.index()].push(i));
            params(op).into_iter().for_each(|p| param_uses[p.index()] += 1);
        }
        let mut groups = Self { groups: Vec::new(), of: vec![None; ops.len()], uses, param_uses };
        groups.linears(tape);
        groups.convolutions(tape);
        groups.rotations(tape);
        groups
    }

    /// The group of a linear, convolution or rotation.
    pub(super) fn of(&self, op: usize) -> Option<&Group> {
        self.of[op].map(|g| &self.groups[g])
    }

    /// All groups, in the order of the tape.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// Rows of zeros behind the weights of a group of linears: the product's columns are a multiple of 8, without which the library
    /// takes eight times as long (kernels/NOTES.md).
    pub(super) fn pad_rows(&self, tape: &Tape, group: &Group) -> usize {
        let alone = |&i: &usize| match tape.ops()[i] {
            Op::Linear { w, bias: None, residual: None, .. } if tape.logits() != Some(Var(i)) => {
                (self.param_uses[w.index()] == 1).then(|| tape.spec(w).shape[0])
            }
            _ => None,
        };
        let rows: Option<usize> = group.0.iter().map(alone).sum();
        rows.map_or(0, |rows| rows.next_multiple_of(8) - rows)
    }

    fn push(&mut self, members: Vec<usize>) {
        members.iter().for_each(|&i| self.of[i] = Some(self.groups.len()));
        self.groups.push(Group(members));
    }

    /// Plain linears of one input whose weights nothing else uses: those that make taps come last.
    fn linears(&mut self, tape: &Tape) {
        let logits = tape.logits();
        let mut by_input: HashMap<(usize, bool), Vec<usize>> = HashMap::new();
        let mut order = Vec::new();
        for (i, op) in tape.ops().iter().enumerate() {
            let &Op::Linear { x, w, bias, residual } = op else { continue };
            let plain = bias.is_none() && residual.is_none() && logits != Some(Var(i));
            if plain && self.param_uses[w.index()] == 1 {
                let key = (x.index(), tape.spec(w).decay);
                by_input.entry(key).or_insert_with(|| {
                    order.push(key);
                    Vec::new()
                });
                by_input.entry(key).and_modify(|members| members.push(i));
            } else {
                self.push(vec![i]);
            }
        }
        for key in order {
            let Some(mut members) = by_input.remove(&key) else { continue };
            let makes_taps = |&i: &usize| {
                self.uses[i].iter().any(|&j| match tape.ops()[j] {
                    Op::ShortConv { filter: Filter::HeadWise { weight: code, .. }, .. }
                    | Op::ShortConv { filter: Filter::LowRank { z: code, .. }, .. } => code == Var(i),
                    _ => false,
                })
            };
            members.sort_by_key(makes_taps);
            self.push(members);
        }
    }

    /// Convolutions that follow each other, of one kind, whose inputs and codes are neighbours.
    fn convolutions(&mut self, tape: &Tape) {
        let convs: Vec<usize> =
            (0..tape.ops().len()).filter(|&i| matches!(tape.ops()[i], Op::ShortConv { .. })).collect();
        self.runs(&convs, |groups, a, b| {
            let (
                &Op::ShortConv { x: xa, filter: fa, width: wa, residual: ra, silu: sa },
                &Op::ShortConv { x: xb, filter: fb, width: wb, residual: rb, silu: sb },
            ) = (&tape.ops()[a], &tape.ops()[b])
            else {
                return false;
            };
            let alone = |p: Param| groups.param_uses[p.index()] == 1;
            let alike = |a: Param, b: Param| alone(a) && alone(b) && tape.spec(a).decay == tape.spec(b).decay;
            let both = |a: Option<Param>, b: Option<Param>| match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => alike(a, b),
                _ => false,
            };
            let filters = match (fa, fb) {
                (Filter::Static { w: a }, Filter::Static { w: b }) => alike(a, b),
                (
                    Filter::HeadWise { weight: a, head_size: ha, static_w: pa },
                    Filter::HeadWise { weight: b, head_size: hb, static_w: pb },
                ) => ha == hb && both(pa, pb) && groups.neighbours(a, b),
                (Filter::LowRank { z: a, u: ua, static_w: pa }, Filter::LowRank { z: b, u: ub, static_w: pb }) => {
                    alike(ua, ub) && both(pa, pb) && tape.cols(a) == tape.cols(b) && groups.neighbours(a, b)
                }
                _ => false,
            };
            filters && (wa, ra, sa) == (wb, rb, sb) && tape.cols(xa) == tape.cols(xb) && groups.neighbours(xa, xb)
        });
    }

    /// Rotations of neighbours by one table, each of them its input's only reader.
    fn rotations(&mut self, tape: &Tape) {
        let ropes: Vec<usize> = (0..tape.ops().len()).filter(|&i| matches!(tape.ops()[i], Op::Rope { .. })).collect();
        self.runs(&ropes, |groups, a, b| {
            let (&Op::Rope { x: xa, heads: ha, theta: ta }, &Op::Rope { x: xb, heads: hb, theta: tb }) =
                (&tape.ops()[a], &tape.ops()[b])
            else {
                return false;
            };
            let alone = |x: Var| groups.uses[x.index()].len() == 1;
            (ha, ta) == (hb, tb)
                && tape.cols(xa) == tape.cols(xb)
                && alone(xa)
                && alone(xb)
                && groups.neighbours(xa, xb)
        });
    }

    /// Groups ops of one kind: each joins the one before it where `joins` says so.
    fn runs(&mut self, ops: &[usize], joins: impl Fn(&Self, usize, usize) -> bool) {
        let mut members: Vec<usize> = Vec::new();
        for &i in ops {
            if members.last().is_some_and(|&last| !joins(self, last, i)) {
                self.push(std::mem::take(&mut members));
            }
            members.push(i);
        }
        if !members.is_empty() {
            self.push(members);
        }
    }

    /// Whether b's columns follow a's in the output of one group.
    fn neighbours(&self, a: Var, b: Var) -> bool {
        self.of(a.index()).is_some_and(|Group(members)| members.windows(2).any(|pair| pair == [a.index(), b.index()]))
    }
}

/// The values an op reads.
pub(super) fn inputs(op: &Op) -> Vec<Var> {
    match *op {
        Op::Embedding { .. } => vec![],
        Op::AddPositions { x, .. }
        | Op::RmsNorm { x, .. }
        | Op::LayerNorm { x, .. }
        | Op::Rope { x, .. }
        | Op::Gelu { x } => vec![x],
        Op::Linear { x, residual, .. } => [Some(x), residual].into_iter().flatten().collect(),
        Op::Attention { q, k, v, .. } => vec![q, k, v],
        Op::SwiGlu { gate, up } => vec![gate, up],
        Op::ShortConv { x, filter, .. } => match filter {
            Filter::Static { .. } => vec![x],
            Filter::HeadWise { weight: code, .. } | Filter::LowRank { z: code, .. } => vec![x, code],
        },
        Op::Add { a, b } => vec![a, b],
        Op::GatedDeltaRule(GatedDeltaRule { q, k, v, a, b, .. }) => vec![q, k, v, a, b],
        Op::CrossEntropy { logits } => vec![logits],
        Op::Ssd(op) => vec![op.x, op.b, op.c, op.dt],
        Op::Moe(Moe { x, logits, .. }) => vec![x, logits],
    }
}

/// The parameters an op names.
fn params(op: &Op) -> Vec<Param> {
    match *op {
        Op::Embedding { table } | Op::AddPositions { table, .. } => vec![table],
        Op::Linear { w, bias, .. } => [Some(w), bias].into_iter().flatten().collect(),
        Op::RmsNorm { gain, .. } => vec![gain],
        Op::LayerNorm { gain, bias, .. } => vec![gain, bias],
        Op::Moe(Moe { gate, up, down, bias, .. }) => [gate, up, down].into_iter().chain(bias).collect(),
        Op::ShortConv { filter, .. } => match filter {
            Filter::Static { w } => vec![w],
            Filter::HeadWise { static_w, .. } => static_w.into_iter().collect(),
            Filter::LowRank { u, static_w, .. } => [Some(u), static_w].into_iter().flatten().collect(),
        },
        Op::Ssd(op) => vec![op.a_log, op.dt_bias, op.d],
        Op::GatedDeltaRule(op) => vec![op.a_log, op.dt_bias],
        Op::Rope { .. }
        | Op::Attention { .. }
        | Op::SwiGlu { .. }
        | Op::Gelu { .. }
        | Op::Add { .. }
        | Op::CrossEntropy { .. } => vec![],
    }
}
