//! Files by the ending of their names, decompressed while they are read. All decoders are Rust: a build needs no C.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Error, Result};

/// A file's decoded bytes.
pub(super) struct Decoded {
    /// What to read.
    pub(super) reader: Box<dyn BufRead>,
    /// The name's ending without that of the compression: `jsonl` of `a.jsonl.gz`.
    pub(super) ending: String,
    /// `xz`, `gzip`, `zstd`; none for plain files.
    pub(super) compression: Option<&'static str>,
}

/// Opens a file.
///
/// # Errors
/// [`Error::Io`]; damage shows while reading, see [`reading`].
pub(super) fn open(path: &Path) -> Result<Decoded> {
    let file = File::open(path).map_err(|e| Error::Io { path: path.into(), what: e.to_string() })?;
    let raw = BufReader::with_capacity(1 << 20, file);
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (stem, reader, compression): (_, Box<dyn Read>, _) = match name.rsplit_once('.') {
        Some((stem, "xz")) => (stem, Box::new(lzma_rust2::XzReader::new(raw, true)), Some("xz")),
        Some((stem, "gz")) => (stem, Box::new(flate2::bufread::MultiGzDecoder::new(raw)), Some("gzip")),
        Some((stem, "zst")) => (stem, Box::new(ZstdFrames::new(raw)), Some("zstd")),
        _ => (name.as_str(), Box::new(raw), None),
    };
    let ending = stem.rsplit_once('.').map(|(_, ending)| ending.to_string()).unwrap_or_default();
    Ok(Decoded { reader: Box::new(BufReader::with_capacity(1 << 20, reader)), ending, compression })
}

/// The error of a read that failed.
pub(super) fn reading(path: &Path, compression: Option<&'static str>, e: &std::io::Error) -> Error {
    match compression {
        Some(format) => Error::Compressed { path: path.into(), format, what: e.to_string() },
        None => Error::Io { path: path.into(), what: e.to_string() },
    }
}

/// Zstandard frames one after another, as parallel compressors write them; skippable ones are skipped.
struct ZstdFrames<R: BufRead> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Starts the next frame; false at the end of the file.
    fn start(&mut self) -> std::io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    std::io::copy(&mut self.source.by_ref().take(length.into()), &mut std::io::sink())?;
                }
                Err(e) => return Err(invalid(e)),
            }
        }
        Ok(false)
    }
}

fn invalid(e: impl ToString) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, e.to_string())
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if !self.in_frame {
                self.in_frame = self.start()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(invalid)?;
            }
            let n = self.decoder.read(out)?;
            if n > 0 || out.is_empty() {
                return Ok(n);
            }
            let (written, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if written.is_some() && written != found {
                return Err(invalid("the frame's checksum does not match"));
            }
            self.in_frame = false;
        }
    }
}
