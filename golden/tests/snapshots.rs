//! The folder of snapshots as a whole.

use golden::{SNAPSHOTS, snapshots_of};
use report::paper;

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
