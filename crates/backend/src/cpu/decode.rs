//! Decoding: a tape of one token per sequence, run again and again with a memory per op.
//!
//! Attention remembers keys and values, a short convolution its last `width - 1` inputs, a recurrence its states,
//! positions count on. The logits of each step are those that the full pass gives at that token. A prompt is taken in by
//! one full pass.

mod prefill;

use std::mem::take;

use kernels::short_conv::{self, Options, RowsMut};
use kernels::{Sequences, attention, gated_delta_rule, positions, rope, ssd};

use super::CpuBackend;
use super::conv::Conv;
use crate::backend::Scores;
use crate::batch::{Batch, IGNORE};
use crate::op::Op;
use crate::optim::State;
use crate::params::Params;
use crate::tape::Tape;
use crate::{Error, Result};

/// Runs a model token by token.
///
/// ```
/// use backend::{Decoder, Init, Params, Tape};
///
/// // A bigram table, for one sequence.
/// let mut tape = Tape::new(1, 1)?;
/// let table = tape.param("table", &[4, 4], Init::Normal { std: 1.0 }, true)?;
/// let logits = tape.embedding(table)?;
/// tape.cross_entropy(logits);
///
/// let params = Params::init(tape.specs(), 0);
/// let mut decoder = Decoder::new(tape, params.clone())?;
/// assert_eq!(decoder.step(&[2])?, &params.values[0][8..12]);
/// assert_eq!(decoder.position(), 1);
/// # Ok::<(), backend::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    tape: Tape,
    cpu: CpuBackend,
    /// One per op.
    memory: Vec<Memory>,
    position: usize,
}

/// What an op remembers of the tokens before.
#[derive(Debug, Clone)]
enum Memory {
    Nothing,
    /// Keys and values of each sequence, token after token.
    Attention(Vec<[Vec<f32>; 2]>),
    /// `[batch, width - 1, D]`, oldest first.
    ShortConv(Vec<f32>),
    /// The states of a recurrence.
    Recurrent(Vec<f32>),
}

impl Decoder {
    /// A decoder at the start of its sequences, as many as the tape has rows.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tape's rows have more than one token or it has no loss, whose logits a step gives;
    /// [`Error::Param`] if the parameters are another model's.
    pub fn new(tape: Tape, params: Params) -> Result<Self> {
        let refuse = |what: String, remedy| Err(Error::Shape { op: "decoder", what, remedy });
        if tape.seq_len() != 1 {
            return refuse(format!("rows of {} tokens", tape.seq_len()), "record the model for rows of one token");
        }
        if tape.logits().is_none() {
            return refuse("the tape has no loss".into(), "record cross_entropy last");
        }
        params.check(&tape.specs())?;
        // Nothing is trained: no moments.
        let none = Params { specs: params.specs.clone(), values: Vec::new() };
        let state = State { params, m: none.clone(), v: none, step: 0 };
        let cpu = CpuBackend { state: Some(state), ..CpuBackend::default() };
        let mut decoder = Self { memory: Vec::new(), tape, cpu, position: 0 };
        decoder.restart();
        Ok(decoder)
    }

    /// Tokens of each sequence so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Number of logits.
    pub fn vocab(&self) -> usize {
        self.tape.logits().map_or(0, |logits| self.tape.cols(logits))
    }

    /// Forgets the sequences.
    pub fn restart(&mut self) {
        let (tape, batch) = (&self.tape, self.tape.batch());
        let seqs = Sequences::Equal { batch, len: 1 };
        let fresh = |op: &Op| match *op {
            Op::Attention { .. } => Memory::Attention(vec![Default::default(); batch]),
            Op::ShortConv { x, width, .. } => Memory::ShortConv(vec![0.0; batch * (width - 1) * tape.cols(x)]),
            Op::GatedDeltaRule(op) => Memory::Recurrent(vec![0.0; op.shape(tape, seqs).state_len()]),
            Op::Ssd(op) => Memory::Recurrent(vec![0.0; op.shape(tape, seqs).state_len()]),
            _ => Memory::Nothing,
        };
        self.memory = tape.ops().iter().map(fresh).collect();
        self.position = 0;
    }

    /// The logits `[batch, V]` after one more token of each sequence.
    ///
    /// # Errors
    /// [`Error::Batch`] unless there is one id per sequence; a kernel's error at an id outside of the vocabulary;
    /// [`Error::Shape`] past the last of learned positions.
    pub fn step(&mut self, ids: &[u32]) -> Result<&[f32]> {
        let batch = Batch::new(ids.to_vec(), vec![IGNORE; ids.len()]);
        batch.check(&self.tape)?;
        // A step that failed has left buffers out of their places.
        self.cpu.make_room(&self.tape, Sequences::Equal { batch: self.tape.batch(), len: 1 })?;
        for i in 0..self.tape.ops().len() {
            self.run(i, &batch)?;
        }
        self.position += 1;
        let logits = self.tape.logits().ok_or_else(|| CpuBackend::missing("no logits", "record cross_entropy last"))?;
        Ok(self.cpu.value(logits))
    }

    fn run(&mut self, i: usize, batch: &Batch) -> Result<()> {
        let Self { tape, cpu, memory, position } = self;
        let seqs = Sequences::Equal { batch: tape.batch(), len: 1 };
        let op = tape.ops()[i];
        if let Op::Rope { x, heads, theta } = op {
            cpu.rope_table((*position + 1).next_power_of_two(), tape.cols(x) / heads, theta)?;
        }
        if let Op::Moe(moe) = op {
            return cpu.moe_forward(tape, i, moe, &mut Scores::default());
        }
        let (mut y, mut saved) = (take(&mut cpu.values[i]), take(&mut cpu.saved[i]));
        match (op, &mut memory[i]) {
            (Op::AddPositions { x, table }, _) => {
                let d = tape.cols(x);
                let row = cpu.param(table)?.get(*position * d..(*position + 1) * d).ok_or_else(|| Error::Shape {
                    op: "add_positions",
                    what: format!("token {position} is past the {} learned positions", tape.spec(table).shape[0]),
                    remedy: "restart the decoder, or train with a larger max_len",
                })?;
                positions::forward(seqs, cpu.value(x), row, d, &mut y)?;
            }
            (Op::Rope { x, heads, theta }, _) => {
                let table = cpu.rope(tape.cols(x) / heads, theta)?;
                rope::forward(seqs, *position, table, cpu.value(x), heads, &mut y)?;
            }
            (Op::Attention { q, k, v, heads }, Memory::Attention(seen)) => {
                let d = tape.cols(q);
                let rows = |x| cpu.value(x).chunks_exact(d);
                let new = rows(q).zip(rows(k)).zip(rows(v));
                for (([keys, values], ((q, k), v)), y) in seen.iter_mut().zip(new).zip(y.chunks_exact_mut(d)) {
                    keys.extend_from_slice(k);
                    values.extend_from_slice(v);
                    attention::step(heads, heads, d / heads, q, keys, values, y)?;
                }
            }
            (Op::ShortConv { x, filter, width, residual, silu }, Memory::ShortConv(state)) => {
                let conv = Conv { x, filter, width, options: Options { residual, silu } };
                let input = cpu.conv_input(tape, conv)?;
                let y = RowsMut::packed(&mut y, tape.cols(x));
                short_conv::step(conv.shape(tape, seqs), conv.options, input.x, input.filter, state, y)?;
            }
            (Op::GatedDeltaRule(op), Memory::Recurrent(state)) => {
                gated_delta_rule::step(&op.shape(tape, seqs), &cpu.delta_input(op)?, state, &mut y)?;
            }
            (Op::Ssd(op), Memory::Recurrent(state)) => {
                ssd::step(&op.shape(tape, seqs), &cpu.ssd_input(op)?, state, &mut y)?;
            }
            (
                Op::Embedding { .. }
                | Op::Linear { .. }
                | Op::RmsNorm { .. }
                | Op::LayerNorm { .. }
                | Op::SwiGlu { .. }
                | Op::Gelu { .. }
                | Op::Add { .. },
                _,
            ) => cpu.run(tape, batch, op, &mut y, &mut saved)?,
            // The loss is not asked for; the others' memories are made for them.
            (
                Op::CrossEntropy { .. }
                | Op::Moe(_)
                | Op::Attention { .. }
                | Op::ShortConv { .. }
                | Op::GatedDeltaRule(_)
                | Op::Ssd(_),
                _,
            ) => {}
        }
        (cpu.values[i], cpu.saved[i]) = (y, saved);
        Ok(())
    }
}
