//! Which source and command produced a run.

use report::record::{Source, sha256};
use std::path::Path;
use std::process::Command;

/// Names the commit where git cannot: a copied tree or a copied binary. The value is that of
/// `git describe --always --dirty --abbrev=40 --exclude '*'`.
const REV_VARIABLE: &str = "REPRODUCE_GIT_REV";

/// The Cargo.lock that this program was built with.
const LOCKFILE: &[u8] = include_bytes!("../../../Cargo.lock");

/// The source of this program: commit, whether the tree differs from it, compiler and lockfile.
pub fn source() -> Source {
    let lockfile_sha256 = sha256(LOCKFILE);
    let described = described(&lockfile_sha256).or_else(|| std::env::var(REV_VARIABLE).ok());
    let (git_rev, dirty) = revision(described.as_deref());
    Source { git_rev, dirty, rustc: env!("BUILT_WITH_RUSTC").into(), lockfile_sha256 }
}

/// `<commit>` or `<commit>-dirty` taken apart.
fn revision(described: Option<&str>) -> (String, Option<bool>) {
    match described.map(str::trim).filter(|text| !text.is_empty()) {
        None => ("unknown".into(), None),
        Some(text) => match text.strip_suffix("-dirty") {
            Some(rev) => (rev.into(), Some(true)),
            None => (text.into(), Some(false)),
        },
    }
}

/// The commit of the work tree around the current folder, if its Cargo.lock is the one built in: the commit of some
/// other project would be worse than none.
fn described(lockfile_sha256: &str) -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let lockfile = std::fs::read(Path::new(&top).join("Cargo.lock")).ok()?;
    if sha256(&lockfile) != lockfile_sha256 {
        return None;
    }
    git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    Some(text).filter(|text| !text.is_empty())
}

/// Flags that change no number: with a value, and without.
const WITH_VALUE: [&str; 3] = ["--out", "--time-budget", "--format"];
const ALONE: [&str; 5] = ["--resume", "--quiet", "-q", "--verbose", "-v"];

/// The command that measures the same again: the package, and the flags that change a number.
pub(crate) fn command(item: &str, args: &[String]) -> String {
    let mut flags = String::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.split('=').next().unwrap_or_default();
        if WITH_VALUE.contains(&name) {
            if name == arg {
                args.next();
            }
        } else if !ALONE.contains(&arg.as_str()) {
            flags += &format!(" {}", quoted(arg));
        }
    }
    let flags = if flags.is_empty() { flags } else { format!(" --{flags}") };
    format!("cargo run --release -p reproduce-{item}{flags}")
}

/// An argument as a shell takes it.
fn quoted(arg: &str) -> String {
    let plain = !arg.is_empty() && arg.chars().all(|c| c.is_ascii_alphanumeric() || "-_.,:/=".contains(c));
    if plain { arg.into() } else { format!("'{}'", arg.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_a_commit_and_whether_it_is_dirty() {
        assert_eq!(revision(Some("abc-dirty\n")), ("abc".into(), Some(true)));
        assert_eq!(revision(Some("abc")), ("abc".into(), Some(false)));
        assert_eq!(revision(Some("")), ("unknown".into(), None));
        assert_eq!(revision(None), ("unknown".into(), None));
    }

    #[test]
    fn the_source_is_this_one() {
        let source = source();
        assert!(source.rustc.starts_with("rustc 1."), "{}", source.rustc);
        assert_eq!(source.lockfile_sha256.len(), 64);
    }

    #[test]
    fn the_command_keeps_the_flags_that_change_a_number() {
        let args = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
        let shown = command(
            "table-3",
            &args("--scale small --out /data/x --resume --time-budget 9m --format=json -v --seeds 3"),
        );
        assert_eq!(shown, "cargo run --release -p reproduce-table-3 -- --scale small --seeds 3");
        assert_eq!(command("table-3", &args("--out=/x")), "cargo run --release -p reproduce-table-3");
        assert_eq!(
            command("x", &["--rows".into(), "a b".into()]),
            "cargo run --release -p reproduce-x -- --rows 'a b'"
        );
    }
}
