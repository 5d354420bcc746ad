//! The forward pass.

use std::mem::take;

use kernels::rope::Table;
use kernels::short_conv::Options;
use kernels::{
    Sequences, Store, attention, cross_entropy, elementwise, embedding, gelu, layer_norm, linear, positions, rms_norm,
    rope, swiglu,
};

use super::CpuBackend;
use super::conv::Conv;
use crate::Result;
use crate::backend::Scores;
use crate::batch::Batch;
use crate::op::{Op, Param, Var};
use crate::tape::Tape;

/// Cosines and sines of one (head size, theta), long enough for the longest row seen.
#[derive(Debug)]
pub(super) struct RopeTable {
    head_size: usize,
    theta: f32,
    pub(super) table: Table,
}

/// How the batch's rows divide into sequences.
pub(super) fn sequences<'a>(tape: &Tape, batch: &'a Batch) -> Sequences<'a> {
    match &batch.cu_seqlens {
        None => Sequences::Equal { batch: tape.batch(), len: tape.seq_len() },
        Some(cu_seqlens) => Sequences::Packed { cu_seqlens },
    }
}

/// Dimensions of a linear op for the kernels.
pub(super) fn linear_shape(tape: &Tape, x: Var, w: Param) -> linear::Shape {
    linear::Shape { rows: tape.tokens(), inputs: tape.cols(x), outputs: tape.spec(w).shape[0] }
}

/// Dimensions of an attention op for the kernels: as many key heads as query heads.
pub(super) fn attention_shape<'a>(tape: &Tape, seqs: Sequences<'a>, q: Var, heads: usize) -> attention::Shape<'a> {
    attention::Shape { seqs, heads, kv_heads: heads, head_size: tape.cols(q) / heads }
}

impl CpuBackend {
    /// Runs every op. With `train`, the logits are left as the gradient of the loss with respect to them.
    pub(super) fn forward(&mut self, tape: &Tape, batch: &Batch, train: bool) -> Result<Scores> {
        batch.check(tape)?;
        self.loaded()?.params.check(&tape.specs())?;
        self.make_room(tape, sequences(tape, batch))?;
        let mut scores = Scores::default();
        for (i, &op) in tape.ops().iter().enumerate() {
            if let Op::CrossEntropy { logits } = op {
                score(&mut self.values[logits.0], &batch.targets, tape.cols(logits), train, &mut scores)?;
                continue;
            }
            if let Op::Moe(moe) = op {
                self.moe_forward(tape, i, moe, &mut scores)?;
                continue;
            }
            let (mut y, mut saved) = (take(&mut self.values[i]), take(&mut self.saved[i]));
            self.run(tape, batch, op, &mut y, &mut saved)?;
            (self.values[i], self.saved[i]) = (y, saved);
        }
        Ok(scores)
    }

    /// Buffers of this tape's sizes for every output and every saved value.
    pub(super) fn make_room(&mut self, tape: &Tape, seqs: Sequences) -> Result<()> {
        let (n, ops) = (tape.tokens(), tape.ops());
        for buffer in self.values.drain(ops.len().min(self.values.len())..) {
            self.pool.give(buffer);
        }
        self.values.resize(ops.len(), Vec::new());
        self.saved.resize(ops.len(), Vec::new());
        for (i, &op) in ops.iter().enumerate() {
            let len = if matches!(op, Op::CrossEntropy { .. }) { 0 } else { n * tape.cols(Var(i)) };
            if self.values[i].len() != len {
                self.pool.give(take(&mut self.values[i]));
                self.values[i] = self.pool.take(len);
            }
            let saved = match op {
                Op::RmsNorm { x, gain, .. } => n * tape.cols(x) / tape.spec(gain).numel(),
                Op::LayerNorm { .. } => 2 * n,
                Op::Attention { heads, .. } => n * heads,
                Op::GatedDeltaRule(op) => op.shape(tape, seqs).saved_len(),
                Op::Ssd(op) => op.shape(tape, seqs).saved_len(),
                _ => 0,
            };
            self.saved[i].resize(saved, 0.0);
            if let Op::Rope { x, heads, theta } = op {
                self.rope_table(tape.seq_len(), tape.cols(x) / heads, theta)?;
            }
        }
        Ok(())
    }

    pub(super) fn rope_table(&mut self, len: usize, head_size: usize, theta: f32) -> Result<()> {
        let found = self.rope_tables.iter_mut().find(|t| t.head_size == head_size && t.theta == theta);
        match found {
            Some(t) if t.table.len() >= len => {}
            Some(t) => t.table = Table::new(len, head_size, theta)?,
            None => {
                let table = Table::new(len, head_size, theta)?;
                self.rope_tables.push(RopeTable { head_size, theta, table });
            }
        }
        Ok(())
    }

    /// The table made by [`CpuBackend::make_room`] for this op.
    pub(super) fn rope(&self, head_size: usize, theta: f32) -> Result<&Table> {
        let found = self.rope_tables.iter().find(|t| t.head_size == head_size && t.theta == theta);
        found.map(|t| &t.table).ok_or_else(|| Self::missing("no rotary table", "run a forward pass first"))
    }

    pub(super) fn value(&self, x: Var) -> &[f32] {
        &self.values[x.0]
    }

    pub(super) fn param(&self, p: Param) -> Result<&[f32]> {
        Ok(&self.loaded()?.params.values[p.0])
    }

    pub(super) fn run(&self, tape: &Tape, batch: &Batch, op: Op, y: &mut [f32], saved: &mut [f32]) -> Result<()> {
        let seqs = sequences(tape, batch);
        match op {
            Op::Embedding { table } => {
                embedding::forward(&batch.ids, self.param(table)?, tape.spec(table).shape[1], y)?
            }
            Op::AddPositions { x, table } => {
                positions::forward(seqs, self.value(x), self.param(table)?, tape.cols(x), y)?;
            }
            Op::Linear { x, w, bias, residual } => {
                let store = match residual {
                    None => Store::Overwrite,
                    Some(r) => {
                        y.copy_from_slice(self.value(r));
                        Store::Accumulate
                    }
                };
                let bias = bias.map(|b| self.param(b)).transpose()?;
                linear::forward(linear_shape(tape, x, w), self.value(x), self.param(w)?, bias, y, store)?;
            }
            Op::RmsNorm { x, gain, eps } => rms_norm::forward(self.value(x), self.param(gain)?, eps, y, saved)?,
            Op::LayerNorm { x, gain, bias, eps } => {
                layer_norm::forward(self.value(x), self.param(gain)?, self.param(bias)?, eps, y, saved)?;
            }
            Op::Rope { x, heads, theta } => {
                let table = self.rope(tape.cols(x) / heads, theta)?;
                rope::forward(seqs, 0, table, self.value(x), heads, y)?;
            }
            Op::Attention { q, k, v, heads } => {
                let shape = attention_shape(tape, seqs, q, heads);
                attention::forward(&shape, self.value(q), self.value(k), self.value(v), y, saved)?;
            }
            Op::SwiGlu { gate, up } => swiglu::forward(self.value(gate), self.value(up), y)?,
            Op::Gelu { x } => gelu::forward(self.value(x), y)?,
            Op::ShortConv { x, filter, width, residual, silu } => {
                let conv = Conv { x, filter, width, options: Options { residual, silu } };
                self.conv_forward(tape, batch, conv, y)?;
            }
            Op::GatedDeltaRule(op) => self.delta_forward(tape, seqs, op, y, saved)?,
            Op::Ssd(op) => self.ssd_forward(tape, seqs, op, y, saved)?,
            Op::Add { a, b } => elementwise::add(self.value(a), self.value(b), y)?,
            // Scored, not computed: by the caller.
            Op::Moe(_) | Op::CrossEntropy { .. } => {}
        }
        Ok(())
    }
}

fn score(logits: &mut [f32], targets: &[u32], vocab: usize, train: bool, scores: &mut Scores) -> Result<()> {
    scores.nll = vec![0.0; targets.len()];
    scores.predictions = vec![0; targets.len()];
    let rows = cross_entropy::Rows { nll: &mut scores.nll, argmax: &mut scores.predictions };
    scores.loss = if train {
        cross_entropy::forward_backward(logits, targets, vocab, rows)?
    } else {
        cross_entropy::forward(logits, targets, vocab, rows)?
    };
    Ok(())
}
