//! The file of token ids that `data prepare` writes: `.tok`.
//!
//! | offset | bytes | what, little-endian |
//! |---|---|---|
//! | 0 | 8 | `dynctok1` |
//! | 8 | 4 | bytes of an id: 2 or 4 |
//! | 12 | 4 | vocabulary: ids are below it |
//! | 16 | 4 | id between documents, or 2^32 - 1 |
//! | 20 | 4 | 0 |
//! | 24 | 8 | tokens |
//! | 32 | 8 | bytes of the text they stand for |
//! | 40 | 8 | documents |
//! | 48 | 32 | SHA-256 of the ids that follow |
//! | 80 | | ids |
//!
//! A file is complete or absent: it is written under another name, synced and renamed.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Error, Result};

/// The first bytes of a shard.
pub(super) const MAGIC: &[u8; 8] = b"dynctok1";
/// Bytes before the ids.
pub(super) const HEADER: u64 = 80;
const NONE: u32 = u32::MAX;

/// What a shard's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes of an id: 2 or 4.
    pub width: usize,
    /// Ids are below this.
    pub vocab: u32,
    /// The id between documents.
    pub end_of_text: Option<u32>,
    /// Number of ids.
    pub tokens: u64,
    /// Bytes of the text that they stand for.
    pub text_bytes: u64,
    /// Number of documents.
    pub documents: u64,
    /// SHA-256 of the ids.
    pub sha256: [u8; 32],
}

impl Header {
    fn bytes(&self) -> [u8; HEADER as usize] {
        let mut out = [0; HEADER as usize];
        out[..8].copy_from_slice(MAGIC);
        for (at, value) in [(8, self.width as u32), (12, self.vocab), (16, self.end_of_text.unwrap_or(NONE))] {
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [(24, self.tokens), (32, self.text_bytes), (40, self.documents)] {
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        out[48..].copy_from_slice(&self.sha256);
        out
    }

    /// The header of a shard.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Empty`], [`Error::Length`], [`Error::Magic`].
    pub fn read(path: &Path) -> Result<Self> {
        let io = |e: std::io::Error| Error::Io { path: path.into(), what: e.to_string() };
        let mut file = File::open(path).map_err(io)?;
        let have = file.metadata().map_err(io)?.len();
        if have == 0 {
            return Err(Error::Empty { path: path.into(), what: "tokens" });
        }
        if have < HEADER {
            return Err(Error::Length { path: path.into(), need: HEADER, have });
        }
        let mut bytes = [0; HEADER as usize];
        file.read_exact(&mut bytes).map_err(io)?;
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let magic =
            |found: String, expected: String| Error::Magic { path: path.into(), format: ".tok", found, expected };
        if !bytes.starts_with(MAGIC) {
            return Err(magic(format!("{:?}", bytes[..8].escape_ascii().to_string()), "\"dynctok1\"".into()));
        }
        let width = u32_at(8) as usize;
        if !matches!(width, 2 | 4) {
            return Err(magic(format!("ids of {width} bytes"), "ids of 2 or 4".into()));
        }
        let end_of_text = Some(u32_at(16)).filter(|&id| id != NONE);
        let [tokens, text_bytes, documents] = [24, 32, 40].map(u64_at);
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&bytes[48..]);
        let header = Self { width, vocab: u32_at(12), end_of_text, tokens, text_bytes, documents, sha256 };
        let need = HEADER.saturating_add(tokens.saturating_mul(width as u64));
        if have != need {
            return Err(Error::Length { path: path.into(), need, have });
        }
        Ok(header)
    }
}

/// Writes a shard.
pub struct Writer {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    header: Header,
}

impl Writer {
    /// Starts the shard that will stand at `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path, vocab: u32, end_of_text: Option<u32>) -> Result<Self> {
        let part = path.with_extension("tok.part");
        let width = if vocab <= 1 << 16 { 2 } else { 4 };
        let header = Header { width, vocab, end_of_text, tokens: 0, text_bytes: 0, documents: 0, sha256: [0; 32] };
        let io = |e: std::io::Error| Error::Io { path: part.clone(), what: e.to_string() };
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&part).map_err(io)?);
        file.write_all(&header.bytes()).map_err(io)?;
        Ok(Self { path: path.into(), part, file, hash: Sha256::new(), header })
    }

    /// Appends a document's ids, or a part of them; `text_bytes` and `documents` are what they add.
    ///
    /// # Errors
    /// [`Error::Vocabulary`], [`Error::Io`].
    pub fn push(&mut self, ids: &[u32], text_bytes: u64, documents: u64) -> Result<()> {
        let vocab = self.header.vocab;
        if let Some(at) = ids.iter().position(|&id| id >= vocab) {
            let position = self.header.tokens + at as u64;
            return Err(Error::Vocabulary { path: self.path.clone(), position, id: ids[at], vocab });
        }
        let width = self.header.width;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)).collect();
        self.hash.update(&bytes);
        self.header.tokens += ids.len() as u64;
        self.header.text_bytes += text_bytes;
        self.header.documents += documents;
        self.file.write_all(&bytes).map_err(|e| Error::Io { path: self.part.clone(), what: e.to_string() })
    }

    /// Completes the shard, which then stands at its place.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<Header> {
        self.header.sha256 = self.hash.finalize().into();
        let io = |e: std::io::Error| Error::Io { path: self.path.clone(), what: e.to_string() };
        self.file.seek(SeekFrom::Start(0)).map_err(io)?;
        self.file.write_all(&self.header.bytes()).map_err(io)?;
        self.file.flush().map_err(io)?;
        self.file.get_ref().sync_all().map_err(io)?;
        std::fs::rename(&self.part, &self.path).map_err(io)?;
        Ok(self.header)
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
