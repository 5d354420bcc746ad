//! `cargo xtask readme`: the README's result table, from paper/ and golden/records.
//!
//! One line per item of the paper: its first claim, the paper's before a bar of ours, what the record says of it, all
//! verdicts counted, the command that measured it and where. An item without a record says so.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use report::claim::{Claim, Judged, Verdict, judge_all};
use report::measured::Measured;
use report::paper::{EMBEDDED, Item, item};
use report::record::{Run, read};

const BEGIN: &str = "<!-- results: cargo xtask readme -->\n";
const END: &str = "<!-- end of results -->\n";

/// Writes the table between the README's marks, or with `check` fails if it is not what stands there.
pub(crate) fn run(check: bool) -> Result<()> {
    let text = fs::read_to_string("README.md").context("README.md cannot be read: run from the repository root")?;
    let (before, rest) = text.split_once(BEGIN).context("README.md lacks the mark that begins the results")?;
    let (_, after) = rest.split_once(END).context("README.md lacks the mark that ends the results")?;
    let fresh = format!("{before}{BEGIN}{}{END}{after}", table()?);
    if check {
        ensure!(fresh == text, "the README's results are not those of golden/records: run cargo xtask readme");
        return Ok(());
    }
    report::record::write_atomic(Path::new("README.md"), fresh.as_bytes())?;
    Ok(())
}

fn table() -> Result<String> {
    let mut lines = String::from("| item | claim | ours | verdicts | command and record |\n|---|---|---|---|---|\n");
    for (id, ..) in EMBEDDED.iter().filter(|(id, ..)| *id != "setup") {
        let item = item(id)?;
        let title = &item.title;
        let recorded = cli::record_names(Path::new("golden"), id)?;
        let line = match recorded.first() {
            None => {
                let first = item.claims.iter().find(|claim| !claim.ours).or(item.claims.first());
                let says = first.map(|claim| format!("{} (at scale {})", claim.says, claim.scales.join(", ")));
                let says = says.unwrap_or_default();
                format!("| {title} | {says} | not recorded | | `cargo run -p reproduce-{id}` |\n")
            }
            Some(name) => recorded_line(&item, name)?,
        };
        lines += &line;
    }
    Ok(lines)
}

fn recorded_line(item: &Item, name: &str) -> Result<String> {
    let Run { record, metrics, .. } = read(&Path::new("golden/records").join(name))?;
    let judged = judge_all(item, &Measured::of(item, &metrics), &record.scale, &record.device.kind);
    let claims: Vec<(&Claim, &Judged)> = item.claims.iter().zip(&judged).collect();
    let Some((claim, first)) = headline(&claims) else {
        bail!("paper/{}.toml has no claim", item.id);
    };
    let whose = if claim.ours { " (a bar of ours)" } else { "" };
    let rev = record.source.git_rev.get(..7).unwrap_or(&record.source.git_rev);
    Ok(format!(
        "| {} | {}{whose} | {}: {} | {} | `{}`<br>{name}: {}, {rev}, {} |\n",
        item.title,
        first.says,
        first.verdict.word(),
        first.detail,
        counts(&claims),
        record.command,
        record.device.name,
        record.date,
    ))
}

/// The first judged claim of the paper, else the first judged one, else the first.
fn headline<'a>(claims: &[(&'a Claim, &'a Judged)]) -> Option<(&'a Claim, &'a Judged)> {
    let judged = |ours: bool| claims.iter().find(|(c, j)| j.verdict != Verdict::Skip && c.ours == ours);
    judged(false).or(judged(true)).or(claims.first()).copied()
}

/// `paper: 2 ok, 0 off; ours: 0 ok, 2 off; 3 skip`: the paper's claims apart from bars of ours, as far as there are any.
fn counts(claims: &[(&Claim, &Judged)]) -> String {
    let count = |ours: bool, verdict| claims.iter().filter(|(c, j)| c.ours == ours && j.verdict == verdict).count();
    let of = |name: &str, ours: bool| {
        let any = claims.iter().any(|(claim, _)| claim.ours == ours);
        any.then(|| format!("{name}: {} ok, {} off; ", count(ours, Verdict::Ok), count(ours, Verdict::Off)))
    };
    let parts = [of("paper", false), of("ours", true)].into_iter().flatten().collect::<String>();
    format!("{parts}{} skip", count(false, Verdict::Skip) + count(true, Verdict::Skip))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims of table 4 with verdicts in order: two of the paper's, then bars of ours.
    fn with(verdicts: &[Verdict], check: impl Fn(&[(&Claim, &Judged)])) {
        let item = item("table-4").unwrap();
        let mut judged = judge_all(&item, &Measured::default(), "small", "cuda");
        judged.iter_mut().zip(verdicts).for_each(|(judged, verdict)| judged.verdict = *verdict);
        assert_eq!(item.claims.iter().map(|c| c.ours).take(3).collect::<Vec<_>>(), [false, false, true]);
        check(&item.claims.iter().zip(&judged).collect::<Vec<_>>());
    }

    #[test]
    fn bars_of_ours_are_counted_apart_and_do_not_head() {
        use Verdict::{Off, Ok, Skip};
        with(&[Skip, Ok, Off, Off], |claims| {
            assert_eq!(counts(&claims[..5]), "paper: 1 ok, 0 off; ours: 0 ok, 2 off; 2 skip");
            assert_eq!(headline(claims).unwrap().0.id, "all-linear");
        });
        with(&[Skip, Skip, Skip, Ok], |claims| assert!(headline(claims).unwrap().0.ours));
        with(&[], |claims| assert_eq!(headline(claims).unwrap().0.id, "qkv"));
        with(&[], |claims| assert_eq!(counts(&claims[..2]), "paper: 0 ok, 0 off; 2 skip"));
    }
}
