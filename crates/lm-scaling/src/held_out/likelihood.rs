//! Log likelihoods of many token sequences, by one tape of one shape.
//!
//! Sequences stand side by side in rows of one length, filled up on the right with positions that have no label: what
//! comes after a token changes nothing before it, so no mask is needed. A row's sum is taken in its order in f64.

use backend::{Backend, Batch, IGNORE, Tape};
use train::Result;

/// Tokens of which those from position `from` on, at least the second, are scored, each given all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// The tokens.
    pub(crate) ids: Vec<u32>,
    /// The first one that is scored.
    pub(crate) from: usize,
}

/// What a sequence's scored tokens have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Likelihood {
    /// Sum of their negative log likelihoods.
    pub(crate) nats: f64,
    /// Whether each is the likeliest at its place.
    pub(crate) greedy: bool,
}

/// Scores sequences of at most `len + 1` tokens, `rows` at a time.
///
/// # Errors
/// If the model does not take rows of that length, or the backend fails.
pub(crate) fn likelihoods(
    record: &dyn Fn(usize, usize) -> backend::Result<Tape>,
    backend: &mut dyn Backend,
    sequences: &[Sequence],
    [rows, len]: [usize; 2],
) -> Result<Vec<Likelihood>> {
    let tape = record(rows, len)?;
    let mut all = Vec::with_capacity(sequences.len());
    for chunk in sequences.chunks(rows) {
        let (mut ids, mut targets) = (vec![0; rows * len], vec![IGNORE; rows * len]);
        for (row, sequence) in chunk.iter().enumerate() {
            let Sequence { ids: tokens, from } = sequence;
            let (start, inputs) = (row * len, tokens.len() - 1);
            ids[start..start + inputs].copy_from_slice(&tokens[..inputs]);
            targets[start + from - 1..start + inputs].copy_from_slice(&tokens[*from..]);
        }
        let batch = Batch::new(ids, targets);
        let scores = backend.evaluate(&tape, &batch)?;
        all.extend(chunk.iter().enumerate().map(|(row, sequence)| {
            let scored = row * len + sequence.from - 1..row * len + sequence.ids.len() - 1;
            let nats = scores.nll[scored.clone()].iter().map(|&nll| f64::from(nll)).sum();
            Likelihood { nats, greedy: scores.predictions[scored.clone()] == batch.targets[scored] }
        }));
    }
    Ok(all)
}

/// Rows of how many tokens hold these sequences, and how many of them make up a pass of `tokens` tokens. Lengths are
/// rounded up to 16 where the model's `context` has room.
pub(crate) fn shape(sequences: &[Sequence], tokens: usize, context: usize) -> [usize; 2] {
    let longest = sequences.iter().map(|sequence| sequence.ids.len() - 1).max().unwrap_or(1);
    let len = longest.next_multiple_of(16).min(context);
    [(tokens / len).clamp(1, sequences.len().max(1)), len]
}
