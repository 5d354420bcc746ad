//! Repository chores: tidy, golden accept, README table.
fn main() {}
