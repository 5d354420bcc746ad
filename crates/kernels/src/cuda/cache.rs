//! Compiled kernels on disk: XDG_CACHE_HOME (or ~/.cache)/dynamic-short-conv/KEY.cubin, the image followed by its SHA-256.
//!
//! The key covers all sources, the defines, the architecture and the compiler. An entry is written beside its place and renamed;
//! one that does not match its hash is as good as absent. A cache that cannot be used costs a compilation, never an error.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::compile::Defines;
use super::error::CudaResult;
use super::source;

const HASH: usize = 32;

/// The name of a variant's entry.
pub(super) fn key(file: &str, defines: &Defines, arch: &str, compiler: (i32, i32)) -> CudaResult<String> {
    let mut hash = Sha256::new();
    hash.update(source::text(file)?.as_bytes());
    for (name, text) in source::headers()? {
        hash.update(name.as_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(format!("{file} {arch} {compiler:?} {defines}"));
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")))?;
    Some(base.join("dynamic-short-conv"))
}

/// The image of an entry that is whole.
pub(super) fn read(key: &str) -> Option<Vec<u8>> {
    whole(std::fs::read(folder()?.join(format!("{key}.cubin"))).ok()?)
}

fn whole(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let end = bytes.len().checked_sub(HASH)?;
    if end == 0 || Sha256::digest(&bytes[..end])[..] != bytes[end..] {
        return None;
    }
    bytes.truncate(end);
    Some(bytes)
}

fn sealed(image: &[u8]) -> Vec<u8> {
    [image, &Sha256::digest(image)[..]].concat()
}

/// Writes an entry, or leaves the cache as it was.
pub(super) fn write(key: &str, image: &[u8]) {
    let Some(folder) = folder() else { return };
    let temporary = folder.join(format!("{key}.{}", std::process::id()));
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&temporary, sealed(image)))
        .and_then(|()| std::fs::rename(&temporary, folder.join(format!("{key}.cubin"))));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_entry_is_absent() {
        let image = vec![7u8; 100];
        assert_eq!(whole(sealed(&image)), Some(image.clone()));
        for damage in [0, 50, 99, 131] {
            let mut bytes = sealed(&image);
            bytes[damage] ^= 1;
            assert_eq!(whole(bytes), None, "byte {damage}");
        }
        assert_eq!(whole(sealed(&image)[..90].to_vec()), None);
        assert_eq!(whole(Vec::new()), None);
    }

    #[test]
    fn the_key_covers_everything() {
        let defines = Defines::new(&[("W", 4)]);
        let base = key("sums.cu", &defines, "sm_90a", (13, 0)).unwrap();
        assert_eq!(base, key("sums.cu", &defines, "sm_90a", (13, 0)).unwrap());
        for other in [
            key("plan.cu", &defines, "sm_90a", (13, 0)),
            key("sums.cu", &Defines::new(&[("W", 3)]), "sm_90a", (13, 0)),
            key("sums.cu", &defines, "sm_80", (13, 0)),
            key("sums.cu", &defines, "sm_90a", (13, 1)),
        ] {
            assert_ne!(base, other.unwrap());
        }
    }
}
