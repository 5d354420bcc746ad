//! What the host sends with each batch and reads back, each in one copy.

use kernels::cuda::Dtype;
use kernels::cuda::dense::Sorted;

use super::program::{Home, View};
use crate::backend::Scores;
use crate::batch::{Batch, IGNORE};
use crate::op::Op;
use crate::tape::Tape;
use crate::{Error, Result};

/// The places of a batch's parts in the inputs, and of the results in the outputs; N tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inputs {
    tokens: usize,
    /// Borders of sequences: S + 1, the last ones repeated where a batch has fewer.
    borders: usize,
    /// Words that the mixtures of experts report.
    mixtures: usize,
}

impl Inputs {
    /// For batches of this tape. `packed`: room for so many packed sequences.
    pub(super) fn new(tape: &Tape, packed: Option<usize>) -> Self {
        let mixtures = reported(tape, tape.ops().len());
        Self { tokens: tape.tokens(), borders: packed.unwrap_or(tape.batch()) + 1, mixtures }
    }

    fn view(&self, at: usize, cols: usize, dtype: Dtype) -> View {
        View { home: Home::Inputs, at, rows: 1, cols, stride: cols, dtype }
    }

    pub(super) fn ids(&self) -> View {
        self.view(0, self.tokens, Dtype::U32)
    }

    pub(super) fn targets(&self) -> View {
        self.view(self.tokens, self.tokens, Dtype::U32)
    }

    pub(super) fn positions(&self) -> View {
        self.view(2 * self.tokens, self.tokens, Dtype::U32)
    }

    /// Rows sorted by id: `order`, `tokens`, `starts`, `count`.
    pub(super) fn sorted(&self) -> [View; 4] {
        let n = self.tokens;
        let view = |at, cols| self.view(at, cols, Dtype::U32);
        [view(3 * n, n), view(4 * n, n), view(5 * n, n + 1), view(6 * n + 1, 1)]
    }

    /// The share of the losses / labelled rows.
    pub(super) fn weight(&self) -> View {
        self.view(6 * self.tokens + 2, 1, Dtype::F32)
    }

    /// The share of the losses.
    pub(super) fn share(&self) -> View {
        self.view(6 * self.tokens + 3, 1, Dtype::F32)
    }

    pub(super) fn cu_seqlens(&self) -> View {
        self.view(6 * self.tokens + 4, self.borders, Dtype::U32)
    }

    /// Words of all inputs.
    pub(super) fn len(&self) -> usize {
        6 * self.tokens + 4 + self.borders
    }

    pub(super) fn nll(&self) -> View {
        View { home: Home::Outputs, at: 0, rows: 1, cols: self.tokens, stride: self.tokens, dtype: Dtype::F32 }
    }

    pub(super) fn argmax(&self) -> View {
        View { at: self.tokens, dtype: Dtype::U32, ..self.nll() }
    }

    /// What the mixture of op i reports: the tokens of each expert, then its auxiliary losses.
    pub(super) fn mixture(&self, tape: &Tape, i: usize) -> View {
        let cols = reported(tape, i + 1) - reported(tape, i);
        View { at: 2 * self.tokens + reported(tape, i), cols, stride: cols, dtype: Dtype::U32, ..self.nll() }
    }

    /// Words of all outputs.
    pub(super) fn outputs(&self) -> usize {
        2 * self.tokens + self.mixtures
    }

    /// What the outputs say, but for the mean loss; `experts` of each mixture.
    pub(super) fn scores(&self, words: &[u32], experts: impl Iterator<Item = usize>) -> Scores {
        let (nll, rest) = words.split_at(self.tokens);
        let (argmax, mut rest) = rest.split_at(self.tokens);
        let nll = nll.iter().map(|&w| f32::from_bits(w)).collect();
        let mut scores = Scores { nll, predictions: argmax.to_vec(), ..Scores::default() };
        for experts in experts {
            let (load, after) = rest.split_at(experts);
            scores.load.push(load.iter().map(|&n| n as usize).collect());
            scores.aux += f32::from_bits(after[0]);
            rest = &after[1..];
        }
        scores
    }

    /// The inputs of a batch that fits the tape, its losses multiplied by `share`.
    pub(super) fn pack(&self, tape: &Tape, batch: &Batch, share: f32) -> Vec<u32> {
        let n = self.tokens;
        let mut words = Vec::with_capacity(self.len());
        words.extend(&batch.ids);
        words.extend(&batch.targets);
        let len = tape.seq_len();
        let mut borders: Vec<usize> = match &batch.cu_seqlens {
            Some(borders) => borders.clone(),
            None => (0..=tape.batch()).map(|b| b * len).collect(),
        };
        words.extend(borders.windows(2).flat_map(|w| (0..w[1] - w[0]).map(|t| t as u32)));
        let (order, starts, tokens, count) = Sorted::of(&batch.ids);
        words.extend(order);
        words.extend(tokens);
        words.extend(starts);
        words.push(count);
        words.push((share / counted(&batch.targets).max(1) as f32).to_bits());
        words.push(share.to_bits());
        borders.resize(self.borders, n);
        words.extend(borders.into_iter().map(|b| b as u32));
        words
    }
}

/// Words that the mixtures among the first ops report.
fn reported(tape: &Tape, ops: usize) -> usize {
    let words = |op: &Op| if let Op::Moe(moe) = op { tape.cols(moe.logits) + 1 } else { 0 };
    tape.ops()[..ops].iter().map(words).sum()
}

/// Rows with a label.
pub(super) fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&t| t != IGNORE).count()
}

/// Checks a batch against a tape. The device does not check ids: those outside of a table would read past it.
pub(super) fn check(tape: &Tape, batch: &Batch) -> Result<()> {
    batch.check(tape)?;
    let remedy = "use the tokenizer the model was made for";
    for op in tape.ops() {
        let (what, ids, rows) = match *op {
            Op::Embedding { table } => ("id", &batch.ids, tape.spec(table).shape[0]),
            Op::CrossEntropy { logits } => ("target", &batch.targets, tape.cols(logits)),
            _ => continue,
        };
        let outside = |&&id: &&u32| id as usize >= rows && !(what == "target" && id == IGNORE);
        if let Some(id) = ids.iter().find(outside) {
            return Err(Error::Batch { what: format!("{what} {id} is outside of a vocabulary of {rows}"), remedy });
        }
        if what == "target" && counted(ids) == 0 {
            let what = format!("none of {} rows has a target", ids.len());
            return Err(Error::Batch { what, remedy: "score at least one row of a batch" });
        }
    }
    Ok(())
}
