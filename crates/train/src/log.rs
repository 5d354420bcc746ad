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

/// The measurements of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Log {
    /// In the order made.
    pub points: Vec<Point>,
}

impl Log {
    pub(crate) fn push(&mut self, step: u64, metric: Metric, value: f64) {
        self.points.push(Point { step, metric, value });
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
