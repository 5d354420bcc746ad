//! The folder of snapshots as a whole.

use golden::{SNAPSHOTS, Tolerance, snapshots_of};
use report::paper;

/// Verdicts are judged on what is compared, so a claim on a metric left out would be skipped for ever.
#[test]
fn no_claim_at_smoke_on_a_cpu_is_on_a_metric_left_out() {
    let widths = Tolerance::parse(include_str!("../widths.toml")).unwrap();
    let applies = |claim: &report::claim::Claim| {
        claim.scales.iter().any(|scale| scale == "smoke") && claim.devices.iter().any(|device| device == "cpu")
    };
    for (id, ..) in paper::EMBEDDED {
        for claim in paper::item(id).unwrap().claims.iter().filter(|claim| applies(claim)) {
            assert!(!widths.leaves_out(&claim.metric), "{id}: {} is on {}", claim.id, claim.metric);
        }
    }
}

/// Every file under snapshots is of an item, and one that its tests claim.
#[test]
fn no_snapshot_is_an_orphan() {
    let claimed: Vec<String> =
        paper::EMBEDDED.iter().flat_map(|(id, ..)| snapshots_of(&paper::item(id).unwrap())).collect();
    for entry in std::fs::read_dir(SNAPSHOTS).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        // Those of records are checked beside the records.
        if name.starts_with("record.") {
            continue;
        }
        assert!(claimed.contains(&name), "golden/snapshots/{name} belongs to no test: remove it");
    }
}
