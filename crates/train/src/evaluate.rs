//! Loss, accuracy and macro accuracy over held-out rows.

use std::collections::BTreeMap;

use backend::{Backend, Batch, IGNORE, Scores, Tape};

use crate::{Error, Result, Source};

/// What an evaluation found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean negative log likelihood of the labels, nats.
    pub loss: f64,
    /// Share of the labels predicted.
    pub accuracy: f64,
    /// Mean, over the tokens that occur as a label or as a prediction on a label's place, of the share of the
    /// token's labels predicted; a token predicted and never a label counts 0. As torchmetrics' multiclass
    /// accuracy, which MAD reports.
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

/// Sums over batches, in order.
#[derive(Default)]
struct Tally {
    labels: u64,
    nll: f64,
    /// Per token: labels, and labels predicted.
    classes: BTreeMap<u32, [u64; 2]>,
}

impl Tally {
    fn add(&mut self, batch: &Batch, scores: &Scores) {
        for ((&target, &nll), &guess) in batch.targets.iter().zip(&scores.nll).zip(&scores.predictions) {
            if target == IGNORE {
                continue;
            }
            self.labels += 1;
            self.nll += f64::from(nll);
            self.classes.entry(guess).or_default();
            let class = self.classes.entry(target).or_default();
            class[0] += 1;
            class[1] += u64::from(guess == target);
        }
    }

    fn result(&self) -> Result<Evaluation> {
        if self.labels == 0 {
            let what = "the evaluation rows have no label".to_string();
            let remedy = "evaluate more examples, or a task that labels some positions";
            return Err(Error::Config { field: "eval_examples", what, remedy });
        }
        let hits: u64 = self.classes.values().map(|c| c[1]).sum();
        let shares = self.classes.values().map(|&[n, hits]| if n == 0 { 0.0 } else { hits as f64 / n as f64 });
        Ok(Evaluation {
            loss: self.nll / self.labels as f64,
            accuracy: hits as f64 / self.labels as f64,
            macro_accuracy: shares.sum::<f64>() / self.classes.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(targets: &[u32], predictions: &[u32]) -> Result<Evaluation> {
        let nll = vec![0.5; targets.len()];
        let scores = Scores { loss: 0.0, nll, predictions: predictions.to_vec() };
        let mut tally = Tally::default();
        tally.add(&Batch::new(vec![0; targets.len()], targets.to_vec()), &scores);
        tally.result()
    }

    #[test]
    fn macro_accuracy_weighs_classes_not_labels() {
        let e = tally(&[1, 1, 1, 2, IGNORE], &[1, 1, 1, 1, 9]).unwrap();
        assert_eq!((e.loss, e.accuracy, e.macro_accuracy), (0.5, 0.75, 0.5));
        // Token 7 is predicted and never a label: a third class, at 0.
        let e = tally(&[1, 1, 2, 2], &[1, 1, 2, 7]).unwrap();
        assert_eq!((e.accuracy, e.macro_accuracy), (0.75, 0.5));
    }

    #[test]
    fn rows_without_labels_are_an_error() {
        assert!(tally(&[IGNORE], &[0]).unwrap_err().to_string().contains("no label"));
    }
}
