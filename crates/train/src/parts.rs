//! A batch in parts, one pass each: gradient accumulation.
//!
//! The mean over the labels of a batch is the sum over its parts of each part's mean times its share of the labels. So the sum of
//! the parts' gradients by these shares is the batch's gradient, whatever labels are ignored, but for roundings and for the
//! auxiliary losses of mixtures of experts, which are of each pass's tokens.

use backend::{AdamW, Backend, Batch, IGNORE, Part, Tape};

/// The parts of a batch that have labels; the first where none has, for the backend to refuse.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts(Vec<(Batch, f32)>);

impl Parts {
    /// Divides the rows of a batch into `n` parts, of which they are a multiple.
    pub fn new(batch: Batch, n: usize) -> Self {
        let labels = |targets: &[u32]| targets.iter().filter(|&&target| target != IGNORE).count();
        let all = labels(&batch.targets);
        if n <= 1 {
            return Self(vec![(batch, 1.0)]);
        }
        let tokens = batch.ids.len() / n;
        let chunks = batch.ids.chunks(tokens).zip(batch.targets.chunks(tokens));
        let mut parts = chunks.map(|(ids, targets)| (Batch::new(ids.into(), targets.into()), labels(targets)));
        if all == 0 {
            return Self(parts.next().map(|(batch, _)| (batch, 1.0)).into_iter().collect());
        }
        let shares = parts.filter(|(_, labels)| *labels > 0).map(|(batch, n)| (batch, (n as f64 / all as f64) as f32));
        Self(shares.collect())
    }

    /// One step; the batch's loss and the norm of its gradients. While the device works on the last pass and the update, `next` makes
    /// the parts of the step after, if there is one, of which the first is given to the device ahead of time.
    ///
    /// # Errors
    /// If the parts do not fit the tape, or the device fails.
    pub fn step<'a>(
        &self,
        backend: &mut dyn Backend,
        tape: &Tape,
        rule: &AdamW,
        next: impl FnOnce() -> Option<&'a Parts>,
    ) -> backend::Result<[f32; 2]> {
        let loss = self.gradients(backend, tape, |backend| {
            backend.apply(rule)?;
            Ok(next())
        })?;
        Ok([loss, backend.grad_norm()?])
    }

    /// Runs the passes and returns the batch's loss; the backend is left with its gradients. `last` is called while the device works
    /// on the last pass, and gives the parts that come after, if there are any.
    ///
    /// # Errors
    /// If the parts do not fit the tape, or the device fails.
    pub fn gradients<'a>(
        &self,
        backend: &mut dyn Backend,
        tape: &Tape,
        last: impl FnOnce(&mut dyn Backend) -> backend::Result<Option<&'a Parts>>,
    ) -> backend::Result<f32> {
        let (mut loss, mut last) = (0.0, Some(last));
        for (i, (batch, part)) in self.iter().enumerate() {
            backend.begin(tape, batch, part)?;
            let ahead = match self.iter().nth(i + 1) {
                Some(ahead) => Some(ahead),
                None => last.take().map_or(Ok(None), |last| last(backend))?.and_then(|parts| parts.iter().next()),
            };
            if let Some((batch, part)) = ahead {
                backend.prepare(tape, batch, part)?;
            }
            loss += f64::from(part.share) * f64::from(backend.scores()?.loss);
        }
        Ok(loss as f32)
    }

    /// Each part, in order, as a backend is given it.
    pub fn iter(&self) -> impl Iterator<Item = (&Batch, Part)> {
        self.0.iter().enumerate().map(|(i, (batch, share))| (batch, Part { share: *share, add: i > 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_labels_and_a_part_without_is_left_out() {
        let targets = vec![1, IGNORE, IGNORE, IGNORE, 2, 3, 4, IGNORE];
        let batch = Batch::new((0..8).collect(), targets);
        let parts = Parts::new(batch.clone(), 4);
        let parts: Vec<_> = parts.iter().map(|(batch, part)| (batch.ids[0], part.share, part.add)).collect();
        assert_eq!(parts, [(0, 0.25, false), (4, 0.5, true), (6, 0.25, true)]);
        assert_eq!(Parts::new(batch.clone(), 1).iter().collect::<Vec<_>>(), [(&batch, Part::WHOLE)]);
        let none = Batch::new(vec![0; 4], vec![IGNORE; 4]);
        let first = Batch::new(vec![0; 2], vec![IGNORE; 2]);
        assert_eq!(Parts::new(none, 2).iter().collect::<Vec<_>>(), [(&first, Part::WHOLE)]);
    }
}
