//! The house rules that neither rustfmt nor clippy knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Packages that must not reach what computes.
const PURE: [&str; 2] = ["report", "cli"];
const COMPUTE: [&str; 3] = ["kernels", "backend", "model"];
/// Packages named in one manifest only.
const ALONE: [(&str, &str); 2] = [("dfdx", "reference"), ("cudarc", "kernels")];
const MAX_LINES: [(&str, usize); 3] = [("README.md", 150), (".rs", 500), (".cuh", 500)];
const MAX_BINARY: usize = 40;
/// Split, so that this file does not break its own rule.
const STUBS: [&str; 4] =
    [concat!("#[ig", "nore"), concat!("to", "do!("), concat!("unimpl", "emented!("), concat!("db", "g!(")];
const MACHINE: [&str; 2] = [concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Checks every rule and lists what breaks it.
pub(crate) fn run() -> Result<()> {
    let files = tracked()?;
    let mut broken = Vec::new();
    for path in &files {
        if let Ok(text) = fs::read_to_string(path) {
            lines(path, &text, &mut broken);
        }
    }
    manifests(&files, &mut broken)?;
    if broken.is_empty() {
        println!("tidy: {} files checked", files.len());
        return Ok(());
    }
    bail!("{} rules broken:\n  {}", broken.len(), broken.join("\n  "))
}

fn tracked() -> Result<Vec<String>> {
    let out = Command::new("git").args(["ls-files"]).output().context("git did not start")?;
    ensure!(out.status.success(), "not in a git checkout: tidy reads what git tracks");
    let listed = String::from_utf8(out.stdout)?;
    Ok(listed.lines().filter(|p| fs::exists(p).unwrap_or(false)).map(String::from).collect())
}

fn lines(path: &str, text: &str, broken: &mut Vec<String>) {
    let count = text.lines().count();
    for (suffix, max) in MAX_LINES {
        if path.ends_with(suffix) && count > max {
            broken.push(format!("{path}: {count} lines, {max} at most: split it by thing"));
        }
    }
    if path.starts_with("reproduce/") && path.ends_with("main.rs") && count > MAX_BINARY {
        broken.push(format!("{path}: {count} lines, {MAX_BINARY} at most: table logic belongs to its experiment"));
    }
    if path.ends_with(".rs") {
        for stub in STUBS.iter().filter(|s| text.contains(**s)) {
            broken.push(format!("{path}: {stub}"));
        }
    }
    for place in MACHINE.iter().filter(|m| text.contains(**m)) {
        broken.push(format!("{path}: {place}, a path of one machine"));
    }
}

/// Dependency rules: who is named where, what reaches what, which crate or dependency the map lacks.
fn manifests(files: &[String], broken: &mut Vec<String>) -> Result<()> {
    let map = fs::read_to_string("crates/README.md").context("crates/README.md is missing")?;
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files.iter().filter(|p| p.ends_with("Cargo.toml") && *p != "Cargo.toml") {
        let manifest: toml::Table = fs::read_to_string(path)?.parse().with_context(|| format!("{path} is no toml"))?;
        let name = manifest["package"]["name"].as_str().context("package.name is no string")?.to_string();
        let row = map.lines().find(|line| line.starts_with(&format!("| {name} |")));
        if path.starts_with("crates/") && row.is_none() {
            broken.push(format!("crates/README.md: no row for {name}"));
        }
        let names = |section: &str| -> BTreeSet<String> {
            manifest.get(section).and_then(|d| d.as_table()).map(|d| d.keys().cloned().collect()).unwrap_or_default()
        };
        for (package, home) in ALONE {
            if name != home && (names("dependencies").contains(package) || names("dev-dependencies").contains(package))
            {
                broken.push(format!("{path}: {package} belongs to crates/{home} alone"));
            }
        }
        let needed = names("dependencies");
        // The row's last cell, notes in brackets aside.
        let told = row.and_then(|row| row.trim_end_matches([' ', '|']).rsplit('|').next()).unwrap_or_default();
        let told: BTreeSet<&str> = told.split([',', '(']).map(str::trim).collect();
        let ours = |need: &str| row.is_some() && map.contains(&format!("| {need} |"));
        for missing in needed.iter().filter(|need| ours(need) && !told.contains(need.as_str())) {
            broken.push(format!("crates/README.md: the row of {name} lacks {missing}"));
        }
        needs.insert(name, needed);
    }
    for pure in PURE {
        let mut reached = BTreeSet::from([pure.to_string()]);
        let mut open = vec![pure.to_string()];
        while let Some(name) = open.pop() {
            let next = needs.get(&name).into_iter().flatten();
            open.extend(next.filter(|n| reached.insert((*n).clone())).cloned());
        }
        for compute in COMPUTE.iter().filter(|c| reached.contains(**c)) {
            broken.push(format!("crates/{pure}: reaches {compute}; tables must render without compute"));
        }
    }
    Ok(())
}
