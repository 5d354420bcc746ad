//! The table for a README.

use super::{Line, Table, level, mark};

pub(super) fn render(table: &Table) -> String {
    let mut out = format!("**{}**\n\n", table.title);
    if !table.caption.is_empty() {
        out += &format!("Paper: \"{}\"\n\n", table.caption);
    }
    let metrics = table.shown_metrics();
    let named = metrics.len() > 1;
    if let [one] = metrics.as_slice() {
        out += &format!("{}; median [min–max], solved/seeds\n\n", one.title());
    }
    let origins = table.origins().join("; ");
    if !origins.is_empty() {
        out += &format!("{origins}\n\n");
    }
    let mut heads = vec!["row".to_string()];
    heads.extend(named.then(|| "metric".to_string()));
    heads.push("paper".into());
    heads.extend(table.recorded.is_some().then(|| "recorded".to_string()));
    heads.extend(table.run.is_some().then(|| "this run".to_string()));
    heads.push("verdict".into());
    out += &line(&heads);
    let first = if named { "---|---|" } else { "---|" };
    let numbers = heads.len() - if named { 3 } else { 2 };
    out += &format!("|{first}{}---|\n", "--:|".repeat(numbers));

    let footnotes = table.footnotes();
    let mut group = "";
    for one in table.shown() {
        if one.group != group {
            group = &one.group;
            let mut heading = vec![format!("**{group}**")];
            heading.resize(heads.len(), String::new());
            out += &line(&heading);
        }
        let metric = &table.metrics[one.metric];
        let mut cells = vec![one.label.clone()];
        cells.extend(named.then(|| metric.title()));
        cells.push(paper(one, &footnotes));
        for (shown, summary) in [(table.recorded.is_some(), one.recorded), (table.run.is_some(), one.run)] {
            cells.extend(shown.then(|| summary.map(|s| s.text(metric)).unwrap_or_else(|| "-".into())));
        }
        cells.push(one.verdict.map(|verdict| verdict.word().to_string()).unwrap_or_default());
        out += &line(&cells);
    }
    out.push('\n');
    let legend = table.legend();
    if !legend.is_empty() {
        out += &format!("Grades: {}.\n\n", legend.join("; "));
    }
    for (place, note) in footnotes.iter().enumerate() {
        out += &format!("- \\[{}\\] {note}\n", place + 1);
    }
    for note in &table.notes {
        out += &format!("- {note}\n");
    }
    out += &format!("\n{}\n\n", table.tally());
    for claim in table.claims.iter().filter(|claim| claim.applies) {
        let (word, id, kind) = (claim.verdict.word(), &claim.id, claim.kind);
        out += &format!("- **{word}** {} (`{id}`, {kind}): {}\n", claim.says, claim.detail);
    }
    if table.judged_over_seeds() {
        out += &format!("\n{}\n", level());
    }
    out
}

fn line(cells: &[String]) -> String {
    let escaped = cells.iter().map(|cell| cell.replace('|', "\\|"));
    format!("| {} |\n", escaped.collect::<Vec<_>>().join(" | "))
}

fn paper(one: &Line, footnotes: &[&str]) -> String {
    let Some(number) = &one.paper else {
        return String::new();
    };
    let mark = mark(number, footnotes).replace('[', " \\[").replace(']', "\\]");
    number.shown() + &mark
}
