//! One pass over a tape: each op handed to its composition, the dfdx tapes of all joined into one.

use backend::{Batch, Error, Filter, IGNORE, Op, Param, Result, Tape as Model, Var};
use dfdx::prelude::*;

use crate::compose::{self, Dynamic, Experts, Loss, Matrix, Mixture, Vector};
use crate::{Layout, Real};

/// A pass under way, and what it leaves.
pub(crate) struct Pass<'a, E: Real, D: Device<E>, T> {
    model: &'a Model,
    batch: &'a Batch,
    layout: Layout,
    params: &'a [Vector<E, D>],
    /// The values of all ops so far.
    pub(crate) values: Vec<Matrix<E, D>>,
    /// The mean loss, once its op has run.
    pub(crate) loss: Option<Tensor<(), E, D>>,
    /// The auxiliary losses of each mixture of experts so far.
    pub(crate) aux: Vec<Tensor<(), E, D>>,
    /// The tokens of each expert of the same.
    pub(crate) load: Vec<Vec<usize>>,
    /// The gradients' program: all of it up to here if `T` is [`OwnedTape`], nothing if it is [`NoneTape`].
    pub(crate) tape: T,
}

/// Runs `model` on `batch` with `params`, one flat tensor per declared parameter. `name` is the backend's, for errors.
pub(crate) fn run<'a, E: Real, D: Device<E>, T: Tape<E, D>>(
    model: &'a Model,
    batch: &'a Batch,
    params: &'a [Vector<E, D>],
    name: &str,
) -> Result<Pass<'a, E, D, T>> {
    let layout = Layout::of(model, batch)?;
    let values = Vec::with_capacity(model.ops().len());
    let mut pass = Pass {
        model,
        batch,
        layout,
        params,
        values,
        loss: None,
        aux: Vec::new(),
        load: Vec::new(),
        tape: T::default(),
    };
    for op in model.ops() {
        pass.check_ids(op)?;
        let value = pass.step(op).map_err(|e| Error::Backend {
            backend: name.into(),
            what: format!("{}: {e}", op.name()),
            hint: "use a smaller batch or model".into(),
        })?;
        let (value, tape) = value.split_tape();
        pass.tape = std::mem::take(&mut pass.tape).merge(tape);
        pass.values.push(value);
    }
    Ok(pass)
}

impl<E: Real, D: Device<E>, T: Tape<E, D>> Pass<'_, E, D, T> {
    /// The value of one op, with the tape of that op alone.
    fn step(&mut self, op: &Op) -> std::result::Result<Matrix<E, D, T>, D::Err> {
        match *op {
            Op::Embedding { table } => {
                let rows = self.batch.ids.iter().map(|&id| id as usize).collect();
                compose::embedding(self.matrix(table)?, rows)
            }
            Op::AddPositions { x, table } => {
                let rows = compose::embedding(self.matrix(table)?, self.layout.positions())?;
                compose::add(self.value(x), rows)
            }
            Op::Linear { x, w, bias, residual } => {
                let y = compose::linear(self.value(x), self.matrix(w)?, bias.map(|b| self.vector(b)))?;
                match residual {
                    Some(residual) => compose::add(y, self.value(residual)),
                    None => Ok(y),
                }
            }
            Op::RmsNorm { x, gain, eps } => compose::rms_norm(self.value(x), self.vector(gain), eps.into()),
            Op::LayerNorm { x, gain, bias, eps } => {
                compose::layer_norm(self.value(x), self.vector(gain), self.vector(bias), eps.into())
            }
            Op::Rope { x, heads, theta } => compose::rope(self.value(x), heads, theta.into(), &self.layout),
            Op::Attention { q, k, v, heads } => {
                compose::attention(self.value(q), self.value(k), self.value(v), heads, &self.layout)
            }
            Op::SwiGlu { gate, up } => compose::swiglu(self.value(gate), self.value(up)),
            Op::Gelu { x } => compose::gelu(self.value(x)),
            Op::ShortConv { x, filter, width, residual, silu } => {
                let (dynamic, static_w) = match filter {
                    Filter::Static { w } => (None, Some(w)),
                    Filter::HeadWise { weight, static_w, .. } => {
                        (Some(Dynamic::HeadWise(self.value(weight))), static_w)
                    }
                    Filter::LowRank { z, u, static_w } => {
                        (Some(Dynamic::LowRank(self.value(z), self.matrix(u)?)), static_w)
                    }
                };
                let static_w = static_w.map(|w| self.taps(w, width)).transpose()?;
                let mut y = compose::short_conv(self.value(x), dynamic, static_w, width, &self.layout)?;
                if silu {
                    y = compose::silu(y)?;
                }
                if residual { compose::add(y, self.value(x)) } else { Ok(y) }
            }
            Op::Moe(moe) => {
                let experts =
                    Experts { gate: self.matrix(moe.gate)?, up: self.matrix(moe.up)?, down: self.matrix(moe.down)? };
                let bias = moe.bias.map(|b| self.params[b.index()].as_vec());
                let Mixture { y, aux, load } =
                    compose::moe(self.value(moe.x), self.value(moe.logits), experts, bias, &moe)?;
                self.aux.push(aux);
                self.load.push(load);
                Ok(y)
            }
            Op::GatedDeltaRule(op) => {
                let [q, k, v, a, b] = [op.q, op.k, op.v, op.a, op.b].map(|x| self.value(x));
                compose::gated_delta_rule(
                    [q, k],
                    v,
                    [a, b],
                    [op.a_log, op.dt_bias].map(|p| self.vector(p)),
                    &self.layout,
                )
            }
            Op::Ssd(op) => {
                let [x, b, c, dt] = [op.x, op.b, op.c, op.dt].map(|x| self.value(x));
                let params = [op.a_log, op.dt_bias, op.d].map(|p| self.vector(p));
                compose::ssd(x, [b, c], dt, params, op.groups, &self.layout)
            }
            Op::Add { a, b } => compose::add(self.value(a), self.value(b)),
            Op::CrossEntropy { logits } => {
                let label = |&target: &u32| (target != IGNORE).then_some(target as usize);
                let labels: Vec<_> = self.batch.targets.iter().map(label).collect();
                let Loss { mean, nll } = compose::cross_entropy(self.value(logits), &labels)?;
                let (mean, tape) = mean.split_tape();
                self.loss = Some(mean);
                nll.put_tape(tape).try_reshape_like(&(self.model.tokens(), 1))
            }
        }
    }

    fn value(&self, x: Var) -> Matrix<E, D, T> {
        self.values[x.index()].retaped()
    }

    fn vector(&self, p: Param) -> Vector<E, D, T> {
        self.params[p.index()].retaped()
    }

    /// A parameter declared with two dimensions.
    fn matrix(&self, p: Param) -> std::result::Result<Matrix<E, D, T>, D::Err> {
        self.taps(p, self.model.spec(p).shape[0])
    }

    /// A parameter as a matrix of that many rows.
    fn taps(&self, p: Param, rows: usize) -> std::result::Result<Matrix<E, D, T>, D::Err> {
        let columns = self.model.spec(p).numel() / rows;
        self.vector(p).try_reshape_like(&(rows, columns))
    }

    /// Ids and targets in range, where an op looks them up, and at least one target to score.
    fn check_ids(&self, op: &Op) -> Result<()> {
        let (what, ids, size) = match *op {
            Op::Embedding { table } => ("id", &self.batch.ids, self.model.spec(table).shape[0]),
            Op::CrossEntropy { logits } => ("target", &self.batch.targets, self.model.cols(logits)),
            _ => return Ok(()),
        };
        let scored = what == "target";
        let mut looked_up = ids.iter().filter(|&&id| !(scored && id == IGNORE)).peekable();
        if looked_up.peek().is_none() {
            let what = format!("none of {} positions has a target", ids.len());
            return Err(Error::Batch { what, remedy: "label at least one position" });
        }
        match looked_up.find(|&&id| id as usize >= size) {
            None => Ok(()),
            Some(id) => Err(Error::Batch {
                what: format!("{what} {id} in a vocabulary of {size}"),
                remedy: "use tokens of the model's vocabulary",
            }),
        }
    }
}
