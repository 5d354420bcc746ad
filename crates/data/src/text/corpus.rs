//! A text as training and evaluation rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::index::{Index, NAME};
use super::{Error, Result, Tokenizer, Tokens, Windows};

/// Text built into this crate by name; the first nine tenths train.
const BUILT_IN: [(&str, &str); 2] = [
    ("tinyshakespeare", include_str!("../../files/tinyshakespeare.txt")),
    ("books-mini", include_str!("../../files/books-mini.txt")),
];

/// The text that `data prepare-books` makes, as our plans name it.
const BOOKS: &str = "books/tok16k";
const PREPARE_BOOKS: &str = "prepare it with `cargo run --release -p data -- prepare-books CLONE --out DATA/books/tok16k`, \
                             CLONE being github.com/mlschmitt/classic-books-markdown at commit 944882722e9a, DATA this folder";
const PREPARE: &str = "prepare it with `cargo run --release -p data -- prepare`";

/// Which text, cut how: the `data` table of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// `tinyshakespeare` or `books-mini`, which are built in, or a folder of token files inside of the data folder.
    pub text: String,
    /// Tokenizer of a text that is built in; a folder's tokens are made already.
    #[serde(default)]
    pub tokenizer: BuiltIn,
    /// A folder's splits to train on.
    #[serde(default = "train")]
    pub train: Vec<String>,
    /// A folder's split to evaluate on.
    #[serde(default = "val")]
    pub val: String,
    /// Tokens of a row.
    pub context: usize,
    /// Whether a row may look across documents.
    #[serde(default)]
    pub documents: Documents,
}

fn train() -> Vec<String> {
    vec!["train".into()]
}

fn val() -> String {
    "val".into()
}

/// The tokenizer of a text that is built in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuiltIn {
    /// Its characters.
    #[default]
    Characters,
    /// Bytes.
    Bytes,
    /// The byte-level BPE of 16,384 ids made from the books.
    Bpe16384,
}

/// What becomes of the borders between documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Documents {
    /// Nothing: the end of text is a token like another.
    #[default]
    Ignored,
    /// Each end of text starts a sequence of its own, which sees nothing before it. Takes one row a batch.
    Packed,
}

/// Rows of equal length one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Input tokens.
    pub ids: Vec<u32>,
    /// The next token of each.
    pub targets: Vec<u32>,
    /// Borders of the sequences of one packed row.
    pub cu_seqlens: Option<Vec<usize>>,
}

/// An opened text.
#[derive(Debug)]
pub struct Corpus {
    train: (Tokens, Windows),
    val: (Tokens, Windows),
    vocab: u32,
    end_of_text: Option<u32>,
    bytes_per_token: f64,
    context: usize,
    documents: Documents,
}

impl TextConfig {
    /// Opens the text; `data` is the data folder, if there is one.
    ///
    /// # Errors
    /// [`Error::Text`] if there is no such text; what [`Tokens::open`] refuses; [`Error::Short`] if it holds no
    /// window; [`Error::Index`] if packed documents are asked for and nothing separates them.
    pub fn open(&self, data: Option<&Path>) -> Result<Corpus> {
        let built_in = BUILT_IN.iter().find(|(name, _)| *name == self.text);
        let corpus = match built_in.zip(self.tokenizer()?) {
            Some(((name, text), tokenizer)) => self.built_in(name, text, &tokenizer)?,
            None => self.folder(data)?,
        };
        if self.documents == Documents::Packed && corpus.end_of_text.is_none() {
            let what = "documents = \"packed\", but its tokens have no end of text".into();
            return Err(Error::Text { name: self.text.clone(), what, remedy: "set data.documents = \"ignored\"" });
        }
        Ok(corpus)
    }

    /// The tokenizer of a text that is built in; none for a folder, whose index only names it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if this build lacks it.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == self.text) else { return Ok(None) };
        Ok(Some(match self.tokenizer {
            BuiltIn::Characters => Tokenizer::characters(text),
            BuiltIn::Bytes => Tokenizer::bytes(),
            BuiltIn::Bpe16384 => bpe16384()?,
        }))
    }

    /// The tokenizer that the text's tokens were made with: of a folder the one that its index names, which is the
    /// BPE built in, `bytes`, `r50k`, `cl100k`, or a tokenizer.json file beside the tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it is not at hand or has not as many ids as the tokens; [`Error::Text`] or
    /// [`Error::Index`] without the folder.
    pub fn tokenizer_of(&self, data: Option<&Path>) -> Result<Tokenizer> {
        if let Some(tokenizer) = self.tokenizer()? {
            return Ok(tokenizer);
        }
        let folder = self.folder_in(data)?;
        let index = Index::read(&folder)?;
        let path = folder.join(&index.tokenizer);
        let tokenizer = match path.file_name().and_then(|name| name.to_str()) {
            _ if path.exists() => Tokenizer::named(&path.to_string_lossy())?,
            Some("bpe16384.json") => bpe16384()?,
            Some(name @ ("bytes" | "r50k" | "cl100k")) => Tokenizer::named(name)?,
            _ => {
                let what = format!("{} is missing", path.display());
                let remedy = "copy the tokenizer.json that the tokens were made with there";
                return Err(Error::Tokenizer { name: index.tokenizer, what, remedy });
            }
        };
        if tokenizer.vocab() != index.vocab {
            let what = format!("has {} ids, but the tokens of {} are of {}", tokenizer.vocab(), self.text, index.vocab);
            let remedy = "use the tokenizer that the tokens were made with";
            return Err(Error::Tokenizer { name: index.tokenizer, what, remedy });
        }
        Ok(tokenizer)
    }

    /// Whether the text is built in or its folder is there; its files are not read.
    pub fn is_at_hand(&self, data: Option<&Path>) -> bool {
        BUILT_IN.iter().any(|(name, _)| *name == self.text) || self.folder_in(data).is_ok()
    }

    fn built_in(&self, name: &str, text: &str, tokenizer: &Tokenizer) -> Result<Corpus> {
        // As nanoGPT cuts it: at nine tenths of the characters.
        let cut = text.chars().count() * 9 / 10;
        let cut = text.char_indices().nth(cut).map_or(text.len(), |(at, _)| at);
        let encode = |split: &str, text: &str| -> Result<Tokens> {
            let mut ids = Vec::new();
            tokenizer.encode(text, &mut ids)?;
            Ok(Tokens::held(&format!("{name}.{split}.{}", tokenizer.name()), ids))
        };
        let (train, val) = (encode("train", &text[..cut])?, encode("val", &text[cut..])?);
        self.corpus(train, val, tokenizer.vocab(), tokenizer.end_of_text(), (text.len() - cut) as u64)
    }

    /// The text's folder in the data folder.
    fn folder_in(&self, data: Option<&Path>) -> Result<PathBuf> {
        let refuse = |what: String, remedy| Error::Text { name: self.text.clone(), what, remedy };
        let data = data.ok_or_else(|| {
            let built_in = BUILT_IN.map(|(name, _)| name).join(" and ");
            let what = format!("{built_in} are built in, and no data folder is given");
            refuse(what, "name the folder of prepared texts with --data or in DYNCONV_DATA")
        })?;
        let folder = data.join(&self.text);
        if !folder.join(NAME).exists() {
            let what = format!("{} is missing", folder.join(NAME).display());
            return Err(refuse(what, if self.text == BOOKS { PREPARE_BOOKS } else { PREPARE }));
        }
        Ok(folder)
    }

    fn folder(&self, data: Option<&Path>) -> Result<Corpus> {
        let folder = self.folder_in(data)?;
        let index = Index::read(&folder)?;
        let mut files = Vec::new();
        for split in &self.train {
            files.extend(index.files(&folder, split)?);
        }
        let train = Tokens::open(&files, index.vocab)?;
        let val = Tokens::open(&index.files(&folder, &self.val)?, index.vocab)?;
        for name in self.train.iter().chain([&self.val]) {
            let (split, paths) = (index.split(&folder, name)?, index.files(&folder, name)?);
            if let (Some(expected), [path]) = (&split.sha256, &paths[..]) {
                let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
                let found = train.sha256().chain(val.sha256()).find(|(name, _)| Some(*name) == file.as_deref());
                let found = found.map(|(_, sum)| sum.to_string()).unwrap_or_default();
                if found != *expected {
                    return Err(Error::Checksum { path: path.clone(), found, expected: expected.clone() });
                }
            }
        }
        let bytes = index.split(&folder, &self.val)?.bytes_text;
        self.corpus(train, val, index.vocab, index.eot, bytes)
    }

    fn corpus(
        &self,
        train: Tokens,
        val: Tokens,
        vocab: u32,
        end_of_text: Option<u32>,
        val_bytes: u64,
    ) -> Result<Corpus> {
        let bytes_per_token = val_bytes as f64 / val.len().max(1) as f64;
        let (context, documents) = (self.context, self.documents);
        let windows = [Windows::new(train.len(), context)?, Windows::new(val.len(), context)?];
        let (train, val) = ((train, windows[0]), (val, windows[1]));
        Ok(Corpus { train, val, vocab, end_of_text, bytes_per_token, context, documents })
    }
}

#[cfg(feature = "tokenizer")]
fn bpe16384() -> Result<Tokenizer> {
    Tokenizer::json("bpe16384.json", include_bytes!("../../files/books/bpe16384.json"))
}

#[cfg(not(feature = "tokenizer"))]
fn bpe16384() -> Result<Tokenizer> {
    let what = "this build reads no tokenizer files".into();
    let remedy = "build with --features data/tokenizer, or use characters or bytes";
    Err(Error::Tokenizer { name: "bpe16384".into(), what, remedy })
}

impl Corpus {
    /// Ids are below this.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// Tokens of a row.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Whether rows are packed with documents.
    pub fn documents(&self) -> Documents {
        self.documents
    }

    /// Bytes of text that a token of the evaluated split stands for, on average over the whole split: a loss of `l`
    /// nats a token is `l / (ln 2 * bytes_per_token)` bits per byte.
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes_per_token
    }

    /// Rows to evaluate on that there are.
    pub fn evaluation_rows(&self) -> u64 {
        self.val.1.evaluations()
    }

    /// SHA-256 of each file's ids by name.
    pub fn sha256(&self) -> BTreeMap<String, String> {
        let files = self.train.0.sha256().chain(self.val.0.sha256());
        files.map(|(name, sum)| (name.to_string(), sum.to_string())).collect()
    }

    /// Training rows `first .. first + rows` of a seed's endless shuffled epochs; see [`Windows`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn train_rows(&self, seed: u64, first: u64, rows: usize) -> Result<Rows> {
        let (tokens, windows) = &self.train;
        self.rows(tokens, (0..rows as u64).map(|row| Ok(windows.train(seed, first + row))))
    }

    /// Evaluation rows `first .. first + rows`, side by side from the split's first token on.
    ///
    /// # Errors
    /// [`Error::Short`] past the last, [`Error::Io`].
    pub fn evaluation(&self, first: u64, rows: usize) -> Result<Rows> {
        let (tokens, windows) = &self.val;
        self.rows(tokens, (0..rows as u64).map(|row| windows.evaluation(first + row)))
    }

    fn rows(&self, tokens: &Tokens, starts: impl Iterator<Item = Result<u64>>) -> Result<Rows> {
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        let mut window = vec![0; self.context + 1];
        for start in starts {
            tokens.read(start?, &mut window)?;
            ids.extend_from_slice(&window[..self.context]);
            targets.extend_from_slice(&window[1..]);
        }
        let cu_seqlens = (self.documents == Documents::Packed).then(|| self.borders(&ids));
        Ok(Rows { ids, targets, cu_seqlens })
    }

    /// A sequence starts at each end of text, so that it begins the document after it and every token is predicted
    /// once, the end of text from its own document.
    fn borders(&self, ids: &[u32]) -> Vec<usize> {
        let starts = (1..ids.len()).filter(|&at| Some(ids[at]) == self.end_of_text);
        std::iter::once(0).chain(starts).chain([ids.len()]).collect()
    }
}
