//! Token ids by position, from memory or from files.
//!
//! | name ends in | content |
//! |---|---|
//! | `.tok` | our shards: `shard` |
//! | `.bin` | llm.c: 256 int32, of them magic 20240520 (uint16 ids) or 20240801 (uint32), version 1, tokens; then ids |
//! | `.u16`, `.u16.xz` | uint16 ids and nothing else |
//!
//! Everything is little-endian. A file is read through once when it is opened: its checksum, where one is announced,
//! and the range of its ids are checked before the first step and not after the last. It is mapped into memory, and stays
//! in the page cache for all runs of a machine; compressed ids are held by each run.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::decompress::{open, reading};
use super::shard::{self, Header, hex};
use super::{Error, Result};

const LLM_C: [(u32, usize); 2] = [(20_240_520, 2), (20_240_801, 4)];
const LLM_C_HEADER: u64 = 1024;

/// Ids of one split.
#[derive(Debug)]
pub struct Tokens {
    parts: Vec<Part>,
    len: u64,
}

#[derive(Debug)]
struct Part {
    /// Position of its first id among all.
    start: u64,
    len: u64,
    ids: Ids,
    name: String,
    sha256: String,
}

#[derive(Debug)]
enum Ids {
    Short(Vec<u16>),
    Long(Vec<u32>),
    /// Ids of `width` bytes from `offset` on.
    Mapped {
        path: PathBuf,
        file: File,
        map: Mmap,
        offset: usize,
        width: usize,
    },
}

impl Tokens {
    /// Ids in memory.
    pub fn held(name: &str, ids: Vec<u32>) -> Self {
        let mut hash = Sha256::new();
        for some in ids.chunks(1 << 16) {
            hash.update(some.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        }
        let len = ids.len() as u64;
        let part = Part { start: 0, len, ids: Ids::Long(ids), name: name.into(), sha256: hex(&hash.finalize()) };
        Self { parts: vec![part], len }
    }

    /// Files one after another, whose ids must be below `vocab`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`], [`Error::Empty`], [`Error::Magic`], [`Error::Length`], [`Error::Checksum`],
    /// [`Error::Compressed`], [`Error::Vocabulary`].
    pub fn open(paths: &[PathBuf], vocab: u32) -> Result<Self> {
        let mut tokens = Self { parts: Vec::new(), len: 0 };
        for path in paths {
            let mut part = part(path, vocab)?;
            if part.len == 0 {
                return Err(Error::Empty { path: path.clone(), what: "tokens" });
            }
            part.start = tokens.len;
            tokens.len += part.len;
            tokens.parts.push(part);
        }
        Ok(tokens)
    }

    /// Number of ids.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Name and SHA-256 of each file's ids.
    pub fn sha256(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parts.iter().map(|part| (part.name.as_str(), part.sha256.as_str()))
    }

    /// Reads the ids at `start ..`, as many as `out` holds.
    ///
    /// # Errors
    /// [`Error::Short`] past the end, [`Error::Io`].
    pub fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let need = start + out.len() as u64;
        if need > self.len {
            return Err(Error::Short { op: "read", have: self.len, need, remedy: "read inside of the split" });
        }
        let mut done = 0;
        while done < out.len() {
            let at = start + done as u64;
            let part = &self.parts[self.parts.partition_point(|part| part.start <= at) - 1];
            let inside = at - part.start;
            let count = (out.len() - done).min((part.len - inside) as usize);
            part.ids.read(inside, &mut out[done..done + count])?;
            done += count;
        }
        Ok(())
    }
}

impl Ids {
    fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let first = start as usize;
        match self {
            Ids::Short(ids) => out.iter_mut().zip(&ids[first..]).for_each(|(o, &id)| *o = id.into()),
            Ids::Long(ids) => out.copy_from_slice(&ids[first..first + out.len()]),
            Ids::Mapped { path, file, map, offset, width } => {
                // Of a file cut short since, the lost pages would end the process.
                let have = file.metadata().map_err(|e| Error::Io { path: path.clone(), what: e.to_string() })?.len();
                if have < map.len() as u64 {
                    return Err(Error::Length { path: path.clone(), need: map.len() as u64, have });
                }
                let bytes = &map[offset + first * width..][..out.len() * width];
                out.iter_mut().zip(bytes.chunks_exact(*width)).for_each(|(o, bytes)| *o = id(bytes));
            }
        }
        Ok(())
    }
}

fn id(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte))
}

fn part(path: &Path, vocab: u32) -> Result<Part> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let made = |len, ids, sha256| Part { start: 0, len, ids, name: name.clone(), sha256 };
    let decoded = open(path)?;
    match (decoded.ending.as_str(), decoded.compression) {
        ("tok", None) => {
            let header = Header::read(path)?;
            let expected = Some(hex(&header.sha256));
            let (ids, found) = on_disk(path, shard::HEADER, header.width, header.tokens, vocab, expected)?;
            Ok(made(header.tokens, ids, found))
        }
        ("bin", None) => {
            let (width, tokens) = llm_c(path)?;
            let (ids, found) = on_disk(path, LLM_C_HEADER, width, tokens, vocab, None)?;
            Ok(made(tokens, ids, found))
        }
        ("u16", compression) => {
            let (mut reader, mut bytes) = (decoded.reader, Vec::new());
            reader.read_to_end(&mut bytes).map_err(|e| reading(path, compression, &e))?;
            if !bytes.len().is_multiple_of(2) {
                let have = bytes.len() as u64;
                return Err(Error::Length { path: path.into(), need: have + 1, have });
            }
            check(path, &bytes, 2, 0, vocab)?;
            let ids: Vec<u16> = bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
            Ok(made(ids.len() as u64, Ids::Short(ids), hex(&Sha256::digest(&bytes))))
        }
        _ => {
            let remedy = "give .tok, .bin, .u16 or .u16.xz, or prepare a text with `data prepare`";
            Err(Error::Format { path: path.into(), what: "is no file of tokens".into(), remedy })
        }
    }
}

/// Width and number of the ids of an llm.c file.
fn llm_c(path: &Path) -> Result<(usize, u64)> {
    let io = |e: std::io::Error| Error::Io { path: path.into(), what: e.to_string() };
    let mut file = File::open(path).map_err(io)?;
    let have = file.metadata().map_err(io)?.len();
    if have == 0 {
        return Err(Error::Empty { path: path.into(), what: "tokens" });
    }
    if have < LLM_C_HEADER {
        return Err(Error::Length { path: path.into(), need: LLM_C_HEADER, have });
    }
    let mut bytes = [0; 12];
    file.read_exact(&mut bytes).map_err(io)?;
    let [magic, _, tokens] = [0, 4, 8].map(|at| id(&bytes[at..at + 4]));
    let known = LLM_C.iter().find(|(known, _)| *known == magic);
    let (_, width) = known.ok_or_else(|| Error::Magic {
        path: path.into(),
        format: "llm.c .bin",
        found: magic.to_string(),
        expected: "20240520 or 20240801".into(),
    })?;
    let need = LLM_C_HEADER + u64::from(tokens) * *width as u64;
    if have != need {
        return Err(Error::Length { path: path.into(), need, have });
    }
    Ok((*width, tokens.into()))
}

/// A file's ids, mapped and read through once, and their SHA-256. Of a damaged file not its ids are to blame: the hash comes
/// first.
fn on_disk(
    path: &Path,
    offset: u64,
    width: usize,
    tokens: u64,
    vocab: u32,
    expected: Option<String>,
) -> Result<(Ids, String)> {
    let io = |e: std::io::Error| Error::Io { path: path.into(), what: e.to_string() };
    let file = File::open(path).map_err(io)?;
    #[expect(unsafe_code, reason = "a map of a file is unsafe by nature")]
    // SAFETY: nobody writes to a shard that stands at its place (`shard::Writer` renames whole files), and `Ids::read` looks
    // at the file's length first. Other bytes, should somebody change the file in place, are other ids and nothing worse.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    let need = offset + tokens * width as u64;
    if (map.len() as u64) < need {
        return Err(Error::Length { path: path.into(), need, have: map.len() as u64 });
    }
    let (offset, chunk) = (offset as usize, width << 18);
    let (mut hash, mut checked) = (Sha256::new(), Ok(()));
    for (i, bytes) in map[offset..need as usize].chunks(chunk).enumerate() {
        checked = checked.and_then(|()| check(path, bytes, width, (i * chunk / width) as u64, vocab));
        hash.update(bytes);
    }
    let found = hex(&hash.finalize());
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(Error::Checksum { path: path.into(), found, expected });
    }
    checked?;
    Ok((Ids::Mapped { path: path.into(), file, map, offset, width }, found))
}

/// Refuses ids from `vocab` on; the first of `bytes` is at position `start`.
fn check(path: &Path, bytes: &[u8], width: usize, start: u64, vocab: u32) -> Result<()> {
    match bytes.chunks_exact(width).position(|bytes| id(bytes) >= vocab) {
        None => Ok(()),
        Some(at) => {
            let (position, id) = (start + at as u64, id(&bytes[at * width..(at + 1) * width]));
            Err(Error::Vocabulary { path: path.into(), position, id, vocab })
        }
    }
}
