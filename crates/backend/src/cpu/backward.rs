//! The backward pass: every op in reverse.

use std::mem::take;

use kernels::short_conv::Options;
use kernels::{Store, attention, embedding, gelu, layer_norm, linear, positions, rms_norm, rope, swiglu};
use rayon::prelude::*;

use super::CpuBackend;
use super::conv::Conv;
use super::forward::{attention_shape, linear_shape, sequences};
use super::grads::{ParamGrads, ValueGrads};
use crate::Result;
use crate::batch::Batch;
use crate::op::{Op, Var};
use crate::params::Params;
use crate::tape::Tape;

impl CpuBackend {
    /// Gradients of the loss of the forward pass just run with `train`, added to those held with `add`.
    pub(super) fn backward(&mut self, tape: &Tape, batch: &Batch, add: bool) -> Result<()> {
        let mut params = match self.grads.take() {
            Some(g) => g,
            None => ParamGrads::new(Params::zeros(tape.specs())),
        };
        let mut values = take(&mut self.value_grads);
        params.reset(add);
        values.reset(tape.ops().len(), &mut self.pool);
        for (i, &op) in tape.ops().iter().enumerate().rev() {
            if let Op::CrossEntropy { logits } = op {
                // The forward pass left the gradient in place of the logits.
                let mut dlogits = take(&mut self.values[logits.0]);
                if self.share != 1.0 {
                    dlogits.par_iter_mut().for_each(|g| *g *= self.share);
                }
                values.add(logits, dlogits, &mut self.pool)?;
            } else if let Some(dy) = values.take(Var(i)) {
                self.run_backward(tape, batch, i, dy, &mut values, &mut params)?;
            }
        }
        params.finish();
        self.grads = Some(params);
        self.value_grads = values;
        Ok(())
    }

    /// Runs one op backward; `dy` is its output's gradient, complete.
    fn run_backward(
        &mut self,
        tape: &Tape,
        batch: &Batch,
        i: usize,
        dy: Vec<f32>,
        values: &mut ValueGrads,
        params: &mut ParamGrads,
    ) -> Result<()> {
        let seqs = sequences(tape, batch);
        let n = tape.tokens();
        // Taken out, so that buffers can be handed out while values are read.
        let mut pool = take(&mut self.pool);
        let p = &mut pool;
        match tape.ops()[i] {
            Op::Embedding { table } => {
                let (dtable, store) = params.of(table);
                embedding::backward(&batch.ids, &dy, tape.spec(table).shape[1], dtable, store)?;
                p.give(dy);
            }
            Op::AddPositions { x, table } => {
                let (dtable, store) = params.of(table);
                positions::backward(seqs, &dy, tape.cols(x), dtable, store)?;
                values.add(x, dy, p)?;
            }
            Op::Linear { x, w, bias, residual } => {
                let shape = linear_shape(tape, x, w);
                let weight = self.param(w)?;
                values.write(x, n * shape.inputs, p, |dx, s| linear::backward_input(shape, weight, &dy, dx, s))?;
                let (dw, store) = params.of(w);
                linear::backward_weight(shape, self.value(x), &dy, dw, store)?;
                if let Some(b) = bias {
                    let (db, store) = params.of(b);
                    linear::backward_bias(shape, &dy, db, store)?;
                }
                match residual {
                    Some(r) => values.add(r, dy, p)?,
                    None => p.give(dy),
                }
            }
            Op::RmsNorm { x, gain, .. } => {
                let (dgain, param_store) = params.of(gain);
                let (input, g) = (self.value(x), self.param(gain)?);
                values.write(x, dy.len(), p, |dx, store| {
                    rms_norm::backward(input, g, &self.saved[i], &dy, dx, store, dgain, param_store)
                })?;
                p.give(dy);
            }
            Op::LayerNorm { x, gain, bias, .. } => {
                let (mut dgain, mut dbias) = (p.take(tape.cols(x)), p.take(tape.cols(x)));
                let (input, g) = (self.value(x), self.param(gain)?);
                values.write(x, dy.len(), p, |dx, store| {
                    let overwrite = Store::Overwrite;
                    layer_norm::backward(input, g, &self.saved[i], &dy, dx, store, &mut dgain, &mut dbias, overwrite)
                })?;
                params.add(gain, dgain, p)?;
                params.add(bias, dbias, p)?;
                p.give(dy);
            }
            Op::Rope { x, heads, theta } => {
                let mut dx = p.take(dy.len());
                rope::backward(seqs, 0, self.rope(tape.cols(x) / heads, theta)?, &dy, heads, &mut dx)?;
                p.give(dy);
                values.add(x, dx, p)?;
            }
            Op::Attention { q, k, v, heads } => {
                let [mut dq, mut dk, mut dv] = [q, k, v].map(|_| p.take(dy.len()));
                let saved = attention::Saved {
                    q: self.value(q),
                    k: self.value(k),
                    v: self.value(v),
                    o: &self.values[i],
                    lse: &self.saved[i],
                };
                let shape = attention_shape(tape, seqs, q, heads);
                attention::backward(&shape, &saved, &dy, &mut dq, &mut dk, &mut dv)?;
                p.give(dy);
                for (x, dx) in [(q, dq), (k, dk), (v, dv)] {
                    values.add(x, dx, p)?;
                }
            }
            Op::SwiGlu { gate, up } => {
                let (mut dgate, mut dup) = (p.take(dy.len()), p.take(dy.len()));
                swiglu::backward(self.value(gate), self.value(up), &dy, &mut dgate, &mut dup)?;
                p.give(dy);
                values.add(gate, dgate, p)?;
                values.add(up, dup, p)?;
            }
            Op::Gelu { x } => {
                let mut dx = p.take(dy.len());
                gelu::backward(self.value(x), &dy, &mut dx)?;
                p.give(dy);
                values.add(x, dx, p)?;
            }
            Op::ShortConv { x, filter, width, residual, silu } => {
                let conv = Conv { x, filter, width, options: Options { residual, silu } };
                self.conv_backward(tape, batch, conv, &dy, values, params, p)?;
                p.give(dy);
            }
            Op::Moe(moe) => {
                self.moe_backward(tape, i, moe, &dy, values, params, p)?;
                p.give(dy);
            }
            Op::GatedDeltaRule(op) => {
                self.delta_backward(tape, seqs, i, op, &dy, values, params, p)?;
                p.give(dy);
            }
            Op::Ssd(op) => {
                self.ssd_backward(tape, seqs, i, op, &dy, values, params, p)?;
                p.give(dy);
            }
            Op::Add { a, b } => {
                let mut copy = p.take(dy.len());
                copy.copy_from_slice(&dy);
                values.add(a, copy, p)?;
                values.add(b, dy, p)?;
            }
            Op::CrossEntropy { .. } => p.give(dy),
        }
        self.pool = pool;
        Ok(())
    }
}
