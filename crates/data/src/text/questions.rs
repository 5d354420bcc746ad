//! Test questions: a `.jsonl` file (also `.xz`, `.gz`, `.zst`) with one question a line, all of one schema.
//!
//! | fields beside `id` | schema | answers |
//! |---|---|---|
//! | `ctx`, `choices`, `gold` | multiple choice | the context with each choice after it |
//! | `ctxs`, `cont`, `gold` | WinoGrande | each context with the same words after it |
//! | `ctx`, `target` | LAMBADA | the one that is right |
//! | `uid`, `term`, `field`, `good`, `bad` | BLiMP | the two sentences, without a context; the first is right |

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use super::decompress::{open, reading};
use super::documents::utf8;
use super::shard::hex;
use super::{Error, Result};

/// A question and its possible answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// BLiMP's paradigm (`uid`); empty elsewhere.
    pub paradigm: String,
    /// BLiMP's field of grammar, its words joined by `_`; empty elsewhere.
    pub field: String,
    /// The answers, at least one.
    pub answers: Vec<Answer>,
    /// Which of them is right, from 0.
    pub gold: usize,
}

/// What is scored, and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What is given; may be empty.
    pub context: String,
    /// What is scored, with the blank in front of it if it continues a context; never empty.
    pub text: String,
}

/// A file of questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    /// In the file's order, at least one.
    pub questions: Vec<Question>,
    /// SHA-256 of the decompressed file.
    pub sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choices {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    ctx: String,
    choices: Vec<String>,
    gold: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    ctxs: Vec<String>,
    cont: String,
    gold: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LastWord {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    ctx: String,
    target: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    #[serde(rename = "term")]
    _term: IgnoredAny,
    uid: String,
    field: String,
    good: String,
    bad: String,
}

/// The schemas by the field that no other has.
const SCHEMAS: [&str; 4] = ["choices", "ctxs", "target", "good"];

/// Reads a file of questions whole.
///
/// # Errors
/// [`Error::Io`] if there is none, [`Error::Compressed`], [`Error::Utf8`]; [`Error::Question`] at a line that is no
/// question, or of another schema than the first; [`Error::Empty`].
pub fn questions(path: &Path) -> Result<Questions> {
    let mut decoded = open(path)?;
    let (mut hash, mut line, mut number, mut offset) = (Sha256::new(), Vec::new(), 0, 0);
    let (mut questions, mut first) = (Vec::new(), None);
    loop {
        line.clear();
        let n = decoded.reader.read_until(b'\n', &mut line).map_err(|e| reading(path, decoded.compression, &e))?;
        if n == 0 {
            break;
        }
        hash.update(&line);
        number += 1;
        let text = utf8(path, &line, offset)?;
        offset += n as u64;
        if text.trim().is_empty() {
            continue;
        }
        let refuse = |what: String| Error::Question { path: path.into(), line: number, what };
        let (schema, question) = question(text).map_err(refuse)?;
        match *first.get_or_insert(schema) {
            first if first != schema => {
                return Err(refuse(format!("a question with {schema:?} among some with {first:?}")));
            }
            _ => questions.push(question),
        }
    }
    if questions.is_empty() {
        return Err(Error::Empty { path: path.into(), what: "questions" });
    }
    Ok(Questions { questions, sha256: hex(&hash.finalize()) })
}

/// The file of that stem in a folder: `stem.ending`, or with `.xz`, `.gz` or `.zst` after it.
pub fn held_out_file(folder: &Path, stem: &str, ending: &str) -> Option<PathBuf> {
    let candidates = ["", ".xz", ".gz", ".zst"].map(|packed| folder.join(format!("{stem}.{ending}{packed}")));
    candidates.into_iter().find(|path| path.exists())
}

/// A line's schema and question, or what is wrong with it.
fn question(line: &str) -> std::result::Result<(&'static str, Question), String> {
    let value: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let schema = SCHEMAS.into_iter().find(|field| value.get(field).is_some()).ok_or_else(|| {
        let fields: Vec<&str> = value.as_object().into_iter().flatten().map(|(field, _)| field.as_str()).collect();
        format!("the fields {fields:?} are of no schema: one of {SCHEMAS:?} is needed")
    })?;
    let answer = |context: &str, text: String| Answer { context: context.into(), text };
    let plain = |answers, gold| Question { paradigm: String::new(), field: String::new(), answers, gold };
    let question = match schema {
        "choices" => {
            let Choices { ctx, choices, gold, .. } = typed(value)?;
            plain(choices.into_iter().map(|choice| answer(&ctx, choice)).collect(), gold)
        }
        "ctxs" => {
            let Contexts { ctxs, cont, gold, .. } = typed(value)?;
            plain(ctxs.iter().map(|ctx| answer(ctx, cont.clone())).collect(), gold)
        }
        "target" => {
            let LastWord { ctx, target, .. } = typed(value)?;
            plain(vec![answer(&ctx, target)], 0)
        }
        _ => {
            let Pair { uid, field, good, bad, .. } = typed(value)?;
            let answers = vec![answer("", good), answer("", bad)];
            Question { paradigm: uid, field: field.replace(['/', ' ', '-'], "_"), answers, gold: 0 }
        }
    };
    let count = question.answers.len();
    if question.gold >= count {
        return Err(format!("gold is {}, of {count} answers counted from 0", question.gold));
    }
    match question.answers.iter().position(|answer| answer.text.is_empty()) {
        Some(empty) => Err(format!("answer {empty} is empty")),
        None => Ok((schema, question)),
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> std::result::Result<T, String> {
    serde_json::from_value(value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Questions> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, text).unwrap();
        questions(&path)
    }

    fn answer(context: &str, text: &str) -> Answer {
        Answer { context: context.into(), text: text.into() }
    }

    #[test]
    fn every_schema_is_read() {
        let lines = [
            r#"{"id": "x", "ctx": "Q", "choices": [" a", " b"], "gold": 1}"#,
            r#"{"id": 3, "ctxs": ["A", "B"], "cont": " won.", "gold": 0}"#,
            r#"{"ctx": "on the", "target": " mat"}"#,
            r#"{"uid": "u", "term": "t", "field": "syntax/semantics", "good": "G", "bad": "B"}"#,
        ];
        let wanted = [
            (vec![answer("Q", " a"), answer("Q", " b")], 1),
            (vec![answer("A", " won."), answer("B", " won.")], 0),
            (vec![answer("on the", " mat")], 0),
            (vec![answer("", "G"), answer("", "B")], 0),
        ];
        for (line, (answers, gold)) in lines.iter().zip(wanted) {
            let read = read(&format!("{line}\n\n{line}\n")).unwrap();
            assert_eq!((read.questions.len(), read.sha256.len()), (2, 64));
            let Question { paradigm, field, .. } = &read.questions[1];
            assert_eq!((&read.questions[1].answers, read.questions[1].gold), (&answers, gold));
            let is_pair = line.contains("uid");
            assert_eq!([paradigm, field], if is_pair { ["u", "syntax_semantics"] } else { ["", ""] });
        }
        assert!(matches!(read(&lines.join("\n")), Err(Error::Question { line: 2, .. })), "one schema a file");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let good = r#"{"ctx": "Q", "choices": ["a"], "gold": 0}"#;
        for (line, part) in [
            ("{", "EOF"),
            ("[1]", "the fields [] are of no schema"),
            (r#"{"ctx": "Q", "answer": "a"}"#, r#"the fields ["answer", "ctx"] are of no schema"#),
            (r#"{"ctx": "Q", "choices": ["a"], "gold": 1}"#, "gold is 1, of 1 answers"),
            (r#"{"ctx": "Q", "choices": [], "gold": 0}"#, "gold is 0, of 0 answers"),
            (r#"{"ctx": "Q", "choices": ["a", ""], "gold": 0}"#, "answer 1 is empty"),
            (r#"{"ctx": "Q", "choices": ["a"], "gold": 0, "hint": 1}"#, "unknown field `hint`"),
            (r#"{"ctx": "Q", "choices": ["a"]}"#, "missing field `gold`"),
            (r#"{"uid": "u", "term": "t", "field": "f", "good": 1, "bad": "b"}"#, "invalid type: integer"),
        ] {
            let message = read(&format!("{good}\n{line}\n")).unwrap_err().to_string();
            assert!(message.contains("a.jsonl: line 2: ") && message.contains(part), "{message}");
        }
        assert!(matches!(read("\n \n"), Err(Error::Empty { what: "questions", .. })));
        assert!(matches!(questions(Path::new("no/such.jsonl.xz")), Err(Error::Io { .. })));
    }

    #[test]
    fn a_file_is_found_packed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(held_out_file(folder.path(), "a", "txt"), None);
        for name in ["a.txt.zst", "a.txt.xz", "a.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
            assert_eq!(held_out_file(folder.path(), "a", "txt"), Some(folder.path().join(name)));
        }
    }
}
