//! JSON files beside token shards, written whole.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::{Error, Result};

/// Writes a file so that a reader sees the old one or the new one, whatever happens in between: under another name beside
/// it, flushed to the disk, then renamed.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let io = |e: std::io::Error| Error::Io { path: path.into(), what: e.to_string() };
    let json = serde_json::to_string_pretty(value).map_err(|e| io(e.into()))? + "\n";
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!("{name}.part"));
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(json.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    });
    written.map_err(io)
}
