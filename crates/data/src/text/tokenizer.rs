//! Tokenizers: bytes, the characters of a text, tokenizer.json files, and what tiktoken embeds.

mod decode;

use std::path::Path;

use rayon::prelude::*;

use super::{Error, Result};

/// Turns text into ids below [`Tokenizer::vocab`].
#[derive(Debug, Clone)]
pub struct Tokenizer {
    name: String,
    vocab: u32,
    end_of_text: Option<u32>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Bytes,
    /// Sorted; an id is a position.
    Characters(Vec<char>),
    #[cfg(feature = "tokenizer")]
    Json(Box<tokenizers::Tokenizer>),
    #[cfg(feature = "tiktoken")]
    Tiktoken(&'static tiktoken_rs::CoreBPE),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Bytes => "Bytes",
            Kind::Characters(_) => "Characters",
            #[cfg(feature = "tokenizer")]
            Kind::Json(_) => "Json",
            #[cfg(feature = "tiktoken")]
            Kind::Tiktoken(_) => "Tiktoken",
        })
    }
}

impl Tokenizer {
    /// 256 ids, one per byte; no end of text.
    pub fn bytes() -> Self {
        Self { name: "bytes".into(), vocab: 256, end_of_text: None, kind: Kind::Bytes }
    }

    /// The characters that a text has, in code-point order, as nanoGPT's character data; no end of text.
    pub fn characters(text: &str) -> Self {
        let mut characters: Vec<char> = text.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        let vocab = characters.len() as u32;
        Self { name: "characters".into(), vocab, end_of_text: None, kind: Kind::Characters(characters) }
    }

    /// A tokenizer.json file of the `tokenizers` format. Its end of text is the id of `<|endoftext|>`, `</s>` or
    /// `<|end_of_text|>`, the first that it has.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the bytes do not parse.
    #[cfg(feature = "tokenizer")]
    pub fn json(name: &str, bytes: &[u8]) -> Result<Self> {
        let loaded = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| Error::Tokenizer {
            name: name.into(),
            what: e.to_string(),
            remedy: "give a tokenizer.json of the tokenizers library",
        })?;
        let end_of_text = ["<|endoftext|>", "</s>", "<|end_of_text|>"].iter().find_map(|t| loaded.token_to_id(t));
        let vocab = loaded.get_vocab_size(true) as u32;
        Ok(Self { name: name.into(), vocab, end_of_text, kind: Kind::Json(Box::new(loaded)) })
    }

    /// `r50k` (GPT-2's, 50,257 ids) or `cl100k` (100,277 ids, near the 100,352 of the paper's).
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for another name.
    #[cfg(feature = "tiktoken")]
    pub fn tiktoken(name: &str) -> Result<Self> {
        let (vocab, end_of_text, bpe) = match name {
            "r50k" => (50_257, 50_256, tiktoken_rs::r50k_base_singleton()),
            "cl100k" => (100_277, 100_257, tiktoken_rs::cl100k_base_singleton()),
            _ => {
                let what = "tiktoken embeds none of this name".into();
                return Err(Error::Tokenizer { name: name.into(), what, remedy: "use r50k or cl100k" });
            }
        };
        Ok(Self { name: name.into(), vocab, end_of_text: Some(end_of_text), kind: Kind::Tiktoken(bpe) })
    }

    /// The tokenizer that a command line names: `bytes`, `r50k`, `cl100k` or a tokenizer.json file.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], also where this build lacks the kind asked for; [`Error::Io`].
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "bytes" => Ok(Self::bytes()),
            #[cfg(feature = "tiktoken")]
            "r50k" | "cl100k" => Self::tiktoken(name),
            #[cfg(not(feature = "tiktoken"))]
            "r50k" | "cl100k" => Err(Error::Tokenizer {
                name: name.into(),
                what: "this build has no tiktoken".into(),
                remedy: "build with --features data/tiktoken",
            }),
            file => Self::file(Path::new(file)),
        }
    }

    #[cfg(feature = "tokenizer")]
    fn file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::Io { path: path.into(), what: e.to_string() })?;
        Self::json(&path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(), &bytes)
    }

    #[cfg(not(feature = "tokenizer"))]
    fn file(path: &Path) -> Result<Self> {
        let what = "this build reads no tokenizer files".into();
        let remedy = "build with --features data/tokenizer";
        Err(Error::Tokenizer { name: path.display().to_string(), what, remedy })
    }

    /// Its name: `bytes`, `characters`, the file's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ids are below this.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// The id between documents, if it has one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// Appends the ids of a text; nothing is added before or after it.
    ///
    /// # Errors
    /// [`Error::Character`], [`Error::Tokenizer`].
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        match &self.kind {
            Kind::Bytes => ids.extend(text.bytes().map(u32::from)),
            Kind::Characters(characters) => {
                for character in text.chars() {
                    let id = characters.binary_search(&character);
                    let vocab = characters.len();
                    ids.push(id.map_err(|_| Error::Character { character, vocab })? as u32);
                }
            }
            #[cfg(feature = "tokenizer")]
            Kind::Json(tokenizer) => {
                let encoded = tokenizer.encode_fast(text, false).map_err(|e| Error::Tokenizer {
                    name: self.name.clone(),
                    what: e.to_string(),
                    remedy: "use a tokenizer that knows every text",
                })?;
                ids.extend_from_slice(encoded.get_ids());
            }
            #[cfg(feature = "tiktoken")]
            Kind::Tiktoken(bpe) => ids.extend(bpe.encode_ordinary(text)),
        }
        Ok(())
    }

    /// The ids of each of many texts, side by side on all threads.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_all(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let one = |text: &&str| {
            let mut ids = Vec::new();
            self.encode(text, &mut ids).map(|()| ids)
        };
        texts.par_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_texts_come_back_in_order() {
        let all = Tokenizer::bytes().encode_all(&["ab", "", "c"]).unwrap();
        assert_eq!(all, [vec![97, 98], vec![], vec![99]]);
        assert!(Tokenizer::characters("ab").encode_all(&["a", "x"]).is_err());
    }

    fn encoded(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        tokenizer.encode(text, &mut ids).map(|()| ids)
    }

    #[test]
    fn bytes_and_characters_are_what_they_say() {
        assert_eq!(encoded(&Tokenizer::bytes(), "aé").unwrap(), [97, 195, 169]);
        let characters = Tokenizer::characters("héhaa");
        assert_eq!((characters.vocab(), characters.end_of_text()), (3, None));
        assert_eq!(encoded(&characters, "aéh").unwrap(), [0, 2, 1]);
        let message = encoded(&characters, "x").unwrap_err().to_string();
        assert_eq!(message, "character 'x' is not among the tokenizer's 3; build the tokenizer from all of the text");
    }

    #[cfg(feature = "tokenizer")]
    #[test]
    fn tokenizer_files_load_or_are_named() {
        let bpe = Tokenizer::json("bpe16384.json", include_bytes!("../../files/books/bpe16384.json")).unwrap();
        assert_eq!((bpe.vocab(), bpe.end_of_text()), (16_384, Some(0)));
        let ids = encoded(&bpe, "It was the best of times, it was the worst of times.").unwrap();
        assert_eq!(ids.len(), 14);
        let message = Tokenizer::json("a.json", b"{}").unwrap_err().to_string();
        assert!(message.starts_with("tokenizer a.json: "), "{message}");
        let message = Tokenizer::named("no/such.json").unwrap_err().to_string();
        assert!(message.starts_with("no/such.json: "), "{message}");
    }

    #[cfg(feature = "tiktoken")]
    #[test]
    fn tiktoken_embeds_two() {
        let gpt2 = Tokenizer::named("r50k").unwrap();
        assert_eq!(encoded(&gpt2, "hello world").unwrap(), [31373, 995]);
        assert_eq!(Tokenizer::named("cl100k").unwrap().vocab(), 100_277);
    }
}
