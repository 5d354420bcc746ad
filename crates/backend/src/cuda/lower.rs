//! From a tape to a program: what forward and backward have in common.

use std::collections::HashMap;

use kernels::cuda::Dtype;
use kernels::cuda::dense::{self, Norm};

use super::groups::{Group, Groups};
use super::inputs::Inputs;
use super::layout::Layout;
use super::moe::Kept;
use super::program::{Home, Program, View};
use super::segments::{Segment, segments};
use crate::op::{Param, Var};
use crate::tape::Tape;

/// What a pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Scores only; with `keep` every value stays to be read.
    Evaluate { keep: bool },
    /// Scores and gradients, which are added to those there are with `add`.
    Train { add: bool },
}

/// A program and where to find what is read from it.
pub(super) struct Lowered {
    pub(super) program: Program,
    pub(super) values: Vec<Option<View>>,
    /// Head size and base of each rotary table, in order of their places.
    pub(super) tables: Vec<(usize, f32)>,
    pub(super) inputs: Inputs,
}

/// The lowering of one tape.
pub(super) struct Lower<'a> {
    pub(super) tape: &'a Tape,
    pub(super) groups: &'a Groups,
    pub(super) layout: &'a Layout,
    pub(super) pass: Pass,
    /// Type of activations.
    pub(super) dtype: Dtype,
    /// The device's architecture, such as sm_90a; any other name for launches that every device has.
    pub(super) arch: &'a str,
    pub(super) packed: bool,
    pub(super) inputs: Inputs,
    pub(super) p: Program,
    /// Where each value lies once its op has run.
    pub(super) values: Vec<Option<View>>,
    /// Norm statistics, attention's log-sum-exp, a recurrence's states.
    pub(super) saved: Vec<Option<View>>,
    /// What mixtures of experts keep, by op.
    pub(super) mixtures: HashMap<usize, Kept>,
    /// The gradient of each value, from its first contribution until its op has run backward.
    pub(super) grads: Vec<Option<View>>,
    /// The gradient of the op that runs backward now, which must not change meanwhile.
    pub(super) current: Option<View>,
    /// The work buffer that mirrors each buffer of values.
    pub(super) mirrors: HashMap<usize, usize>,
    /// Whether a parameter's gradient holds a contribution of this pass.
    pub(super) touched: Vec<bool>,
    pub(super) tables: Vec<(usize, f32)>,
    /// The plan of the recurrences' chunks, once a step has made it.
    pub(super) chunks: Option<View>,
    /// Stretches whose values are made again, those that have run backward removed.
    pub(super) segments: Vec<Segment>,
}

/// Lowers a tape for a device of that architecture: for batches of equal rows or, with `packed`, for at most so many packed sequences.
pub(super) fn lower(
    tape: &Tape,
    groups: &Groups,
    layout: &Layout,
    pass: Pass,
    dtype: Dtype,
    arch: &str,
    packed: Option<usize>,
) -> Lowered {
    let n = tape.ops().len();
    let mut lower = Lower {
        tape,
        groups,
        layout,
        pass,
        dtype,
        arch,
        packed: packed.is_some(),
        inputs: Inputs::new(tape, packed),
        p: Program::default(),
        values: vec![None; n],
        saved: vec![None; n],
        mixtures: HashMap::new(),
        grads: vec![None; n],
        current: None,
        mirrors: HashMap::new(),
        touched: vec![pass == Pass::Train { add: true }; tape.specs().len()],
        tables: Vec::new(),
        chunks: None,
        segments: if tape.recompute() { segments(tape, groups) } else { Vec::new() },
    };
    lower.forward();
    if lower.trains() {
        lower.backward();
    }
    Lowered { program: lower.p, values: lower.values, tables: lower.tables, inputs: lower.inputs }
}

impl Lower<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.tape.tokens()
    }

    /// Sequences of equal length that the rows divide into.
    pub(super) fn batch(&self) -> usize {
        self.tape.batch()
    }

    pub(super) fn trains(&self) -> bool {
        matches!(self.pass, Pass::Train { .. })
    }

    pub(super) fn keeps(&self) -> bool {
        self.pass == Pass::Evaluate { keep: true }
    }

    /// A buffer for values `[tokens, cols]`.
    pub(super) fn fresh(&mut self, cols: usize) -> View {
        let keep = self.keeps();
        self.p.buffer(self.tokens(), cols, self.dtype, keep)
    }

    /// A buffer that lives only between the steps that name it.
    pub(super) fn temporary(&mut self, rows: usize, cols: usize, dtype: Dtype) -> View {
        self.p.buffer(rows, cols, dtype, false)
    }

    /// A row of f32.
    pub(super) fn statistics(&mut self, len: usize) -> View {
        self.p.buffer(1, len, Dtype::F32, false)
    }

    /// The value of an op that has run.
    pub(super) fn value(&self, x: Var) -> View {
        // Ops only name values before them, and every op sets its own.
        self.values[x.index()].unwrap_or_else(|| unreachable!("value {} is not there yet", x.index()))
    }

    /// A parameter as `[rows, cols]` in the type of activations.
    pub(super) fn weight(&self, p: Param, rows: usize, cols: usize) -> View {
        let home = if self.dtype == Dtype::F32 { Home::Values } else { Home::Copy };
        View { home, at: self.layout.at[p.index()], rows, cols, stride: cols, dtype: self.dtype }
    }

    /// A parameter in f32.
    pub(super) fn master(&self, p: Param) -> View {
        let cols = self.tape.spec(p).numel();
        View { home: Home::Values, at: self.layout.at[p.index()], rows: 1, cols, stride: cols, dtype: Dtype::F32 }
    }

    /// The weights of a group of linears as one matrix, with the zeros behind them.
    pub(super) fn weights(&self, group: &Group) -> View {
        let ws: Vec<Param> = group.0.iter().filter_map(|&i| self.linear(i).map(|(_, w)| w)).collect();
        let rows: usize = ws.iter().map(|w| self.tape.spec(*w).shape[0]).sum();
        self.weight(ws[0], rows + self.groups.pad_rows(self.tape, group), self.tape.spec(ws[0]).shape[1])
    }

    /// Input and weight of a linear.
    pub(super) fn linear(&self, op: usize) -> Option<(Var, Param)> {
        match self.tape.ops()[op] {
            crate::op::Op::Linear { x, w, .. } => Some((x, w)),
            _ => None,
        }
    }

    /// The rotary table of a head size: one row per position.
    pub(super) fn table(&mut self, head_size: usize, theta: f32) -> View {
        let len = self.tape.seq_len();
        let found = self.tables.iter().position(|t| *t == (head_size, theta)).unwrap_or_else(|| {
            self.tables.push((head_size, theta));
            self.tables.len() - 1
        });
        let at = self.tables[..found].iter().map(|(size, _)| size * len).sum();
        View { home: Home::Tables, at, rows: len, cols: head_size, stride: head_size, dtype: Dtype::F32 }
    }

    /// `y = a + b`, elementwise.
    pub(super) fn add(&mut self, a: View, b: View, y: View) {
        self.p.step("add", [a, b, y], |on, [a, b, y]| dense::add(on.device, a, b, y));
    }

    pub(super) fn copy(&mut self, x: View, y: View) {
        self.p.step("copy", [x, y], |on, [x, y]| dense::copy(on.device, x, y));
    }
}

/// The norm of a step whose matrices are gain and, for a layer norm, bias.
pub(super) fn norm_of<'a>(
    gain: &'a kernels::cuda::Tensor,
    bias: Option<&'a kernels::cuda::Tensor>,
    eps: f32,
) -> Norm<'a> {
    Norm { gain, bias, eps }
}
