//! The embedded default: f32 on the CPU, hand-written forward and backward from `crates/kernels`.
//!
//! Buffers are kept between passes, so a training step allocates nothing once every size has been seen. Two runs
//! give the same bits, at any number of threads.

mod backward;
mod conv;
mod decode;
mod experts;
mod forward;
mod grads;
mod pool;
mod recurrent;

use std::collections::BTreeMap;

use kernels::{adamw, moe};

use crate::backend::{Backend, Part, Scores};
use crate::batch::Batch;
use crate::op::Var;
use crate::optim::{AdamW, State};
use crate::params::Params;
use crate::tape::Tape;
use crate::{Error, Result};
pub use decode::Decoder;
use forward::RopeTable;
use grads::{ParamGrads, ValueGrads};
use pool::Pool;

/// The CPU backend. Work runs on the rayon pool of the calling thread.
#[derive(Debug, Default)]
pub struct CpuBackend {
    state: Option<State>,
    grads: Option<ParamGrads>,
    /// Outputs of the last pass, by op.
    values: Vec<Vec<f32>>,
    /// What an op's backward needs beside values: norm statistics, attention's log-sum-exp, recurrent states.
    saved: Vec<Vec<f32>>,
    /// The same of mixtures of experts, by op.
    moe: BTreeMap<usize, moe::Saved>,
    value_grads: ValueGrads,
    /// What the losses of the pass under way are multiplied by.
    share: f32,
    /// What the pass begun last found.
    scores: Option<Scores>,
    /// The norm of the gradients that were applied last.
    grad_norm: Option<f32>,
    rope_tables: Vec<RopeTable>,
    pool: Pool,
}

impl CpuBackend {
    /// A backend that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn missing(what: &str, hint: &str) -> Error {
        Error::Backend { backend: "cpu".into(), what: what.into(), hint: hint.into() }
    }

    fn loaded(&self) -> Result<&State> {
        self.state.as_ref().ok_or_else(|| Self::missing("no parameters", "load a state first"))
    }
}

/// Runs a pass on a thread of the pool: from outside, each of its parallel loops would wait to be taken in and woken up
/// from (6 % of a small model's step).
fn in_pool<R: Send>(pass: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| pass())
}

impl Backend for CpuBackend {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn load(&mut self, state: State) -> Result<()> {
        for part in [&state.m, &state.v] {
            part.check(&state.params.specs)?;
        }
        self.grads = None;
        self.scores = None;
        self.state = Some(state);
        Ok(())
    }

    fn state(&self) -> Result<State> {
        self.loaded().cloned()
    }

    fn evaluate(&mut self, tape: &Tape, batch: &Batch) -> Result<Scores> {
        in_pool(|| self.forward(tape, batch, false))
    }

    fn begin(&mut self, tape: &Tape, batch: &Batch, part: Part) -> Result<()> {
        if tape.logits().is_none() {
            let what = "the tape has no loss".into();
            return Err(Error::Shape { op: "gradients", what, remedy: "record cross_entropy last" });
        }
        if part.add && self.grads.is_none() {
            return Err(Self::missing("no gradients to add to", "begin a step with a part that does not add"));
        }
        self.scores = None;
        self.share = part.share;
        in_pool(|| {
            let scores = self.forward(tape, batch, true)?;
            self.backward(tape, batch, part.add)?;
            self.scores = Some(scores);
            Ok(())
        })
    }

    fn prepare(&mut self, tape: &Tape, batch: &Batch, _: Part) -> Result<()> {
        batch.check(tape)
    }

    fn scores(&mut self) -> Result<Scores> {
        self.scores.take().ok_or_else(|| Self::missing("no pass was begun", "call begin() first"))
    }

    fn read_gradients(&self) -> Result<Params> {
        self.grads.as_ref().map(|g| g.grads.clone()).ok_or_else(|| Self::missing("no gradients", "begin a pass first"))
    }

    fn read(&self, x: Var) -> Result<Vec<f32>> {
        let value = self.values.get(x.index()).filter(|v| !v.is_empty());
        value.cloned().ok_or_else(|| Self::missing("no such value in the last pass", "read values after evaluate()"))
    }

    fn apply(&mut self, rule: &AdamW) -> Result<()> {
        let grads = &self.grads.as_ref().ok_or_else(|| Self::missing("no gradients", "begin a pass first"))?.grads;
        let state = self.state.as_mut().ok_or_else(|| Self::missing("no parameters", "load a state first"))?;
        let trained = grads.values.iter().zip(&*grads.specs).filter(|(_, spec)| spec.balance.is_none());
        let norm = trained.map(|(g, _)| adamw::sum_sq(g)).sum::<f64>().sqrt() as f32;
        let scale = if rule.clip > 0.0 && norm > rule.clip { rule.clip / norm } else { 1.0 };
        state.step += 1;
        self.grad_norm = Some(norm);
        if !norm.is_finite() {
            return Ok(());
        }
        let parts = state.m.values.iter_mut().zip(&mut state.v.values);
        for (((value, (m, v)), g), spec) in
            state.params.values.iter_mut().zip(parts).zip(&grads.values).zip(state.params.specs.iter())
        {
            if let Some(gamma) = spec.balance {
                moe::rebalance(gamma, g, value)?;
                continue;
            }
            let rule = adamw::Update {
                lr: rule.lr,
                beta1: rule.beta1,
                beta2: rule.beta2,
                eps: rule.eps,
                weight_decay: if spec.decay { rule.weight_decay } else { 0.0 },
                grad_scale: scale,
                step: state.step,
            };
            adamw::update(&rule, value, g, m, v)?;
        }
        Ok(())
    }

    fn grad_norm(&mut self) -> Result<f32> {
        self.grad_norm.take().ok_or_else(|| Self::missing("no rule was applied", "call apply() first"))
    }
}
