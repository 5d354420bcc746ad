//! Rows of a text, built in or from a folder.

use data::text::{Corpus, Error, Index, TextConfig};
use serde_json::{Value, json};

use super::file;

fn config(change: Value) -> TextConfig {
    let mut config = json!({ "text": "tinyshakespeare", "context": 16 });
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

/// The file of char-rnn, cut and numbered as nanoGPT does.
#[test]
fn tinyshakespeare_is_the_known_one() {
    let corpus = config(json!({})).open(None).unwrap();
    assert_eq!((corpus.vocab(), corpus.bytes_per_token()), (65, 1.0));
    assert_eq!(corpus.evaluation_rows(), (111_540 - 1) / 16);
    let rows = corpus.evaluation(0, 2).unwrap();
    // "?\n\nGREMIO:\nGood " in nanoGPT's ids.
    assert_eq!(rows.ids[..16], [12, 0, 0, 19, 30, 17, 25, 21, 27, 10, 0, 19, 53, 53, 42, 1]);
    assert_eq!((rows.ids.len(), &rows.ids[1..16], rows.ids[16]), (32, &rows.targets[..15], rows.targets[15]));
    let bytes = config(json!({ "tokenizer": "bytes", "text": "books-mini" })).open(None).unwrap();
    assert_eq!((bytes.vocab(), bytes.bytes_per_token()), (256, 1.0));
}

#[cfg(feature = "tokenizer")]
#[test]
fn the_bpe_packs_several_bytes_in_a_token() {
    let corpus = config(json!({ "tokenizer": "bpe16384", "text": "books-mini" })).open(None).unwrap();
    assert_eq!(corpus.vocab(), 16_384);
    assert!((3.5..4.5).contains(&corpus.bytes_per_token()), "{}", corpus.bytes_per_token());
}

/// A row depends on its position alone: however rows are grouped in batches, and whenever asked.
#[test]
fn rows_are_a_function_of_seed_and_position() {
    let corpus = config(json!({})).open(None).unwrap();
    let rows = |seed, first, rows| corpus.train_rows(seed, first, rows).unwrap();
    let (six, later) = (rows(3, 0, 6), rows(3, 4, 2));
    assert_eq!((&six.ids[64..], &six.targets[64..]), (&later.ids[..], &later.targets[..]));
    assert_ne!(rows(4, 0, 6), six);
    assert_eq!(config(json!({})).open(None).unwrap().train_rows(3, 0, 6).unwrap(), six);
}

fn folder(ids: &[u16]) -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let text = data.path().join("text");
    std::fs::create_dir(&text).unwrap();
    for split in ["a", "b", "val"] {
        file(&text, &format!("{split}.u16"), &bytes);
    }
    let split = json!({ "tokens": ids.len(), "docs": 1, "bytes_text": 3 * ids.len() });
    let index = json!({ "dtype": "uint16", "eot": 0, "vocab": 9, "tokenizer": "t",
                        "splits": { "a": split, "b": split, "val": split } });
    file(&text, "index.json", index.to_string().as_bytes());
    data
}

fn opened(data: &tempfile::TempDir, change: Value) -> Result<Corpus, Error> {
    let mut merged = json!({ "text": "text", "train": ["a", "b"], "context": 4 });
    merged.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    config(merged).open(Some(data.path()))
}

#[test]
fn a_folder_is_read_by_its_index() {
    let data = folder(&[1, 2, 3, 0, 5, 0, 7, 8, 1]);
    let corpus = opened(&data, json!({})).unwrap();
    assert_eq!((corpus.vocab(), corpus.bytes_per_token(), corpus.evaluation_rows()), (9, 3.0, 2));
    assert_eq!(corpus.sha256().len(), 3);
    assert_eq!(corpus.evaluation(0, 2).unwrap().cu_seqlens, None);
    // Each end of text starts the sequence of the document after it.
    let packed = opened(&data, json!({ "documents": "packed", "context": 8 })).unwrap();
    assert_eq!(packed.evaluation(0, 1).unwrap().cu_seqlens, Some(vec![0, 3, 5, 8]));
}

/// The index names a tokenizer by file or by name; tokens of another are refused.
#[test]
fn a_folder_has_the_tokenizer_of_its_index() {
    let data = folder(&[1, 2, 3, 0, 5, 0, 7, 8, 1]);
    let (text, config) = (data.path().join("text"), config(json!({ "text": "text" })));
    let named = |name: &str, vocab: u32| {
        let mut index = Index::read(&text).unwrap();
        (index.tokenizer, index.vocab) = (name.into(), vocab);
        index.write(&text).unwrap();
        config.tokenizer_of(Some(data.path())).map(|tokenizer| tokenizer.name().to_string())
    };
    assert_eq!(named("bytes", 256).unwrap(), "bytes");
    #[cfg(feature = "tokenizer")]
    assert_eq!(named("../bpe16384.json", 16_384).unwrap(), "bpe16384.json");
    assert!(named("bytes", 9).unwrap_err().to_string().contains("has 256 ids, but the tokens of text are of 9"));
    assert!(named("other.json", 9).unwrap_err().to_string().contains("other.json is missing; copy"));
    file(&text, "other.json", b"{}");
    assert!(matches!(named("other.json", 9), Err(Error::Tokenizer { .. })));
    assert!(config.is_at_hand(Some(data.path())) && !config.is_at_hand(None));
    assert!(matches!(config.tokenizer_of(None), Err(Error::Text { .. })));
}

#[test]
fn what_a_folder_lacks_is_named() {
    let data = folder(&[1, 2, 3, 0, 5, 0, 7, 8, 1]);
    let text = data.path().join("text");
    let refused = |change: Value| opened(&data, change).unwrap_err().to_string();
    assert!(refused(json!({ "val": "test" })).contains("there is no split test, but a, b, val"));
    let other = refused(json!({ "text": "other" }));
    assert!(other.contains("index.json is missing") && other.ends_with("-- prepare`"), "{other}");
    let books = refused(json!({ "text": "books/tok16k" }));
    assert!(books.contains("-- prepare-books CLONE --out DATA/books/tok16k`"), "{books}");
    assert!(refused(json!({ "context": 9 })).starts_with("windows: 9 tokens, but 10 are needed"));
    let without = config(json!({ "text": "text" })).open(None).unwrap_err().to_string();
    assert!(without.contains("with --data or in DYNCONV_DATA"), "{without}");
    let mut index = Index::read(&text).unwrap();
    index.splits.get_mut("val").unwrap().sha256 = Some("00".into());
    index.write(&text).unwrap();
    assert!(matches!(opened(&data, json!({})), Err(Error::Checksum { .. })));
    index.eot = None;
    index.splits.get_mut("val").unwrap().sha256 = None;
    index.write(&text).unwrap();
    assert!(refused(json!({ "documents": "packed" })).contains("have no end of text"));
    index.vocab = 8;
    index.write(&text).unwrap();
    assert!(matches!(opened(&data, json!({})), Err(Error::Vocabulary { id: 8, .. })));
    std::fs::remove_file(text.join("a.u16")).unwrap();
    assert!(refused(json!({})).contains("split a has no file a.tok"));
    file(&text, "index.json", b"{");
    assert!(matches!(opened(&data, json!({})), Err(Error::Index { .. })));
    let packed = config(json!({ "documents": "packed" })).open(None).unwrap_err().to_string();
    assert!(packed.contains("set data.documents = \"ignored\""), "{packed}");
}
