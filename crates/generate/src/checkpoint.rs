//! A checkpoint as a model that decodes.

use std::path::Path;

use backend::Decoder;
use data::text::TextConfig;
use model::Transformer;
use train::Device;

use crate::decoding::{Model, Whole};
use crate::{Error, Result};

/// What a checkpoint says.
#[derive(Debug)]
pub struct Checkpoint {
    /// The model at the start of one sequence.
    pub model: Model,
    /// The text it was trained on, if it is a language model.
    pub text: Option<TextConfig>,
}

/// Opens, on a device, the checkpoint of an experiment's row: `run.row.model` and, of a language model, `run.row.data`.
///
/// # Errors
/// [`Error::Train`] if the file is damaged or absent, [`Error::Config`] if it names no model or one that this program
/// does not know.
pub fn open(path: &Path, device: Device) -> Result<Checkpoint> {
    let refuse = |what: String| {
        let remedy = "give a checkpoint that an experiment of this version wrote";
        Error::Config { path: path.into(), what, remedy }
    };
    let run = train::stored_run(path)?;
    let row = run.get("row").ok_or_else(|| refuse("field run.row is missing".into()))?;
    let model = row.get("model").ok_or_else(|| refuse("field run.row.model is missing".into()))?;
    let model: Transformer =
        serde_json::from_value(model.clone()).map_err(|e| refuse(format!("field run.row.model: {e}")))?;
    let text = row.get("data").map(|text| serde_json::from_value(text.clone())).transpose();
    let text = text.map_err(|e| refuse(format!("field run.row.data: {e}")))?;
    let tape = model.record(1, 1)?;
    let (state, _) = train::load(path, &tape.specs(), &run)?;
    let model = match device {
        Device::Cpu => Model::Decoder(Box::new(Decoder::new(tape, state.params)?)),
        other => Model::Whole(Box::new(Whole::new(model, other.backend(0)?, state)?)),
    };
    Ok(Checkpoint { model, text })
}
