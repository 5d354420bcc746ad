//! Golden snapshots.
