//! The prompt in one pass: what the ops would remember after its tokens, from the ops' passes over whole sequences.

use std::mem::take;

use kernels::short_conv::{self, Options, Output, RowsMut};
use kernels::{gated_delta_rule, ssd};

use super::super::conv::Conv;
use super::super::forward::sequences;
use super::{Decoder, Memory};
use crate::backend::Scores;
use crate::batch::{Batch, IGNORE};
use crate::op::Op;
use crate::tape::Tape;
use crate::{Error, Result};

impl Decoder {
    /// Takes in the first tokens of each sequence, `[batch, T]`, all at once; no logits are computed. The steps that
    /// follow go on from there.
    ///
    /// # Errors
    /// [`Error::Batch`] after the first token or for ids that do not divide into the sequences; a kernel's error at an id
    /// outside of the vocabulary or past the last of learned positions. The decoder is then at its start.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        let rows = self.tape.batch();
        if self.position > 0 {
            let what = format!("a prompt after {} tokens", self.position);
            return Err(Error::Batch { what, remedy: "restart the decoder first" });
        }
        if !ids.len().is_multiple_of(rows) {
            let what = format!("{} ids for {rows} sequences", ids.len());
            return Err(Error::Batch { what, remedy: "give every sequence as many" });
        }
        if ids.is_empty() {
            return Ok(());
        }
        let tape = self.tape.with_len(ids.len() / rows)?;
        let batch = Batch::new(ids.to_vec(), vec![IGNORE; ids.len()]);
        self.cpu.make_room(&tape, sequences(&tape, &batch))?;
        let before_logits = tape.logits().map_or(tape.ops().len(), |logits| logits.index());
        for i in 0..before_logits {
            if let Err(e) = self.take_in(&tape, &batch, i) {
                self.restart();
                return Err(e);
            }
        }
        self.position = tape.seq_len();
        Ok(())
    }

    fn take_in(&mut self, tape: &Tape, batch: &Batch, i: usize) -> Result<()> {
        let Self { cpu, memory, .. } = self;
        let (op, seqs) = (tape.ops()[i], sequences(tape, batch));
        if let Op::Moe(moe) = op {
            return cpu.moe_forward(tape, i, moe, &mut Scores::default());
        }
        let (mut y, mut saved) = (take(&mut cpu.values[i]), take(&mut cpu.saved[i]));
        match (op, &mut memory[i]) {
            (Op::ShortConv { x, filter, width, residual, silu }, Memory::ShortConv(state)) => {
                let conv = Conv { x, filter, width, options: Options { residual, silu } };
                let output = Output { y: RowsMut::packed(&mut y, tape.cols(x)), final_state: Some(state) };
                short_conv::forward(conv.shape(tape, seqs), conv.options, &cpu.conv_input(tape, conv)?, output)?;
            }
            (Op::GatedDeltaRule(op), Memory::Recurrent(state)) => {
                let input = cpu.delta_input(op)?;
                gated_delta_rule::forward(&op.shape(tape, seqs), &input, &mut y, Some(state), &mut saved)?;
            }
            (Op::Ssd(op), Memory::Recurrent(state)) => {
                ssd::forward(&op.shape(tape, seqs), &cpu.ssd_input(op)?, &mut y, Some(state), &mut saved)?;
            }
            (Op::Attention { k, v, .. }, Memory::Attention(seen)) => {
                cpu.run(tape, batch, op, &mut y, &mut saved)?;
                let rows = |x| cpu.value(x).chunks_exact(tape.seq_len() * tape.cols(x));
                for (seen, (k, v)) in seen.iter_mut().zip(rows(k).zip(rows(v))) {
                    *seen = [k.to_vec(), v.to_vec()];
                }
            }
            _ => cpu.run(tape, batch, op, &mut y, &mut saved)?,
        }
        (cpu.values[i], cpu.saved[i]) = (y, saved);
        Ok(())
    }
}
