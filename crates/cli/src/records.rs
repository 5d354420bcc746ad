//! The recorded runs of `golden/records/<item>.<scale>.<device>/`.

use crate::Error;
use report::measured::Measured;
use report::paper::Item;
use report::record::{Run, read};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A recorded run.
pub(crate) struct Recorded {
    /// Its name, `<item>.<scale>.<device>`.
    pub(crate) name: String,
    /// The record itself.
    pub(crate) run: Run,
    /// Its values.
    pub(crate) measured: Measured,
    /// Why it no longer stands for today's source, from `golden/stale.toml`.
    pub(crate) stale: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StaleFile {
    /// The reason by record, `<item>.<scale>.<device>`.
    stale: BTreeMap<String, String>,
}

/// The nearest `golden` folder with records, from `from` upward.
pub(crate) fn golden(from: &Path) -> Option<PathBuf> {
    from.ancestors().map(|folder| folder.join("golden")).find(|golden| golden.join("records").is_dir())
}

/// The names `<item>.<scale>.<device>` of an item's records: the largest scale first, GPUs before CPUs.
pub fn names(golden: &Path, item: &str) -> Result<Vec<String>, Error> {
    let folder = golden.join("records");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let io = |e: std::io::Error| Error::config(format!("{}: {e}", folder.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if name.split('.').next() == Some(item) && name.split('.').count() == 3 {
            names.push(name);
        }
    }
    names.sort_by_key(|name| {
        let mut parts = name.split('.').skip(1);
        let (scale, device) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let size = ["paper", "small", "smoke"].iter().position(|s| *s == scale).unwrap_or(3);
        (size, ["cpu", "dfdx"].contains(&device), name.clone())
    });
    Ok(names)
}

/// The record to show: of the scale asked for or else the largest, on the device kind asked for.
pub(crate) fn find(
    golden: &Path,
    item: &Item,
    scale: Option<&str>,
    kind: Option<&str>,
) -> Result<Option<Recorded>, Error> {
    let names = names(golden, &item.id)?;
    for name in names.iter().filter(|name| scale.is_none_or(|scale| name.split('.').nth(1) == Some(scale))) {
        let run = read(&golden.join("records").join(name))?;
        if kind.is_none_or(|kind| kind == run.record.device.kind) {
            let measured = Measured::of(item, &run.metrics);
            return Ok(Some(Recorded { name: name.clone(), run, measured, stale: stale(golden, name)? }));
        }
    }
    Ok(None)
}

fn stale(golden: &Path, name: &str) -> Result<Option<String>, Error> {
    let path = golden.join("stale.toml");
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::config(format!("{}: {e}", path.display()))),
        Ok(text) => text,
    };
    let mut file: StaleFile = toml::from_str(&text).map_err(|e| Error::config(format!("{}: {e}", path.display())))?;
    Ok(file.stale.remove(name))
}
