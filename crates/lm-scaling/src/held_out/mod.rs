//! What a trained model makes of text and questions from elsewhere: the probes that a row names.
//!
//! | probe | files in the data folder | metrics |
//! |---|---|---|
//! | `domains` | `domains/*.txt` | `bpb_DOMAIN` of seven domains, bits per byte, and `bpb_domains`, their mean |
//! | `blimp` | `eval/blimp.jsonl` | `blimp`, percent, the mean over the paradigms, and of each field of grammar |
//! | `lambada` | `eval/lambada_openai_test.jsonl` | `ppl_lambada`, `acc_lambada` |
//! | `choices` | `eval/` of eight tasks | `acc_TASK` and `acc_norm_TASK`, percent |
//!
//! Files may end in `.xz`, `.gz` or `.zst` besides. One that is absent is said and its metrics are left out; one that
//! is damaged stops the row before it trains.

mod domains;
mod exams;
mod likelihood;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use backend::Backend;
use data::text::{Error as TextError, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::Row;

/// A probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldOut {
    /// Bits per byte of held-out text by domain.
    Domains,
    /// BLiMP's minimal pairs.
    Blimp,
    /// The last words of LAMBADA's passages.
    Lambada,
    /// Multiple choice.
    Choices,
}

impl HeldOut {
    /// The metrics that it finds.
    pub fn metrics(self) -> Vec<&'static str> {
        match self {
            Self::Domains => domains::metrics(),
            kind => exams::metrics(kind),
        }
    }
}

/// What a row's probes read, tokenized.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    domains: Vec<domains::Domain>,
    exams: Vec<exams::Exam>,
    /// SHA-256 of what is scored, by file.
    pub(crate) sha256: BTreeMap<String, String>,
    /// Which metrics are left out, and why.
    pub(crate) left_out: Vec<String>,
}

impl Texts {
    /// Reads what the row's probes ask for.
    ///
    /// # Errors
    /// A damaged file, an answer that is longer than the row's context, or a text whose tokenizer is not at hand.
    pub(crate) fn load(row: &Row, data: Option<&Path>) -> crate::Result<Self> {
        let mut texts = Self::default();
        if row.probe.is_empty() {
            return Ok(texts);
        }
        let Some(data) = data else {
            let why = "no data folder is given; name it with --data or in DYNCONV_DATA";
            texts.left_out.push(format!("without {}: {why}", metrics(row).join(", ")));
            return Ok(texts);
        };
        let (tokenizer, context) = (row.data.tokenizer_of(Some(data))?, row.data.context);
        let Self { domains, exams, sha256, left_out } = &mut texts;
        let mut sha256 = |file, sum| drop(sha256.insert(file, sum));
        for &probe in &row.probe {
            let folder = data.join(if probe == HeldOut::Domains { "domains" } else { "eval" });
            if !folder.is_dir() {
                left_out.push(format!("without {}: there is no {}", probe.metrics().join(", "), folder.display()));
            } else if probe == HeldOut::Domains {
                domains.extend(domains::load(&folder, &tokenizer, context, &mut sha256, left_out)?);
            } else {
                exams.extend(exams::load(probe, &folder, &tokenizer, context, &mut sha256, left_out)?);
            }
        }
        Ok(texts)
    }

    /// Asks the model that the backend holds.
    pub(crate) fn score(&self, row: &Row, backend: &mut dyn Backend) -> train::Result<Vec<(&'static str, f64)>> {
        let record = |batch, len| row.model.record(batch, len);
        let context = row.data.context;
        // The shape of the evaluations during training, which the backend has met.
        let rows = row.train.batch.min(row.train.eval_examples);
        let mut found = domains::score(&self.domains, &record, backend, [rows, context])?;
        for exam in &self.exams {
            found.extend(exam.score(&record, backend, rows * context, context)?);
        }
        Ok(found)
    }
}

/// The metrics of a row's probes.
pub(crate) fn metrics(row: &Row) -> Vec<&'static str> {
    row.probe.iter().flat_map(|probe| probe.metrics()).collect()
}

/// The token that every sequence starts with.
fn start_token(tokenizer: &Tokenizer) -> Result<u32, TextError> {
    tokenizer.end_of_text().ok_or_else(|| TextError::Tokenizer {
        name: tokenizer.name().into(),
        what: "has no end of text for held-out text to start with".into(),
        remedy: "leave out the probes, or train on tokens of a tokenizer that has one",
    })
}
