//! Log likelihoods of many token sequences, by tapes of one or two shapes.
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
#[derive(Debug, Clone, Copy, Default, PartialEq)]
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
    sequences: &[&Sequence],
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

/// Scores sequences of at most `context + 1` tokens in passes of about `tokens` tokens, by two shapes at most.
///
/// # Errors
/// As [`likelihoods`].
pub(crate) fn of_any_length(
    record: &dyn Fn(usize, usize) -> backend::Result<Tape>,
    backend: &mut dyn Backend,
    sequences: &[Sequence],
    [tokens, context]: [usize; 2],
) -> Result<Vec<Likelihood>> {
    let mut all = vec![Likelihood::default(); sequences.len()];
    let mut shorter = 0;
    for len in lengths(sequences, context) {
        let fits = |place: &usize| (shorter..=len).contains(&(sequences[*place].ids.len() - 1));
        let places: Vec<usize> = (0..sequences.len()).filter(fits).collect();
        let these: Vec<&Sequence> = places.iter().map(|&place| &sequences[place]).collect();
        let rows = (tokens / len).clamp(1, these.len().max(1));
        for (place, found) in places.into_iter().zip(likelihoods(record, backend, &these, [rows, len])?) {
            all[place] = found;
        }
        shorter = len + 1;
    }
    Ok(all)
}

/// The lengths of rows that hold these sequences: that of the longest, and before it the one that most tokens are saved
/// by. A new shape costs a backend more than it costs to fill rows up, so there are no more. Multiples of 16, where the
/// context has room.
pub(crate) fn lengths(sequences: &[Sequence], context: usize) -> Vec<usize> {
    let inputs = || sequences.iter().map(|sequence| sequence.ids.len() - 1);
    let longest = inputs().max().unwrap_or(1).next_multiple_of(16).min(context);
    let tokens = |short: usize| inputs().map(|len| if len <= short { short } else { longest }).sum::<usize>();
    let short = (16..longest).step_by(16).min_by_key(|&short| tokens(short));
    short.filter(|&short| tokens(short) < tokens(longest)).into_iter().chain([longest]).collect()
}
