//! The first training and test example of every setting at seed 0, as text: a changed draw is a changed file.

use std::fmt::Write;

use data::{IGNORE, Split};

use crate::tasks;

/// Rows of 16 positions, tokens above labels; `.` where a position has no label.
fn show(ids: &[u32], targets: &[u32]) -> String {
    let mut text = String::new();
    for (ids, targets) in ids.chunks(16).zip(targets.chunks(16)) {
        for (name, row) in [("ids", ids), ("targets", targets)] {
            write!(text, "{name:<7}").expect("a string takes text");
            for &token in row {
                let token = if token == IGNORE { ".".to_string() } else { token.to_string() };
                write!(text, " {token:>4}").expect("a string takes text");
            }
            text.push('\n');
        }
    }
    text
}

#[test]
fn first_examples_at_seed_0() {
    for (name, task) in tasks() {
        let mut text = String::new();
        for split in [Split::Train, Split::Test] {
            let example = task.example(0, split, 0).expect("valid settings");
            write!(text, "{split:?} 0\n{}\n", show(&example.ids, &example.targets)).expect("a string takes text");
        }
        insta::with_settings!({
            snapshot_path => "../snapshots",
            prepend_module_to_snapshot => false,
            description => format!("{task:?}"),
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name, text);
        });
    }
}
