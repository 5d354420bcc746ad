//! Files that give their name to new ones and are not lost.

use std::io::Result;
use std::path::{Path, PathBuf};

/// Renames `NAME.EXT` to `NAME.old-N.EXT`, N being the first number that is free, and returns the new path; none if there
/// is no such file.
///
/// # Errors
/// If the file system refuses.
pub fn set_aside(path: &Path) -> Result<Option<PathBuf>> {
    if !path.exists() {
        return Ok(None);
    }
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, ending) = (part(path.file_stem()), part(path.extension()));
    let old = |number: u32| path.with_file_name(format!("{stem}.old-{number}.{ending}"));
    let mut number = 1;
    while old(number).exists() {
        number += 1;
    }
    std::fs::rename(path, old(number))?;
    Ok(Some(old(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.none.seed-0.safetensors");
        assert_eq!(set_aside(&path).unwrap(), None);
        for number in 1..4 {
            std::fs::write(&path, number.to_string()).unwrap();
            let old = folder.path().join(format!("a.none.seed-0.old-{number}.safetensors"));
            assert_eq!(set_aside(&path).unwrap(), Some(old));
        }
        let read = |number: u32| folder.path().join(format!("a.none.seed-0.old-{number}.safetensors"));
        assert_eq!([1, 2, 3].map(|n| std::fs::read_to_string(read(n)).unwrap()), ["1", "2", "3"]);
        assert!(!path.exists());
    }
}
