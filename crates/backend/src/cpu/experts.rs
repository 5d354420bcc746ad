//! The mixture of experts between the tape and its kernel.

use std::mem::take;

use kernels::Store;
use kernels::moe::{self, Saved, Weight, Weights};

use super::CpuBackend;
use super::grads::{ParamGrads, ValueGrads};
use super::pool::Pool;
use crate::Result;
use crate::backend::Scores;
use crate::op::Moe;
use crate::optim::excess_load;
use crate::tape::Tape;

impl CpuBackend {
    /// Runs op `i` and adds what it says to the scores.
    pub(super) fn moe_forward(&mut self, tape: &Tape, i: usize, op: Moe, scores: &mut Scores) -> Result<()> {
        let (mut y, mut saved) = (take(&mut self.values[i]), self.moe.remove(&i).unwrap_or_default());
        let bias = op.bias.map(|b| self.param(b)).transpose()?;
        let (x, logits) = (self.value(op.x), self.value(op.logits));
        moe::forward(op.shape(tape), op.options(1.0), x, logits, bias, self.experts(op)?, &mut y, &mut saved)?;
        scores.aux += saved.aux();
        scores.load.push(saved.load().collect());
        self.values[i] = y;
        self.moe.insert(i, saved);
        Ok(())
    }

    pub(super) fn moe_backward(
        &mut self,
        tape: &Tape,
        i: usize,
        op: Moe,
        dy: &[f32],
        values: &mut ValueGrads,
        params: &mut ParamGrads,
        pool: &mut Pool,
    ) -> Result<()> {
        let shape = op.shape(tape);
        let mut saved: Saved = self.moe.remove(&i).unwrap_or_default();
        let (mut dx, mut dlogits) = (pool.take(dy.len()), pool.take(shape.tokens * shape.experts));
        moe::backward_input(shape, op.options(self.share), self.experts(op)?, &mut saved, dy, &mut dx, &mut dlogits)?;
        values.add(op.x, dx, pool)?;
        values.add(op.logits, dlogits, pool)?;
        for (weight, p) in [(Weight::Gate, op.gate), (Weight::Up, op.up), (Weight::Down, op.down)] {
            let (dw, store) = params.of(p);
            moe::backward_weight(shape, &saved, weight, dw, store)?;
        }
        if let Some(bias) = op.bias {
            let (sum, store) = params.of(bias);
            if store == Store::Overwrite {
                sum.fill(0.0);
            }
            let load: Vec<usize> = saved.load().collect();
            sum.iter_mut().zip(excess_load(&load)).for_each(|(sum, excess)| *sum += excess);
        }
        self.moe.insert(i, saved);
        Ok(())
    }

    fn experts(&self, op: Moe) -> Result<Weights<'_>> {
        Ok(Weights { gate: self.param(op.gate)?, up: self.param(op.up)?, down: self.param(op.down)? })
    }
}
