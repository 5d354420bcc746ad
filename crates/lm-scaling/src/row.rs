//! What a row of a plan says.

use data::text::{Documents, TextConfig};
use model::Transformer;
use serde::{Deserialize, Serialize};
use train::TrainConfig;

use crate::{Error, HeldOut, Result};

/// A model, a text and how the one is trained on the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The model. Its vocabulary may be larger than the text's.
    pub model: Transformer,
    /// The text.
    pub data: TextConfig,
    /// Steps, batch, rates, evaluation; a row is `data.context` tokens long.
    pub train: TrainConfig,
    /// What becomes of the row where the text is not at hand.
    #[serde(default)]
    pub without_data: WithoutData,
    /// What the trained model is asked besides its loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe: Vec<HeldOut>,
}

/// What becomes of a row where its text is not at hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutData {
    /// It is an error.
    #[default]
    Refuse,
    /// Its parameters are counted and nothing is trained.
    Count,
}

impl Row {
    /// Operations of so many training steps, see [`backend::Tape::flops`]: a step is its forward pass times 3.
    ///
    /// # Errors
    /// If the model's sizes do not fit.
    pub fn training_flops(&self, steps: u64) -> Result<f64> {
        Ok(3.0 * self.model.record(self.train.batch, self.data.context)?.flops() * steps as f64)
    }

    /// Checks the row without training it, reading its text or allocating its parameters.
    ///
    /// # Errors
    /// The first field that is out of range or does not fit.
    pub fn check(&self) -> Result<()> {
        self.train.check()?;
        self.model.record(1, self.data.context)?;
        if self.data.documents == Documents::Packed && self.train.batch != 1 {
            let what = format!("{} rows of packed documents", self.train.batch);
            return Err(Error::Row { field: "train.batch", what, remedy: "use one longer row" });
        }
        if let Some(twice) = (1..self.probe.len()).find(|&at| self.probe[..at].contains(&self.probe[at])) {
            let what = format!("{:?} stands twice", self.probe[twice]);
            return Err(Error::Row { field: "probe", what, remedy: "name each probe once" });
        }
        Ok(())
    }
}
