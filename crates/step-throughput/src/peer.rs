//! The peer's times: what `reproduce/table-4/torch_step.py` printed.

use std::path::Path;

/// One line of its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// The row it stands beside.
    pub row: String,
    /// Time of a step.
    pub ms_per_step: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Memory that its allocator held at most.
    pub peak_gib: f64,
}

/// The lines of `row,ms_per_step,tokens_per_second,peak_gib`.
///
/// # Errors
/// The file or the line that does not read.
pub fn peers(path: &Path) -> Result<Vec<Peer>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("row,"));
    lines.map(|line| parse(line).ok_or_else(|| format!("{}: not a peer's line: {line}", path.display()))).collect()
}

fn parse(line: &str) -> Option<Peer> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let [row, ms, tokens, gib] = fields[..] else { return None };
    Some(Peer {
        row: row.into(),
        ms_per_step: ms.parse().ok()?,
        tokens_per_second: tokens.parse().ok()?,
        peak_gib: gib.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_a_bad_one_is_named() {
        let file = std::env::temp_dir().join(format!("peer-{}.csv", std::process::id()));
        assert!(peers(&file).unwrap_err().starts_with(&file.display().to_string()));
        std::fs::write(&file, "row,ms_per_step,tokens_per_second,peak_gib\n150m.none,75.8,432000,16.1\n").unwrap();
        let peer = Peer { row: "150m.none".into(), ms_per_step: 75.8, tokens_per_second: 432_000.0, peak_gib: 16.1 };
        assert_eq!(peers(&file), Ok(vec![peer]));
        std::fs::write(&file, "150m.none,75.8\n").unwrap();
        assert!(peers(&file).unwrap_err().contains("150m.none,75.8"));
        std::fs::remove_file(&file).unwrap();
    }
}
