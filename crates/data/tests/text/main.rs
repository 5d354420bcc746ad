//! Text: readers, shards, rows, preparation, and every kind of damage by name.

mod damage;
mod prepare;
mod rows;

use std::io::Write;
use std::path::{Path, PathBuf};

use data::text::Result;

/// A file of these bytes in a folder.
fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The same bytes compressed as the name's ending says.
fn compressed(ending: &str, bytes: &[u8]) -> Vec<u8> {
    match ending {
        "xz" => {
            let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        "gz" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        "zst" => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
        _ => bytes.to_vec(),
    }
}

/// Every document of a file.
fn read(path: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    data::text::documents(path, "text", &mut |text| {
        all.push(text.to_string());
        Ok(())
    })?;
    Ok(all)
}
