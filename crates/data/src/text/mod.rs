//! Text as tokens: readers, tokenizers, shards, and rows to train and evaluate on.
//!
//! [`TextConfig`] names a text and how it is cut; [`TextConfig::open`] checks its files and gives a [`Corpus`], whose
//! rows are a pure function of (seed, position). [`prepare()`] turns text files into checked shards beforehand;
//! [`questions()`] reads what a trained model is asked.
//!
//! ```
//! use data::text::TextConfig;
//!
//! let config: TextConfig = serde_json::from_str(r#"{ "text": "tinyshakespeare", "context": 64 }"#)?;
//! let corpus = config.open(None)?;
//! assert_eq!((corpus.vocab(), corpus.bytes_per_token()), (65, 1.0));
//! let rows = corpus.train_rows(0, 0, 12)?;
//! assert_eq!(rows.ids[1..64], rows.targets[..63]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "tokenizer")]
mod books;
mod corpus;
mod decompress;
mod documents;
mod error;
mod index;
mod json;
mod prepare;
mod questions;
mod shard;
mod tokenizer;
mod tokens;
mod windows;

#[cfg(feature = "tokenizer")]
pub use books::prepare_books;
pub use corpus::{BuiltIn, Corpus, Documents, Rows, TextConfig};
pub use documents::{documents, excerpt};
pub use error::{Error, Result};
pub use index::{Index, Split};
pub use prepare::{Done, Options, prepare};
pub use questions::{Answer, Question, Questions, held_out_file, questions};
pub use shard::{Header, Writer};
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
pub use windows::Windows;
