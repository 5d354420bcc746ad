//! What a run measures, in order.

use serde::{Deserialize, Serialize};

use crate::EarlyStop;

/// What a [`Point`] measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean loss of the step's batch before its update, nats.
    Loss,
    /// Global gradient norm of the step before clipping.
    GradNorm,
    /// Learning rate of the step.
    Lr,
    /// Mean loss over the labels of an evaluation, nats.
    EvalLoss,
    /// Share of an evaluation's labels predicted.
    Accuracy,
    /// Mean over token classes of the share of their labels predicted.
    MacroAccuracy,
}

impl Metric {
    /// Every metric; a checkpoint stores positions in this list.
    pub const ALL: [Metric; 6] =
        [Self::Loss, Self::GradNorm, Self::Lr, Self::EvalLoss, Self::Accuracy, Self::MacroAccuracy];

    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::GradNorm => "grad_norm",
            Self::Lr => "lr",
            Self::EvalLoss => "eval_loss",
            Self::Accuracy => "accuracy",
            Self::MacroAccuracy => "macro_accuracy",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The step, counted from 1; an evaluation has that of the update before it.
    pub step: u64,
    /// What.
    pub metric: Metric,
    /// How much.
    pub value: f64,
}

/// The steps of a run that one device made: those from `from` to the next leg's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leg {
    /// Its first step.
    pub from: u64,
    /// What made it, as [`backend::Backend::name`] has it.
    pub device: String,
}

/// The measurements of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Log {
    /// In the order made.
    pub points: Vec<Point>,
    /// What made the steps, in order: one leg unless the run moved from device to device.
    pub legs: Vec<Leg>,
}

impl Log {
    pub(crate) fn push(&mut self, step: u64, metric: Metric, value: f64) {
        self.points.push(Point { step, metric, value });
    }

    /// A step's loss, gradient norm and rate.
    pub(crate) fn push_step(&mut self, step: u64, loss: f32, grad_norm: f32, lr: f64) {
        self.push(step, Metric::Loss, loss.into());
        self.push(step, Metric::GradNorm, grad_norm.into());
        self.push(step, Metric::Lr, lr);
    }

    /// Notes that steps from this one on are made by `device`.
    pub(crate) fn made_by(&mut self, from: u64, device: &str) {
        if self.legs.last().is_none_or(|leg| leg.device != device) {
            self.legs.push(Leg { from, device: device.into() });
        }
    }

    /// What made the steps, in words: `steps 1 to 12 on cpu, from 13 on cuda:0-bf16`.
    pub fn made_where(&self) -> String {
        let ends = self.legs.iter().skip(1).map(|next| Some(next.from - 1)).chain([None]);
        let legs = self.legs.iter().zip(ends).map(|(Leg { from, device }, end)| match end {
            Some(end) => format!("steps {from} to {end} on {device}"),
            None => format!("from {from} on {device}"),
        });
        legs.collect::<Vec<_>>().join(", ")
    }

    /// The (step, value) of one metric, in order.
    pub fn series(&self, metric: Metric) -> impl DoubleEndedIterator<Item = (u64, f64)> + '_ {
        self.points.iter().filter(move |p| p.metric == metric).map(|p| (p.step, p.value))
    }

    /// The last value of a metric.
    pub fn last(&self, metric: Metric) -> Option<f64> {
        self.series(metric).next_back().map(|(_, value)| value)
    }

    /// The first evaluation of the earliest streak that meets the condition.
    pub fn solved_at(&self, stop: &EarlyStop) -> Option<u64> {
        let mut streak = (0, 0);
        for (step, value) in self.series(stop.metric) {
            streak = match (value >= stop.at_least, streak) {
                (false, _) => (0, 0),
                (true, (0, _)) => (1, step),
                (true, (n, first)) => (n + 1, first),
            };
            if streak.0 == stop.evaluations {
                return Some(streak.1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legs_follow_each_other() {
        let mut log = Log::default();
        for (from, device) in [(1, "cpu"), (9, "cpu"), (13, "cuda:0-bf16"), (20, "cpu")] {
            log.made_by(from, device);
        }
        assert_eq!(log.made_where(), "steps 1 to 12 on cpu, steps 13 to 19 on cuda:0-bf16, from 20 on cpu");
    }

    #[test]
    fn solved_is_the_start_of_a_streak_long_enough() {
        let solved = |values: &[f64], evaluations| {
            let mut log = Log::default();
            for (i, &v) in values.iter().enumerate() {
                log.push(10 * (i as u64 + 1), Metric::Accuracy, v);
                log.push(10 * (i as u64 + 1), Metric::MacroAccuracy, 1.0);
            }
            log.solved_at(&EarlyStop { metric: Metric::Accuracy, at_least: 0.9, evaluations })
        };
        assert_eq!(solved(&[0.2, 0.95, 0.3, 0.9, 1.0], 2), Some(40));
        assert_eq!(solved(&[0.2, 0.95, 0.3, 0.9, 1.0], 1), Some(20));
        assert_eq!(solved(&[0.2, 0.95, 0.3, 0.9, 1.0], 3), None);
        assert_eq!(solved(&[f64::NAN, 0.95], 2), None);
    }
}
