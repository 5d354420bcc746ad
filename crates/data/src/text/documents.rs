//! Documents of text files.
//!
//! | name ends in | documents |
//! |---|---|
//! | `.txt`, `.md` | one: the whole file |
//! | `.jsonl` | the text field of every line (Nemotron-CC, C4, Dolma) |
//! | `.parquet` | the text column of every row (FineWeb-Edu); with the feature `parquet` |
//!
//! The first two may end in `.xz`, `.gz` or `.zst` besides.

use std::io::{BufRead, Read};
use std::path::Path;

use super::decompress::{Decoded, open, reading};
use super::{Error, Result};

/// Passes every document of a file on, in order, and says how many there were. `field` names the text of a record.
///
/// # Errors
/// [`Error::Io`], [`Error::Format`], [`Error::Empty`], [`Error::Compressed`], [`Error::Utf8`], [`Error::Record`];
/// and what `each` returns.
pub fn documents(path: &Path, field: &str, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<u64> {
    let decoded = open(path)?;
    let count = match decoded.ending.as_str() {
        "txt" | "md" => whole(path, decoded, each)?,
        "jsonl" => lines(path, decoded, field, each)?,
        "parquet" => rows(path, field, each)?,
        "bin" | "u16" | "tok" => {
            let remedy = "it needs no preparation: read it as it is";
            return Err(Error::Format { path: path.into(), what: "holds tokens, not text".into(), remedy });
        }
        other => {
            let what = format!("`.{other}` is no format of texts");
            let remedy = "name it .txt, .jsonl or .parquet (the first two with .xz, .gz or .zst after it)";
            return Err(Error::Format { path: path.into(), what, remedy });
        }
    };
    if count == 0 { Err(Error::Empty { path: path.into(), what: "text" }) } else { Ok(count) }
}

/// The first `bytes` bytes of a file's documents, or up to three fewer so as not to cut a character.
///
/// # Errors
/// As [`documents`].
pub fn excerpt(path: &Path, bytes: usize) -> Result<String> {
    let mut text = String::new();
    documents(path, "text", &mut |document| {
        text.push_str(document);
        Ok(())
    })?;
    let end = (0..=bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    Ok(text)
}

fn whole(path: &Path, mut decoded: Decoded, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<u64> {
    let mut bytes = Vec::new();
    decoded.reader.read_to_end(&mut bytes).map_err(|e| reading(path, decoded.compression, &e))?;
    let text = utf8(path, &bytes, 0)?;
    if text.is_empty() {
        return Ok(0);
    }
    each(text)?;
    Ok(1)
}

fn lines(path: &Path, mut decoded: Decoded, field: &str, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<u64> {
    let (mut line, mut number, mut offset, mut count) = (Vec::new(), 0, 0, 0);
    loop {
        line.clear();
        let n = decoded.reader.read_until(b'\n', &mut line).map_err(|e| reading(path, decoded.compression, &e))?;
        if n == 0 {
            return Ok(count);
        }
        number += 1;
        let text = utf8(path, &line, offset)?;
        offset += n as u64;
        if text.trim().is_empty() {
            continue;
        }
        let refuse = |what: String| Error::Record { path: path.into(), record: number, what };
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| refuse(e.to_string()))?;
        let text = value.get(field).and_then(|text| text.as_str());
        each(text.ok_or_else(|| refuse(format!("there is no text field {field:?}")))?)?;
        count += 1;
    }
}

#[cfg(feature = "parquet")]
fn rows(path: &Path, field: &str, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<u64> {
    use std::sync::Arc;

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    use parquet::schema::types::Type;

    let refuse = |record: u64, what: String| Error::Record { path: path.into(), record, what };
    let damaged = |e: parquet::errors::ParquetError| Error::Compressed {
        path: path.into(),
        format: "parquet",
        what: e.to_string(),
    };
    let file = std::fs::File::open(path).map_err(|e| Error::Io { path: path.into(), what: e.to_string() })?;
    let file = SerializedFileReader::new(file).map_err(damaged)?;
    let schema = file.metadata().file_metadata().schema();
    let column = schema.get_fields().iter().find(|column| column.name() == field);
    let column = column.ok_or_else(|| refuse(0, format!("there is no column {field:?}")))?;
    let alone = Type::group_type_builder(schema.name()).with_fields(vec![Arc::clone(column)]).build();
    let mut count = 0;
    for row in file.get_row_iter(Some(alone.map_err(damaged)?)).map_err(damaged)? {
        count += 1;
        let row = row.map_err(damaged)?;
        each(row.get_string(0).map_err(|e| refuse(count, e.to_string()))?)?;
    }
    Ok(count)
}

#[cfg(not(feature = "parquet"))]
fn rows(path: &Path, _: &str, _: &mut dyn FnMut(&str) -> Result<()>) -> Result<u64> {
    let what = "this build reads no parquet".into();
    Err(Error::Format { path: path.into(), what, remedy: "build with --features data/parquet" })
}

/// Text from bytes that start at `offset` of a file.
pub(super) fn utf8<'a>(path: &Path, bytes: &'a [u8], offset: u64) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| Error::Utf8 { path: path.into(), offset: offset + e.valid_up_to() as u64 })
}
