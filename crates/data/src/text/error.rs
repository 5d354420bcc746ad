//! What can be wrong with text, tokens and shards, and what to do about it.

use std::path::PathBuf;

/// The result of reading or writing text and tokens.
pub type Result<T> = std::result::Result<T, Error>;

/// A refused file or request: which file, what is wrong and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("{}: {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        what: String,
    },
    /// The name ends in nothing that a reader knows.
    #[error("{}: {what}; {remedy}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No text or no tokens at all.
    #[error("{}: holds no {what}; leave it out or download it again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing: `text`, `tokens`.
        what: &'static str,
    },
    /// A compressed stream that does not decode.
    #[error("{}: the {format} stream is damaged or cut short ({what}); download it again", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// `xz`, `gzip`, `zstd`.
        format: &'static str,
        /// What the decoder said.
        what: String,
    },
    /// Bytes that are not UTF-8.
    #[error("{}: byte {offset} is not UTF-8; convert the file, such as with iconv", path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Of the first bad byte, in the decoded stream.
        offset: u64,
    },
    /// A record without the text field, or that does not parse.
    #[error("{}: record {record}: {what}; name the text's field with --field", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Counted from 1; of a .jsonl file the line.
        record: u64,
        /// What is wrong.
        what: String,
    },
    /// A line that is no test question.
    #[error("{}: line {line}: {what}; restore the file", path.display())]
    Question {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// The first bytes are not those of the format.
    #[error("{}: starts with {found}, not {expected}; is it a {format} file?", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// The format its name promises.
        format: &'static str,
        /// What stands there.
        found: String,
        /// What should.
        expected: String,
    },
    /// Fewer or more bytes than the header announces.
    #[error("{}: {have} bytes, but its header announces {need}; download or prepare it again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes of a whole file.
        need: u64,
        /// Bytes found.
        have: u64,
    },
    /// The tokens are not those that were written.
    #[error("{}: sha-256 {found}, but {expected} is announced; download or prepare it again", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Of the tokens found.
        found: String,
        /// The announced one.
        expected: String,
    },
    /// A token that the vocabulary lacks.
    #[error("{}: token {position} has id {id}, but the vocabulary has {vocab}; use the tokenizer it was made with", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Counted from 0.
        position: u64,
        /// The id.
        id: u32,
        /// Ids that there are.
        vocab: u32,
    },
    /// A character that a character tokenizer does not know.
    #[error("character {character:?} is not among the tokenizer's {vocab}; build the tokenizer from all of the text")]
    Character {
        /// The character.
        character: char,
        /// How many it knows.
        vocab: usize,
    },
    /// A tokenizer that cannot be loaded, or refused a text.
    #[error("tokenizer {name}: {what}; {remedy}")]
    Tokenizer {
        /// The file or name.
        name: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An index that does not fit its folder or what is asked of it.
    #[error("{}: {what}; {remedy}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A text that is neither built in nor a folder of the data folder.
    #[error("there is no text {name}: {what}; {remedy}")]
    Text {
        /// The name asked for.
        name: String,
        /// Where it was looked for.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Too few tokens for what is asked.
    #[error("{op}: {have} tokens, but {need} are needed; {remedy}")]
    Short {
        /// What was asked for.
        op: &'static str,
        /// Tokens there are.
        have: u64,
        /// Tokens needed.
        need: u64,
        /// What to do.
        remedy: &'static str,
    },
}
