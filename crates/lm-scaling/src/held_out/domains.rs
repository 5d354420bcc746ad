//! Held-out text of several domains: bits per byte.
//!
//! `bpb = sum of -ln p / (ln 2 * bytes)` over the first [`BYTES`] bytes of each text, in windows of the row's context
//! side by side. An end of text stands in front, so that every token of the text is predicted once.

use std::path::Path;

use backend::{Backend, Tape};
use data::text::{Tokenizer, excerpt, held_out_file};
use train::Result;

use super::likelihood::{Sequence, likelihoods};
use super::start_token;

/// Bytes of a domain that are scored at most: about 130,000 tokens of the books' BPE.
const BYTES: usize = 512 << 10;

/// A domain's file without its ending, and its metric.
const DOMAINS: [(&str, &str); 7] = [
    ("c4", "bpb_c4"),
    ("medquad", "bpb_medquad"),
    ("openstax_biology", "bpb_openstax_biology"),
    ("tinystories", "bpb_tinystories"),
    ("wikipedia", "bpb_wikipedia"),
    ("wikitext2_test", "bpb_wikitext2_test"),
    ("wikitext2_valid", "bpb_wikitext2_valid"),
];

/// The metric of their mean.
const MEAN: &str = "bpb_domains";

/// The metrics.
pub(super) fn metrics() -> Vec<&'static str> {
    DOMAINS.map(|(_, metric)| metric).into_iter().chain([MEAN]).collect()
}

/// A domain, ready to be scored.
#[derive(Debug)]
pub(super) struct Domain {
    metric: &'static str,
    bytes: usize,
    windows: Vec<Sequence>,
}

/// The domains that are in the folder, `sha256` of what is scored by file, and why some are left out.
pub(super) fn load(
    folder: &Path,
    tokenizer: &Tokenizer,
    context: usize,
    sha256: &mut dyn FnMut(String, String),
    left_out: &mut Vec<String>,
) -> crate::Result<Vec<Domain>> {
    let start = start_token(tokenizer)?;
    let mut domains = Vec::new();
    for (stem, metric) in DOMAINS {
        let Some(path) = held_out_file(folder, stem, "txt") else {
            let path = folder.join(stem).with_extension("txt.xz");
            left_out.push(format!("without {metric} and {MEAN}: there is no {}", path.display()));
            continue;
        };
        let text = excerpt(&path, BYTES)?;
        sha256(format!("domains/{stem}.txt"), report::record::sha256(text.as_bytes()));
        let mut ids = vec![start];
        tokenizer.encode(&text, &mut ids)?;
        // Each window ends with the token that the next one starts with: predicted here, given there.
        let starts = (0..ids.len() - 1).step_by(context);
        let windows = starts.map(|at| Sequence { ids: ids[at..ids.len().min(at + context + 1)].to_vec(), from: 1 });
        domains.push(Domain { metric, bytes: text.len(), windows: windows.collect() });
    }
    Ok(domains)
}

/// Bits per byte of each domain, and their mean if none is left out. `rows` windows go at a time: as many as in an
/// evaluation, which is a shape that the backend has met.
pub(super) fn score(
    domains: &[Domain],
    record: &dyn Fn(usize, usize) -> backend::Result<Tape>,
    backend: &mut dyn Backend,
    shape: [usize; 2],
) -> Result<Vec<(&'static str, f64)>> {
    let mut found = Vec::new();
    for Domain { metric, bytes, windows } in domains {
        let windows: Vec<&Sequence> = windows.iter().collect();
        let nats: f64 = likelihoods(record, backend, &windows, shape)?.iter().map(|window| window.nats).sum();
        found.push((*metric, nats / (std::f64::consts::LN_2 * *bytes as f64)));
    }
    if found.len() == DOMAINS.len() {
        let sum: f64 = found.iter().map(|(_, bpb)| bpb).sum();
        found.push((MEAN, sum / DOMAINS.len() as f64));
    }
    Ok(found)
}
