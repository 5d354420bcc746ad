//! The recall tasks: what every example must satisfy, that its labels can be answered, and what it looks like.

mod config;
mod oracle;
mod properties;
mod shortcuts;
mod snapshots;
mod splits;
mod variable_key;

use std::collections::BTreeMap;

use data::Task;

/// The settings of `tests/tasks.toml` by name.
fn tasks() -> BTreeMap<String, Task> {
    toml::from_str(include_str!("../tasks.toml")).expect("tasks.toml parses")
}

/// One of them.
fn task(name: &str) -> Task {
    tasks().remove(name).expect("a name of tasks.toml")
}
