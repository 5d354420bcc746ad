//! The book streams: public-domain English books, cleaned, tokenized and checked against their hashes.
//!
//! Source: github.com/mlschmitt/classic-books-markdown at commit 944882722e9a96fa6cf2739dc2ea757e101f412f. Each book
//! of the manifest: CRLF becomes LF; paragraphs are what blank lines separate; inside of one, newlines become spaces,
//! runs of blanks one, and its ends are trimmed. Dropped are empty ones, title lines (`# Title:`, `## Author:`,
//! `## Year:`, a rule of dashes), and of those of 80 characters or more each that occurred before (by MD5, over all
//! books in the order of their paths). Then paragraphs are joined by a blank line, U+FEFF goes and U+00A0 becomes a
//! space. The manifest has each book's split, in the order of the streams. A book is encoded whole, and one end of
//! text follows it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use md5::Md5;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::index::Index;
use super::shard::{Writer, hex};
use super::{Error, Result, Tokenizer};

const MANIFEST: &str = include_str!("../../files/books/MANIFEST.tsv");
const INDEX: &str = include_str!("../../files/books/index.json");
const TOKENIZER: &[u8] = include_bytes!("../../files/books/bpe16384.json");
/// Books encoded side by side.
const GROUP: usize = 16;
const CLONE: &str = "clone github.com/mlschmitt/classic-books-markdown at commit 944882722e9a";

/// A line of the manifest.
struct Book {
    split: &'static str,
    path: &'static str,
    sha256: &'static str,
}

/// Rebuilds the book streams from a clone of their source as shards in `out`, each checked against its hash, and says
/// after every group of books which split it is in, and how many books of how many are done.
///
/// # Errors
/// [`Error::Io`] if a book is missing; [`Error::Checksum`] if a book or a stream is not the one it should be.
pub fn prepare_books(clone: &Path, out: &Path, listen: &mut dyn FnMut(&str, usize, usize)) -> Result<Index> {
    let io = |path: &Path, e: std::io::Error| Error::Io { path: path.into(), what: e.to_string() };
    std::fs::create_dir_all(out).map_err(|e| io(out, e))?;
    let lines = MANIFEST.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    let books = lines.map(|fields| match fields[..] {
        [split, path, _, _, sha256] => Ok(Book { split, path, sha256 }),
        _ => Err(Error::Index { path: "MANIFEST.tsv".into(), what: fields.join(" "), remedy: "restore the file" }),
    });
    let books: Vec<Book> = books.collect::<Result<_>>()?;
    let index: Index = serde_json::from_str(INDEX).map_err(|e| Error::Index {
        path: "index.json".into(),
        what: e.to_string(),
        remedy: "restore the file",
    })?;
    let texts = clean(clone, &books)?;
    let tokenizer = Tokenizer::json("bpe16384.json", TOKENIZER)?;
    let mut done = 0;
    for (name, split) in &index.splits {
        let path = out.join(format!("{name}.tok"));
        let mut writer = Writer::create(&path, tokenizer.vocab(), tokenizer.end_of_text())?;
        let members: Vec<&Book> = books.iter().filter(|book| book.split == name).collect();
        for group in members.chunks(GROUP) {
            let encoded = group.par_iter().map(|book| {
                let (mut ids, text) = (Vec::new(), &texts[book.path]);
                tokenizer.encode(text, &mut ids)?;
                ids.extend(tokenizer.end_of_text());
                Ok((ids, text.len() as u64))
            });
            for (ids, bytes) in encoded.collect::<Result<Vec<_>>>()? {
                writer.push(&ids, bytes, 1)?;
            }
            done += group.len();
            listen(name, done, books.len());
        }
        let found = hex(&writer.finish()?.sha256);
        let expected = split.sha256.clone().unwrap_or_default();
        if found != expected {
            return Err(Error::Checksum { path, found, expected });
        }
    }
    index.write(out)?;
    Ok(index)
}

/// The cleaned text of every book by path, each checked.
fn clean<'a>(clone: &Path, books: &'a [Book]) -> Result<BTreeMap<&'a str, String>> {
    let mut sorted: Vec<&Book> = books.iter().collect();
    sorted.sort_by_key(|book| book.path);
    let (mut seen, mut texts) = (HashSet::new(), BTreeMap::new());
    for book in sorted {
        let path = clone.join(book.path);
        let bytes =
            std::fs::read(&path).map_err(|e| Error::Io { path: path.clone(), what: format!("{e}; {CLONE}") })?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| Error::Utf8 { path: path.clone(), offset: e.valid_up_to() as u64 })?;
        let text = cleaned(text, &mut seen);
        let found = hex(&Sha256::digest(text.as_bytes()));
        if found != book.sha256 {
            return Err(Error::Checksum { path, found, expected: book.sha256.into() });
        }
        texts.insert(book.path, text);
    }
    Ok(texts)
}

/// One book's cleaned text; `seen` has the long paragraphs so far.
fn cleaned(text: &str, seen: &mut HashSet<[u8; 16]>) -> String {
    let text = text.replace("\r\n", "\n");
    let mut kept: Vec<String> = Vec::new();
    for lines in text.split('\n').collect::<Vec<_>>().split(|line| line.trim().is_empty()) {
        let paragraph = spaced(lines.join(" ").trim());
        if paragraph.is_empty() || is_title(&paragraph) {
            continue;
        }
        if paragraph.chars().count() >= 80 && !seen.insert(Md5::digest(paragraph.as_bytes()).into()) {
            continue;
        }
        kept.push(paragraph);
    }
    kept.join("\n\n").replace('\u{feff}', "").replace('\u{a0}', " ")
}

/// Runs of spaces and tabs as one space.
fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = false;
    for character in text.chars() {
        let is_blank = matches!(character, ' ' | '\t');
        if !is_blank {
            out.push(character);
        } else if !blank {
            out.push(' ');
        }
        blank = is_blank;
    }
    out
}

fn is_title(paragraph: &str) -> bool {
    let is_rule = paragraph.len() >= 3 && paragraph.bytes().all(|byte| byte == b'-');
    is_rule || ["# Title:", "## Author:", "## Year:"].iter().any(|start| paragraph.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_cleaned_as_stated() {
        let long = "x".repeat(80);
        let mut seen = HashSet::new();
        let first =
            format!("# Title: A\r\n\r\n-------\r\none \t two\r\nthree\r\n \r\n\r\n{long}\n\n\u{a0}a\u{a0}b\u{feff}\n");
        assert_eq!(cleaned(&first, &mut seen), format!("------- one two three\n\n{long}\n\na b"));
        assert_eq!(cleaned(&format!("---\n\n{long}\n\nend"), &mut seen), "end");
    }

    #[test]
    fn a_book_that_is_missing_or_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = prepare_books(folder.path(), &folder.path().join("out"), &mut |_, _, _| ()).unwrap_err();
        assert!(error.to_string().contains("clone github.com/"), "{error}");
        let path = MANIFEST.lines().skip(1).map(|line| line.split('\t').nth(1).unwrap()).min().unwrap();
        let book = folder.path().join(path);
        std::fs::create_dir_all(book.parent().unwrap()).unwrap();
        std::fs::write(&book, "another text").unwrap();
        let error = prepare_books(folder.path(), &folder.path().join("out"), &mut |_, _, _| ()).unwrap_err();
        assert!(matches!(error, Error::Checksum { path, .. } if path == book));
    }
}
