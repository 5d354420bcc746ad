//! The tape: a model's ops in order, with their shapes checked and their parameters declared, before any runs.
//!
//! Every value is a matrix of `tokens() = batch * len` rows; only its columns differ. A tape holds no numbers:
//! recording the paper's largest model takes microseconds and allocates nothing of its size, which is how its
//! parameters are counted. A backend runs a tape forward and, op by op in reverse, backward.

mod moe;
mod recurrent;

use std::sync::Arc;

use crate::op::{Filter, Op, Param, Var};
use crate::params::{Init, ParamSpec};
use crate::{Error, Result};

/// A recorded model for `batch` rows of `len` tokens.
#[derive(Debug, Clone)]
pub struct Tape {
    batch: usize,
    len: usize,
    ops: Vec<Op>,
    cols: Vec<usize>,
    specs: Vec<ParamSpec>,
    recompute: bool,
}

impl Tape {
    /// An empty tape for `batch` rows of `len` tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] if either is 0.
    pub fn new(batch: usize, len: usize) -> Result<Self> {
        if batch == 0 || len == 0 {
            let what = format!("batch {batch} x length {len} has no tokens");
            return Err(Error::Shape { op: "tape", what, remedy: "give at least one row and one token" });
        }
        Ok(Self { batch, len, ops: Vec::new(), cols: Vec::new(), specs: Vec::new(), recompute: false })
    }

    /// The same ops for rows of another length.
    pub(crate) fn with_len(&self, len: usize) -> Result<Self> {
        let Self { ops, cols, specs, .. } = self.clone();
        Ok(Self { ops, cols, specs, ..Self::new(self.batch, len)? })
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens of a row.
    pub fn seq_len(&self) -> usize {
        self.len
    }

    /// Rows of every value: `batch * len`.
    pub fn tokens(&self) -> usize {
        self.batch * self.len
    }

    /// Asks for activations to be made again in the backward pass instead of kept, where a backend can: CUDA. It costs a forward
    /// pass and changes no number.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// Whether activations are to be made again: see [`Tape::set_recompute`].
    pub fn recompute(&self) -> bool {
        self.recompute
    }

    /// The ops in order; op i makes the value of index i.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Columns of a value.
    pub fn cols(&self, x: Var) -> usize {
        self.cols[x.0]
    }

    /// The declared parameters, in order.
    pub fn specs(&self) -> Arc<[ParamSpec]> {
        self.specs.clone().into()
    }

    /// A declared parameter.
    pub fn spec(&self, p: Param) -> &ParamSpec {
        &self.specs[p.0]
    }

    /// Number of trained values, tied ones counted once, balancing biases left out.
    pub fn parameter_count(&self) -> usize {
        self.specs.iter().filter(|s| s.balance.is_none()).map(ParamSpec::numel).sum()
    }

    /// Declares a parameter. A second declaration of the same name and shape is the same parameter (tying).
    ///
    /// # Errors
    /// [`Error::Param`] if the name was declared with another shape, initial value or decay.
    pub fn param(&mut self, name: impl Into<String>, shape: &[usize], init: Init, decay: bool) -> Result<Param> {
        self.declare(ParamSpec { name: name.into(), shape: shape.to_vec(), init, decay, balance: None })
    }

    fn declare(&mut self, spec: ParamSpec) -> Result<Param> {
        match self.specs.iter().position(|s| s.name == spec.name) {
            Some(i) if self.specs[i] == spec => Ok(Param(i)),
            Some(i) => Err(Error::Param {
                name: spec.name,
                what: format!("declared as {:?} and again as {:?}", self.specs[i].shape, spec.shape),
                remedy: "give each parameter a name of its own, or tie it with equal declarations",
            }),
            None => {
                self.specs.push(spec);
                Ok(Param(self.specs.len() - 1))
            }
        }
    }

    /// Records [`Op::Embedding`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the table is not a matrix.
    pub fn embedding(&mut self, table: Param) -> Result<Var> {
        let [_, d] = self.matrix("embedding", table)?;
        Ok(self.push(Op::Embedding { table }, d))
    }

    /// Records [`Op::AddPositions`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the table is shorter than the row or not as wide as x.
    pub fn add_positions(&mut self, x: Var, table: Param) -> Result<Var> {
        let [max, d] = self.matrix("add_positions", table)?;
        if d != self.cols(x) || max < self.len {
            let what = format!("table {max} x {d} for {} positions of {} columns", self.len, self.cols(x));
            return Err(Error::Shape { op: "add_positions", what, remedy: "learn at least as many positions" });
        }
        Ok(self.push(Op::AddPositions { x, table }, d))
    }

    /// Records [`Op::Linear`].
    ///
    /// # Errors
    /// [`Error::Shape`] if weight, bias or residual do not fit.
    pub fn linear(&mut self, x: Var, w: Param, bias: Option<Param>, residual: Option<Var>) -> Result<Var> {
        let [out, inp] = self.matrix("linear", w)?;
        self.same("linear", "columns of x and of the weight", self.cols(x), inp)?;
        if let Some(b) = bias {
            self.same("linear", "bias and rows of the weight", self.spec(b).numel(), out)?;
        }
        if let Some(r) = residual {
            self.same("linear", "residual and rows of the weight", self.cols(r), out)?;
        }
        Ok(self.push(Op::Linear { x, w, bias, residual }, out))
    }

    /// Records [`Op::RmsNorm`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the gain's length does not divide x's columns.
    pub fn rms_norm(&mut self, x: Var, gain: Param, eps: f32) -> Result<Var> {
        let (cols, group) = (self.cols(x), self.spec(gain).numel());
        self.divides("rms_norm", cols, group)?;
        Ok(self.push(Op::RmsNorm { x, gain, eps }, cols))
    }

    /// Records [`Op::LayerNorm`].
    ///
    /// # Errors
    /// [`Error::Shape`] if gain or bias are not as long as x is wide.
    pub fn layer_norm(&mut self, x: Var, gain: Param, bias: Param, eps: f32) -> Result<Var> {
        let cols = self.cols(x);
        self.same("layer_norm", "gain and columns of x", self.spec(gain).numel(), cols)?;
        self.same("layer_norm", "bias and columns of x", self.spec(bias).numel(), cols)?;
        Ok(self.push(Op::LayerNorm { x, gain, bias, eps }, cols))
    }

    /// Records [`Op::Rope`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the heads do not divide the columns into even parts.
    pub fn rope(&mut self, x: Var, heads: usize, theta: f32) -> Result<Var> {
        let cols = self.cols(x);
        self.divides("rope", cols, 2 * heads)?;
        Ok(self.push(Op::Rope { x, heads, theta }, cols))
    }

    /// Records [`Op::Attention`].
    ///
    /// # Errors
    /// [`Error::Shape`] if q, k and v differ or the heads do not divide them.
    pub fn attention(&mut self, q: Var, k: Var, v: Var, heads: usize) -> Result<Var> {
        let cols = self.cols(q);
        self.same("attention", "columns of q and k", cols, self.cols(k))?;
        self.same("attention", "columns of q and v", cols, self.cols(v))?;
        self.divides("attention", cols, heads)?;
        Ok(self.push(Op::Attention { q, k, v, heads }, cols))
    }

    /// Records [`Op::SwiGlu`].
    ///
    /// # Errors
    /// [`Error::Shape`] if gate and up differ.
    pub fn swiglu(&mut self, gate: Var, up: Var) -> Result<Var> {
        let cols = self.cols(gate);
        self.same("swiglu", "columns of gate and up", cols, self.cols(up))?;
        Ok(self.push(Op::SwiGlu { gate, up }, cols))
    }

    /// Records [`Op::Gelu`].
    pub fn gelu(&mut self, x: Var) -> Var {
        self.push(Op::Gelu { x }, self.cols(x))
    }

    /// Records [`Op::ShortConv`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the taps do not fit x, or the width or rank is out of range.
    pub fn short_conv(&mut self, x: Var, filter: Filter, width: usize, residual: bool, silu: bool) -> Result<Var> {
        const OP: &str = "short_conv";
        let d = self.cols(x);
        if !(1..=8).contains(&width) {
            let what = format!("width {width} is out of range 1..=8");
            return Err(Error::Shape { op: OP, what, remedy: "use at most 8 taps" });
        }
        let static_w = match filter {
            Filter::Static { w } => Some(w),
            Filter::HeadWise { weight, head_size, static_w } => {
                self.divides(OP, d, head_size)?;
                self.same(OP, "columns of the weight and H * W", self.cols(weight), d / head_size * width)?;
                static_w
            }
            Filter::LowRank { z, u, static_w } => {
                let [rank, taps] = self.matrix(OP, u)?;
                self.same(OP, "columns of z and rows of U", self.cols(z), rank)?;
                self.same(OP, "columns of U and W * D", taps, width * d)?;
                if !(1..=128).contains(&rank) {
                    let what = format!("rank {rank} is out of range 1..=128");
                    return Err(Error::Shape { op: OP, what, remedy: "use a rank of at most 128" });
                }
                static_w
            }
        };
        if let Some(w) = static_w {
            self.same(OP, "elements of the static taps and W * D", self.spec(w).numel(), width * d)?;
        }
        Ok(self.push(Op::ShortConv { x, filter, width, residual, silu }, d))
    }

    /// Records [`Op::Add`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the summands differ.
    pub fn add(&mut self, a: Var, b: Var) -> Result<Var> {
        self.same("add", "columns", self.cols(a), self.cols(b))?;
        Ok(self.push(Op::Add { a, b }, self.cols(a)))
    }

    /// Records [`Op::CrossEntropy`], the tape's loss and its last op.
    pub fn cross_entropy(&mut self, logits: Var) -> Var {
        self.push(Op::CrossEntropy { logits }, 1)
    }

    /// The logits the loss is taken of, if the tape has a loss.
    pub fn logits(&self) -> Option<Var> {
        match self.ops.last() {
            Some(Op::CrossEntropy { logits }) => Some(*logits),
            _ => None,
        }
    }

    fn push(&mut self, op: Op, cols: usize) -> Var {
        self.ops.push(op);
        self.cols.push(cols);
        Var(self.ops.len() - 1)
    }

    fn matrix(&self, op: &'static str, p: Param) -> Result<[usize; 2]> {
        self.spec(p).shape.as_slice().try_into().map_err(|_| Error::Shape {
            op,
            what: format!("parameter {} has shape {:?}", self.spec(p).name, self.spec(p).shape),
            remedy: "declare it as a matrix",
        })
    }

    fn same(&self, op: &'static str, what: &str, a: usize, b: usize) -> Result<()> {
        if a == b {
            return Ok(());
        }
        Err(Error::Shape { op, what: format!("{what} differ: {a} and {b}"), remedy: "make them equal" })
    }

    fn divides(&self, op: &'static str, cols: usize, part: usize) -> Result<()> {
        if part != 0 && cols.is_multiple_of(part) {
            return Ok(());
        }
        let what = format!("{cols} columns cannot be split by {part}");
        Err(Error::Shape { op, what, remedy: "choose a size that divides the columns" })
    }
}
