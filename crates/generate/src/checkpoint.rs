//! A checkpoint as a model that decodes.

use std::path::Path;

use backend::Decoder;
use model::Transformer;
use serde_json::Value;

use crate::{Error, Result};

/// The model of a checkpoint at the start of one sequence, and the row it was trained as: its configurations.
///
/// # Errors
/// [`Error::Train`] if the file is damaged or absent, [`Error::Config`] if it names no model or one that this program
/// does not know.
pub fn open(path: &Path) -> Result<(Decoder, Value)> {
    let refuse = |what: String| {
        let remedy = "give a checkpoint that an experiment of this version wrote";
        Error::Config { path: path.into(), what, remedy }
    };
    let run = train::stored_run(path)?;
    let row = run.get("row").ok_or_else(|| refuse("field run.row is missing".into()))?.clone();
    let model = row.get("model").ok_or_else(|| refuse("field run.row.model is missing".into()))?;
    let model: Transformer =
        serde_json::from_value(model.clone()).map_err(|e| refuse(format!("field run.row.model: {e}")))?;
    let tape = model.record(1, 1)?;
    let (state, _) = train::load(path, &tape.specs(), &run)?;
    Ok((Decoder::new(tape, state.params)?, row))
}
