//! The times of another implementation, measured in the same GPU run: what `kernels/peer_bench.py` wrote.

use std::path::Path;

const HEADER: &str = "case,fwd_us,fwdbwd_us,limit_fwd_us,limit_fwdbwd_us,copy_tbs";

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// The row it stands beside.
    pub case: String,
    /// Forward, microseconds.
    pub forward: f64,
    /// Forward and backward.
    pub both: f64,
}

/// The lines of a file; its limits are not read, since ours come from the same fewest bytes.
///
/// # Errors
/// The file or the line that does not read.
pub fn peers(path: &Path) -> Result<Vec<Peer>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(format!(
            "{}: the first line is not `{HEADER}`: write it with kernels/peer_bench.py",
            path.display()
        ));
    }
    let lines = lines.filter(|line| !line.trim().is_empty());
    lines.map(|line| parse(line).ok_or_else(|| format!("{}: not a peer's line: {line}", path.display()))).collect()
}

fn parse(line: &str) -> Option<Peer> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let [case, forward, both, _, _, _] = fields[..] else { return None };
    Some(Peer { case: case.into(), forward: forward.parse().ok()?, both: both.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_or_is_named() {
        let peer = Peer { case: "headwise-16".into(), forward: 58.6, both: 139.2 };
        assert_eq!(parse("headwise-16,58.6,139.2,50.2,128.4,3.006"), Some(peer));
        assert_eq!(parse("headwise-16,58.6"), None);
        assert!(peers(Path::new("/nowhere/peer.csv")).unwrap_err().contains("/nowhere/peer.csv"));
    }
}
