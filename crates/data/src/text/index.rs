//! `index.json`: the splits of a folder of token files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Result, json};

/// The name of the file.
pub(super) const NAME: &str = "index.json";

/// What a folder of token files holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// The ids' type, for readers.
    pub dtype: String,
    /// The id between documents.
    pub eot: Option<u32>,
    /// Ids are below this.
    pub vocab: u32,
    /// The tokenizer's name.
    pub tokenizer: String,
    /// Splits by name.
    pub splits: BTreeMap<String, Split>,
}

/// A split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Ids in all.
    pub tokens: u64,
    /// Documents in all.
    pub docs: u64,
    /// Bytes of the text.
    pub bytes_text: u64,
    /// SHA-256 of the ids, of a split of one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its files in order; if empty, the one named after the split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

impl Index {
    /// The index of a folder.
    ///
    /// # Errors
    /// [`Error::Index`] if it is missing or does not parse.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let refuse = |what: String, remedy| Error::Index { path: path.clone(), what, remedy };
        let bytes =
            std::fs::read(&path).map_err(|e| refuse(e.to_string(), "give a folder that `data prepare` wrote"))?;
        serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string(), "restore it or prepare the text again"))
    }

    /// Writes the index of a folder whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        json::write(&folder.join(NAME), self)
    }

    /// A split.
    ///
    /// # Errors
    /// [`Error::Index`] if there is none of that name.
    pub fn split(&self, folder: &Path, name: &str) -> Result<&Split> {
        self.splits.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.splits.keys().map(String::as_str).collect();
            let what = format!("there is no split {name}, but {}", known.join(", "));
            Error::Index { path: folder.join(NAME), what, remedy: "name one of those" }
        })
    }

    /// The files of a split.
    ///
    /// # Errors
    /// [`Error::Index`] if there is none.
    pub fn files(&self, folder: &Path, name: &str) -> Result<Vec<PathBuf>> {
        let split = self.split(folder, name)?;
        if !split.files.is_empty() {
            return Ok(split.files.iter().map(|file| folder.join(file)).collect());
        }
        let candidates = ["tok", "u16", "u16.xz", "bin"].map(|ending| folder.join(format!("{name}.{ending}")));
        let found = candidates.into_iter().find(|path| path.exists());
        found.map(|path| vec![path]).ok_or_else(|| Error::Index {
            path: folder.join(NAME),
            what: format!("split {name} has no file {name}.tok, .u16, .u16.xz or .bin"),
            remedy: "copy the file into the folder, or prepare the text again",
        })
    }
}
