//! Text files to a folder of checked shards.
//!
//! Every input gives a shard of its own for each split, so an interrupted run goes on at the input it was in. Of a
//! file of many documents, whole ones go to the validation split, by a hash of the file's name and the document's
//! number; a text file is one document and gives its last part.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::index::{Index, Split};
use super::shard::{Header, Writer};
use super::{Error, Result, Tokenizer, documents, json};

/// Bytes of text encoded at a time, side by side.
const GROUP: usize = 4 << 20;
const STATE: &str = "prepare.json";

/// How to prepare.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the shards.
    pub out: PathBuf,
    /// Name of the text in a record.
    pub field: String,
    /// Inputs of the validation split; if there are any, `val_share` does not count.
    pub val: Vec<PathBuf>,
    /// Share of the documents that go to the validation split.
    pub val_share: f64,
    /// Whether to keep the inputs that an earlier run has finished.
    pub resume: bool,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The input under way or just finished.
    pub input: PathBuf,
    /// Its number, from 1, and how many there are.
    pub number: [usize; 2],
    /// Its documents so far.
    pub documents: u64,
    /// Its tokens so far.
    pub tokens: u64,
    /// Whether it is finished; `Some(true)` if an earlier run finished it.
    pub finished: Option<bool>,
}

/// What a folder was made of, kept beside the shards for `resume`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    tokenizer: String,
    vocab: u32,
    field: String,
    val_share: f64,
    inputs: Vec<Input>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    bytes: u64,
    /// Split and file.
    shards: Vec<(String, String)>,
}

/// Prepares `inputs`, and says how far it is every second and at the end of each.
///
/// # Errors
/// What [`documents()`] and the tokenizer refuse, [`Error::Io`]; [`Error::Index`] if `resume` finds a folder made
/// otherwise.
pub fn prepare(
    inputs: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &Options,
    listen: &mut dyn FnMut(&Done),
) -> Result<Index> {
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(|e| Error::Io { path: out.clone(), what: e.to_string() })?;
    let share = if options.val.is_empty() { options.val_share } else { 0.0 };
    let fresh = State {
        tokenizer: tokenizer.name().into(),
        vocab: tokenizer.vocab(),
        field: options.field.clone(),
        val_share: share,
        inputs: Vec::new(),
    };
    let mut state = if options.resume { State::read(out, &fresh)? } else { fresh };

    let mut all = Vec::new();
    for (path, share) in inputs.iter().map(|p| (p, share)).chain(options.val.iter().map(|p| (p, 1.0))) {
        let bytes = std::fs::metadata(path).map_err(|e| Error::Io { path: path.clone(), what: e.to_string() })?.len();
        all.push((path, share, bytes));
    }
    let mut index = Index {
        dtype: if tokenizer.vocab() <= 1 << 16 { "uint16 little-endian" } else { "uint32 little-endian" }.into(),
        eot: tokenizer.end_of_text(),
        vocab: tokenizer.vocab(),
        tokenizer: tokenizer.name().into(),
        splits: Default::default(),
    };
    for (number, &(path, share, bytes)) in all.iter().enumerate() {
        let name = path.display().to_string();
        let before = state.inputs.get(number).filter(|input| input.name == name && input.bytes == bytes);
        let kept = before.cloned().and_then(|input| Some((headers(out, &input)?, input)));
        let mut done = Done {
            input: path.clone(),
            number: [number + 1, all.len()],
            documents: 0,
            tokens: 0,
            finished: Some(kept.is_some()),
        };
        let (headers, input) = match kept {
            Some(kept) => kept,
            None => {
                state.inputs.truncate(number);
                let mut told = Instant::now();
                let mut tell = |documents, tokens| {
                    if told.elapsed() >= Duration::from_secs(1) {
                        listen(&Done { documents, tokens, finished: None, ..done.clone() });
                        told = Instant::now();
                    }
                };
                let shards = Shards { out, number, share, tokenizer, train: None, val: None };
                let headers = shards.write(path, &options.field, &mut tell)?;
                let shards = headers.iter().map(|(split, file, _)| (split.clone(), file.clone())).collect();
                let input = Input { name, bytes, shards };
                state.inputs.push(input.clone());
                state.write(out)?;
                (headers.into_iter().map(|(.., header)| header).collect(), input)
            }
        };
        for ((split, file), header) in input.shards.iter().zip(&headers) {
            done.documents += header.documents;
            done.tokens += header.tokens;
            let split: &mut Split = index.splits.entry(split.clone()).or_default();
            split.tokens += header.tokens;
            split.docs += header.documents;
            split.bytes_text += header.text_bytes;
            split.files.push(file.clone());
        }
        listen(&done);
    }
    index.write(out)?;
    Ok(index)
}

/// The headers of an input's shards, if all of them are whole.
fn headers(out: &Path, input: &Input) -> Option<Vec<Header>> {
    input.shards.iter().map(|(_, file)| Header::read(&out.join(file)).ok()).collect()
}

impl State {
    /// The state of an earlier run with the same settings; without one, `fresh`.
    fn read(out: &Path, fresh: &State) -> Result<State> {
        let path = out.join(STATE);
        let refuse = |what: String| Error::Index {
            path: path.clone(),
            what,
            remedy: "resume with the same settings, or choose another folder",
        };
        let Ok(bytes) = std::fs::read(&path) else { return Ok(fresh.clone()) };
        let state: State = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
        if (State { inputs: Vec::new(), ..state.clone() }) != *fresh {
            let of = |s: &State| format!("{} ({}), field {}, share {}", s.tokenizer, s.vocab, s.field, s.val_share);
            return Err(refuse(format!("was made with {}, not {}", of(&state), of(fresh))));
        }
        Ok(state)
    }

    fn write(&self, out: &Path) -> Result<()> {
        json::write(&out.join(STATE), self)
    }
}

/// The shards of one input.
struct Shards<'a> {
    out: &'a Path,
    number: usize,
    share: f64,
    tokenizer: &'a Tokenizer,
    train: Option<Writer>,
    val: Option<Writer>,
}

impl Shards<'_> {
    /// Split, file and header of each shard written.
    fn write(
        mut self,
        path: &Path,
        field: &str,
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<(String, String, Header)>> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = [".xz", ".gz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        let is_one = [".txt", ".md"].iter().any(|ending| stem.ends_with(ending));
        let (mut group, mut bytes, mut seen) = (Vec::new(), 0, [0, 0]);
        documents(path, field, &mut |text| {
            if is_one {
                // Never in the middle of a character.
                let mut cut = (text.len() as f64 * (1.0 - self.share)) as usize;
                while !text.is_char_boundary(cut) {
                    cut -= 1;
                }
                group.push((false, text[..cut].to_string()));
                group.push((true, text[cut..].to_string()));
            } else {
                group.push((is_val(&name, seen[0], self.share), text.to_string()));
            }
            seen[0] += 1;
            bytes += text.len();
            if bytes >= GROUP {
                seen[1] += self.push(&std::mem::take(&mut group))?;
                bytes = 0;
                tell(seen[0], seen[1]);
            }
            Ok(())
        })?;
        self.push(&group)?;
        let mut headers = Vec::new();
        for (split, writer) in [("train", self.train), ("val", self.val)] {
            if let Some(writer) = writer {
                headers.push((split.to_string(), file(split, self.number), writer.finish()?));
            }
        }
        Ok(headers)
    }

    /// Encodes a group of documents and appends each to its split; their tokens.
    fn push(&mut self, group: &[(bool, String)]) -> Result<u64> {
        let encoded = group.par_iter().map(|(_, text)| {
            let mut ids = Vec::new();
            self.tokenizer.encode(text, &mut ids)?;
            ids.extend(self.tokenizer.end_of_text().filter(|_| !text.is_empty()));
            Ok(ids)
        });
        let encoded: Vec<Vec<u32>> = encoded.collect::<Result<_>>()?;
        let mut tokens = 0;
        for ((val, text), ids) in group.iter().zip(&encoded).filter(|(_, ids)| !ids.is_empty()) {
            let (split, writer) = if *val { ("val", &mut self.val) } else { ("train", &mut self.train) };
            let writer = match writer {
                Some(writer) => writer,
                None => writer.insert(Writer::create(
                    &self.out.join(file(split, self.number)),
                    self.tokenizer.vocab(),
                    self.tokenizer.end_of_text(),
                )?),
            };
            writer.push(ids, text.len() as u64, 1)?;
            tokens += ids.len() as u64;
        }
        Ok(tokens)
    }
}

fn file(split: &str, number: usize) -> String {
    format!("{split}-{number:05}.tok")
}

/// Whether a document is held out: by FNV-1a of its file's name and its number, whatever else is prepared.
fn is_val(name: &str, number: u64, share: f64) -> bool {
    let bytes = name.bytes().chain(number.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    // The low bits of FNV are its worst.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 11) as f64) < share * (1u64 << 53) as f64
}
