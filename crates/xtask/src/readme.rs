//! `cargo xtask readme`: the README's result table, from paper/ and golden/records.
//!
//! One line per item of the paper: its first claim, what the record says of it, all verdicts counted, the command
//! that measured it and where. An item without a record says so.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use report::claim::{Verdict, judge_all};
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
    let mut lines =
        String::from("| item | the paper's claim | ours | verdicts | command and record |\n|---|---|---|---|---|\n");
    for (id, ..) in EMBEDDED.iter().filter(|(id, ..)| *id != "setup") {
        let item = item(id)?;
        let title = &item.title;
        let recorded = cli::record_names(Path::new("golden"), id)?;
        let line = match recorded.first() {
            None => {
                let says = item.claims.first().map_or("", |claim| claim.says.as_str());
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
    let Some(first) = judged.iter().find(|j| j.verdict != Verdict::Skip).or(judged.first()) else {
        bail!("paper/{}.toml has no claim", item.id);
    };
    let count = |verdict| judged.iter().filter(|j| j.verdict == verdict).count();
    let counts = format!("{} ok, {} off, {} skip", count(Verdict::Ok), count(Verdict::Off), count(Verdict::Skip));
    let rev = record.source.git_rev.get(..7).unwrap_or(&record.source.git_rev);
    Ok(format!(
        "| {} | {} | {}: {} | {counts} | `{}`<br>{name}: {}, {rev}, {} |\n",
        item.title,
        first.says,
        first.verdict.word(),
        first.detail,
        record.command,
        record.device.name,
        record.date,
    ))
}
