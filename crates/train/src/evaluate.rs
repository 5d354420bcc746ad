//! Loss, accuracy and macro accuracy over held-out rows.

use backend::{Backend, Batch, IGNORE, Scores, Tape};

use crate::{Error, Result, Source};

/// What an evaluation found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean negative log likelihood of the labels, nats.
    pub loss: f64,
    /// Share of the labels predicted.
    pub accuracy: f64,
    /// Mean over tokens of the share of their labels predicted; see [`data::macro_accuracy`].
    pub macro_accuracy: f64,
}

/// Runs `examples` rows of the source, `rows` at a time.
///
/// # Errors
/// If a batch cannot be made or does not fit the tape, or if no position has a label.
pub fn evaluate(
    backend: &mut dyn Backend,
    record: &dyn Fn(usize, usize) -> backend::Result<Tape>,
    source: &dyn Source,
    examples: usize,
    rows: usize,
) -> Result<Evaluation> {
    let mut tally = Tally::default();
    let mut tape = record(rows.min(examples), source.row_len())?;
    let mut first = 0;
    while first < examples {
        let rows = rows.min(examples - first);
        if rows != tape.batch() {
            tape = record(rows, source.row_len())?;
        }
        let what = || format!("evaluation rows {first} to {}", first + rows);
        let batch = source.eval(first, rows).map_err(|source| Error::Source { what: what(), source })?;
        let scores = backend.evaluate(&tape, &batch)?;
        tally.add(&batch, &scores);
        first += rows;
    }
    tally.result()
}

/// The labelled positions met, in order.
#[derive(Default)]
struct Tally {
    nll: f64,
    targets: Vec<u32>,
    predictions: Vec<u32>,
}

impl Tally {
    fn add(&mut self, batch: &Batch, scores: &Scores) {
        for ((&target, &nll), &prediction) in batch.targets.iter().zip(&scores.nll).zip(&scores.predictions) {
            if target != IGNORE {
                self.nll += f64::from(nll);
                self.targets.push(target);
                self.predictions.push(prediction);
            }
        }
    }

    fn result(&self) -> Result<Evaluation> {
        let scores = || -> data::Result<[f64; 2]> {
            let (targets, predictions) = (&self.targets, &self.predictions);
            Ok([data::accuracy(targets, predictions)?, data::macro_accuracy(targets, predictions)?])
        };
        let [accuracy, macro_accuracy] =
            scores().map_err(|e| Error::Source { what: "evaluation".into(), source: e.into() })?;
        Ok(Evaluation { loss: self.nll / self.targets.len() as f64, accuracy, macro_accuracy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(targets: &[u32], predictions: &[u32]) -> Result<Evaluation> {
        let nll = targets.iter().map(|&target| if target == IGNORE { 0.0 } else { 0.5 }).collect();
        let scores = Scores { loss: 0.0, nll, predictions: predictions.to_vec(), ..Scores::default() };
        let mut tally = Tally::default();
        tally.add(&Batch::new(vec![0; targets.len()], targets.to_vec()), &scores);
        tally.result()
    }

    #[test]
    fn only_labelled_positions_count() {
        let e = tally(&[1, 1, 1, 2, IGNORE], &[1, 1, 1, 1, 9]).unwrap();
        assert_eq!((e.loss, e.accuracy, e.macro_accuracy), (0.5, 0.75, 0.5));
    }

    #[test]
    fn rows_without_labels_are_an_error() {
        let message = tally(&[IGNORE], &[0]).unwrap_err().to_string();
        assert!(message.starts_with("evaluation: "), "{message}");
    }
}
