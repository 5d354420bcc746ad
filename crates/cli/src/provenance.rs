//! Which source and command produced a run.

use report::record::{Source, sha256};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names the commit where git cannot, or names another: a copied tree or a copied binary. The value is that of
/// `git describe --always --dirty --abbrev=40 --exclude '*'`.
const REV_VARIABLE: &str = "REPRODUCE_GIT_REV";

/// The Cargo.lock that this program was built with.
const LOCKFILE: &[u8] = include_bytes!("../../../Cargo.lock");

/// Today in UTC, as `2026-01-31`.
pub fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    date(since.as_secs() / 86_400)
}

/// The date so many days after 1970-01-01: years of 365.2425 days that begin in March, so that leap days come last.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, day) = (year + era * 400 + u64::from(month >= 10), day - (153 * month + 2) / 5 + 1);
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{year:04}-{month:02}-{day:02}")
}

/// The source of this program: commit, whether the tree differs from it, compiler and lockfile.
pub fn source() -> Source {
    let lockfile_sha256 = sha256(LOCKFILE);
    let described =
        std::env::var(REV_VARIABLE).ok().filter(|rev| !rev.trim().is_empty()).or_else(|| described(&lockfile_sha256));
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
const ALONE: [&str; 6] = ["--resume", "--keep-checkpoints", "--quiet", "-q", "--verbose", "-v"];
/// Flags whose values are places of this machine, and the word that stands for each.
const PLACES: [(&str, &str); 2] = [("--data", "DATA"), ("--peer", "PEER.csv")];

/// The command that measures the same again: the package, and the flags that change a number; `reads_data` says that it
/// needs the folder of prepared texts, which may be named by the environment alone.
pub(crate) fn command(item: &str, args: &[String], reads_data: bool) -> String {
    let (mut flags, mut names_data) = (String::new(), false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.split('=').next().unwrap_or_default();
        let place = PLACES.iter().find(|(flag, _)| *flag == name);
        if let Some((flag, word)) = place {
            flags += &format!(" {flag} {word}");
            names_data |= *flag == "--data";
        }
        if place.is_some() || WITH_VALUE.contains(&name) {
            if name == arg {
                args.next();
            }
        } else if !ALONE.contains(&arg.as_str()) {
            flags += &format!(" {}", quoted(arg));
        }
    }
    if reads_data && !names_data {
        flags += " --data DATA";
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
    fn days_have_dates() {
        let of = [(0, "1970-01-01"), (11_016, "2000-02-29"), (11_017, "2000-03-01"), (20_454, "2026-01-01")];
        assert!(of.iter().all(|(days, text)| date(*days) == *text), "{:?}", of.map(|(days, _)| date(days)));
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
            false,
        );
        assert_eq!(shown, "cargo run --release -p reproduce-table-3 -- --scale small --seeds 3");
        assert_eq!(command("table-3", &args("--out=/x"), false), "cargo run --release -p reproduce-table-3");
        assert_eq!(
            command("x", &["--rows".into(), "a b".into()], false),
            "cargo run --release -p reproduce-x -- --rows 'a b'"
        );
    }

    #[test]
    fn places_of_this_machine_are_words_in_the_command() {
        for (typed, reads_data, flags) in [
            (vec!["--data", "/mnt/a b", "--rows", "a"], true, " --data DATA --rows a"),
            (vec!["--data=/mnt/a"], true, " --data DATA"),
            (vec!["--rows", "a"], true, " --rows a --data DATA"),
            (vec!["--peer", "/tmp/p.csv"], false, " --peer PEER.csv"),
            (vec!["--peer=/tmp/p.csv", "-q"], false, " --peer PEER.csv"),
        ] {
            let typed: Vec<String> = typed.into_iter().map(String::from).collect();
            let shown = command("x", &typed, reads_data);
            assert_eq!(shown, format!("cargo run --release -p reproduce-x --{flags}"), "{typed:?}");
        }
    }
}
