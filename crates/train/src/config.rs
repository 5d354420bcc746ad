//! How long, how fast, how often: the `train` table of a configuration file.

use backend::AdamW;
use serde::{Deserialize, Serialize};

use crate::{Error, Metric, Result};

/// Steps, batch, AdamW with linear warm-up and cosine decay, and evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Updates of a full run.
    pub steps: u64,
    /// Rows of a batch.
    pub batch: usize,
    /// Passes that a batch is taken in, where it is too large for the device: of `batch / accumulate` rows each, their gradients
    /// added. It must divide the batch.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulate: usize,
    /// Whether activations are made again in the backward pass instead of kept: see [`backend::Tape::set_recompute`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
    /// Learning rate at the end of the warm-up.
    pub lr: f64,
    /// Learning rate the cosine decays to.
    #[serde(default)]
    pub min_lr: f64,
    /// Share of the steps over which the rate first rises from 0.
    #[serde(default)]
    pub warmup: f64,
    /// Decoupled weight decay of matrices; gains, biases and convolution taps have none.
    #[serde(default)]
    pub weight_decay: f64,
    /// Decay of the first and of the second moment.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Global gradient norm above which gradients are scaled down; 0 leaves them.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Steps between evaluations; the last step is always evaluated.
    pub eval_every: u64,
    /// Rows of an evaluation.
    pub eval_examples: usize,
    /// When to stop before the last step.
    #[serde(default)]
    pub early_stop: Option<EarlyStop>,
    /// Steps between logged training losses; each of the first 20 is logged.
    #[serde(default = "log_every")]
    pub log_every: u64,
}

/// Stop once a metric has reached a level in so many evaluations in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// `accuracy` or `macro_accuracy`.
    #[serde(default = "accuracy")]
    pub metric: Metric,
    /// The level.
    pub at_least: f64,
    /// Evaluations in a row.
    #[serde(default = "evaluations")]
    pub evaluations: usize,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

fn betas() -> [f64; 2] {
    [0.9, 0.95]
}

fn eps() -> f64 {
    1e-8
}

fn clip() -> f64 {
    1.0
}

fn log_every() -> u64 {
    10
}

fn accuracy() -> Metric {
    Metric::Accuracy
}

fn evaluations() -> usize {
    2
}

impl TrainConfig {
    /// Checks that every field is in range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that is not.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, value: &dyn std::fmt::Display, remedy| {
            Err(Error::Config { field, what: format!("{value} is out of range"), remedy })
        };
        for (field, value) in [
            ("steps", self.steps),
            ("batch", self.batch as u64),
            ("eval_every", self.eval_every),
            ("eval_examples", self.eval_examples as u64),
            ("log_every", self.log_every),
        ] {
            if value == 0 {
                return refuse(field, &value, "give at least 1");
            }
        }
        if self.accumulate == 0 || !self.batch.is_multiple_of(self.accumulate) {
            let what = format!("{} passes do not divide a batch of {} rows", self.accumulate, self.batch);
            return Err(Error::Config {
                field: "accumulate",
                what,
                remedy: "give a divisor of the batch, 1 for one pass",
            });
        }
        // Negated comparisons, so that NaN is refused.
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return refuse("lr", &self.lr, "give a positive rate, such as 1e-3");
        }
        if !(0.0..=self.lr).contains(&self.min_lr) {
            return refuse("min_lr", &self.min_lr, "give a rate between 0 and lr");
        }
        if !(0.0..1.0).contains(&self.warmup) {
            return refuse("warmup", &self.warmup, "give the share of the steps, between 0 and 1");
        }
        if !self.betas.iter().all(|beta| (0.0..1.0).contains(beta)) {
            return refuse("betas", &format!("{:?}", self.betas), "give two decays between 0 and 1");
        }
        for (field, value) in [("weight_decay", self.weight_decay), ("eps", self.eps), ("clip", self.clip)] {
            if !(0.0..f64::INFINITY).contains(&value) {
                return refuse(field, &value, "give 0 or a positive number");
            }
        }
        if let Some(stop) = &self.early_stop {
            if !matches!(stop.metric, Metric::Accuracy | Metric::MacroAccuracy) {
                return refuse("early_stop.metric", &stop.metric.name(), "use accuracy or macro_accuracy");
            }
            if !(0.0..=1.0).contains(&stop.at_least) {
                return refuse("early_stop.at_least", &stop.at_least, "give a share between 0 and 1");
            }
            if stop.evaluations == 0 {
                return refuse("early_stop.evaluations", &0, "give at least 1");
            }
        }
        Ok(())
    }

    /// Learning rate of a step, counted from 1: linear to `lr` over the warm-up, then a cosine to `min_lr`, which
    /// it would reach one step after the last.
    pub fn lr_at(&self, step: u64) -> f64 {
        let warmup = (self.warmup * self.steps as f64).round() as u64;
        if step <= warmup {
            return self.lr * step as f64 / warmup as f64;
        }
        let t = (step - 1 - warmup) as f64 / (self.steps - warmup) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * t.min(1.0)).cos());
        self.min_lr + (self.lr - self.min_lr) * cosine
    }

    /// The update rule of a step, counted from 1.
    pub fn rule(&self, step: u64) -> AdamW {
        AdamW {
            lr: self.lr_at(step) as f32,
            beta1: self.betas[0] as f32,
            beta2: self.betas[1] as f32,
            eps: self.eps as f32,
            weight_decay: self.weight_decay as f32,
            clip: self.clip as f32,
        }
    }

    /// Whether a step's loss, gradient norm and rate are logged.
    pub(crate) fn logs(&self, step: u64) -> bool {
        step <= 20 || step.is_multiple_of(self.log_every) || step == self.steps
    }

    /// Whether a step is followed by an evaluation.
    pub(crate) fn evaluates(&self, step: u64) -> bool {
        step.is_multiple_of(self.eval_every) || step == self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> TrainConfig {
        let base = r#""steps":100,"batch":4,"lr":0.01,"eval_every":10,"eval_examples":8"#;
        serde_json::from_str(&format!("{{{base}{json}}}")).unwrap()
    }

    #[test]
    fn the_rate_rises_then_follows_a_cosine() {
        let c = config(r#","warmup":0.1,"min_lr":0.001"#);
        let close = |step, want: f64| assert!((c.lr_at(step) - want).abs() < 1e-12, "step {step}: {}", c.lr_at(step));
        close(1, 0.001);
        close(5, 0.005);
        close(10, 0.01);
        close(11, 0.01);
        close(56, 0.0055); // halfway
        close(100, 0.001 + 0.009 * 0.5 * (1.0 + (std::f64::consts::PI * 89.0 / 90.0).cos()));
        assert!((11..100).all(|s| c.lr_at(s + 1) <= c.lr_at(s)));
        let no_warmup = config("");
        assert_eq!(no_warmup.lr_at(1), 0.01);
        assert!(no_warmup.lr_at(100) > 0.0);
    }

    #[test]
    fn fields_out_of_range_are_named() {
        for (json, field) in [
            (r#","min_lr":0.1"#, "min_lr"),
            (r#","warmup":1.0"#, "warmup"),
            (r#","betas":[0.9,1.0]"#, "betas"),
            (r#","clip":-1"#, "clip"),
            (r#","accumulate":0"#, "accumulate"),
            (r#","accumulate":3"#, "accumulate"),
            (r#","log_every":0"#, "log_every"),
            (r#","early_stop":{"at_least":1.5}"#, "early_stop.at_least"),
            (r#","early_stop":{"at_least":0.9,"metric":"lr"}"#, "early_stop.metric"),
        ] {
            let message = config(json).check().unwrap_err().to_string();
            assert!(message.starts_with(&format!("train.{field}: ")), "{message}");
        }
        assert!(config("").check().is_ok() && config(r#","accumulate":2"#).check().is_ok());
        assert!(TrainConfig { lr: f64::NAN, ..config("") }.check().is_err());
    }

    #[test]
    fn unknown_fields_are_refused() {
        let message = serde_json::from_str::<TrainConfig>(r#"{"setps":100}"#).unwrap_err().to_string();
        assert!(message.contains("setps"), "{message}");
    }
}
