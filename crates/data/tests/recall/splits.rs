//! Examples are functions of (seed, split, index) that differ in each, and finite sets come back in shuffled epochs.

use std::collections::HashSet;

use data::{Example, Split, Task};

use crate::{task, tasks};

fn ids(task: &Task, seed: u64, split: Split, count: u64) -> Vec<Vec<u32>> {
    (0..count).map(|index| task.example(seed, split, index).expect("valid settings").ids).collect()
}

#[test]
fn splits_seeds_and_indices_differ() {
    for (name, task) in tasks() {
        let families = [(0, Split::Train), (0, Split::Test), (1, Split::Train), (1, Split::Test)];
        let all: Vec<Vec<u32>> = families.into_iter().flat_map(|(seed, split)| ids(&task, seed, split, 100)).collect();
        let distinct: HashSet<&Vec<u32>> = all.iter().collect();
        assert_eq!(distinct.len(), 400, "{name}: an example occurs twice");
    }
}

#[test]
fn training_labels_every_next_token_where_mad_does() {
    for name in ["in-context-recall", "noisy-recall", "fuzzy-recall"] {
        let task = task(name);
        for index in 0..50 {
            let Example { ids, targets } = task.example(2, Split::Train, index).expect("valid settings");
            assert_eq!(targets[..ids.len() - 1], ids[1..], "{name}");
        }
    }
}

#[test]
fn a_finite_training_set_comes_back_in_another_order() {
    let task = task("memorization");
    let epoch = |number: u64| -> Vec<Vec<u32>> {
        let batch = task.batch(4, Split::Train, 256 * number, 256).expect("valid settings");
        batch.ids.chunks(task.len()).map(<[u32]>::to_vec).collect()
    };
    let (first, tenth) = (epoch(0), epoch(9));
    assert_ne!(first, tenth);
    let (first, tenth): (HashSet<_>, HashSet<_>) = (first.into_iter().collect(), tenth.into_iter().collect());
    assert_eq!(first.len(), 256);
    assert_eq!(first, tenth);
    // The test set is not folded.
    let test: HashSet<Vec<u32>> = ids(&task, 4, Split::Test, 1280).into_iter().collect();
    assert_eq!(test.len(), 1280);
}

#[test]
fn memorization_seeds_have_different_maps_and_splits_the_same() {
    let task = task("memorization");
    let map = |seed, split| {
        let Example { ids, targets } = task.batch(seed, split, 0, 256).expect("valid settings");
        let mut pairs: Vec<(u32, u32)> =
            ids.chunks(2).zip(targets.chunks(2)).map(|(ids, targets)| (ids[0], targets[1])).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    };
    let train = map(0, Split::Train);
    // All 127 keys of V = 256, one value each, no value twice.
    assert_eq!(train.len(), 127);
    assert_eq!(train.iter().map(|&(_, value)| value).collect::<HashSet<_>>().len(), 127);
    assert_eq!(train, map(0, Split::Test));
    assert_ne!(train, map(1, Split::Train));
}
