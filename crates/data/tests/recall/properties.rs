//! What holds for every valid setting, seed, split and index.

use std::collections::HashSet;

use data::{
    CompositionalMqar, Example, Filler, FuzzyRecall, IGNORE, InContextRecall, Memorization, Mqar, NoisyRecall,
    SelectiveCopying, SelectiveKeyMqar, Split, Task,
};
use proptest::prelude::*;

use crate::oracle::{answers, learn};
use crate::variable_key::variable_key;

fn filler() -> impl Strategy<Value = Filler> {
    prop_oneof![Just(Filler::Random), Just(Filler::Zero)]
}

fn power() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(0.01), Just(1.0)]
}

prop_compose! {
    fn mqar()(pairs in 1u32..12, symbols in 0u32..40, room in 0u32..40, power in power(), filler in filler())
        -> Task {
        let (vocab, len) = (2 * pairs + 2 + symbols, 4 * pairs + room);
        Task::Mqar(Mqar { vocab, len, pairs, power, filler, train_examples: None })
    }
}

prop_compose! {
    fn compositional()(grid in 1u32..5, symbols in 0u32..40, room in 0u32..40, power in power(), filler in filler())
        -> Task {
        let (vocab, len) = (3 * grid * grid + 3 + symbols, 6 * grid * grid + room);
        Task::CompositionalMqar(CompositionalMqar { vocab, len, grid, power, filler, train_examples: None })
    }
}

prop_compose! {
    fn selective_key()(
        fillers in 1u32..4,
        content in 1u32..8,
        (reach, spare_ending) in (1u32..4, 0u32..6),
        (pairs, spare_values) in (1u32..20, 0u32..20),
        (queries, room) in (1u32..30, 0u32..40),
    ) -> Task {
        let ending = reach + spare_ending;
        let pairs = pairs.min(ending * content);
        Task::SelectiveKeyMqar(SelectiveKeyMqar {
            fillers, content, ending, values: pairs + spare_values, reach, pairs, queries,
            len: pairs * (reach + 2) + queries * (reach + 1) + room, train_examples: None,
        })
    }
}

prop_compose! {
    fn mad()(
        symbols in 2u32..40,
        half in 2u32..80,
        noise_vocab in 1u32..20,
        noise in 0.0f64..0.99,
        (max_key_len, max_value_len) in (1u32..4, 1u32..4),
        copies in 1u32..20,
        train_examples in prop_oneof![Just(None), (1u64..50).prop_map(Some)],
        which in 0..5,
    ) -> Task {
        let (vocab, len) = (symbols, 2 * half);
        match which {
            0 => Task::InContextRecall(InContextRecall { vocab, len, train_examples }),
            1 => {
                let vocab = vocab + noise_vocab;
                Task::NoisyRecall(NoisyRecall { vocab, noise_vocab, noise, len, train_examples })
            }
            2 => {
                let vocab = 2 * max_key_len.max(max_value_len) + symbols;
                let len = 3 * (max_key_len + max_value_len) + half;
                Task::FuzzyRecall(FuzzyRecall { vocab, len, max_key_len, max_value_len, train_examples })
            }
            3 => {
                let (vocab, len) = (symbols + 1, 2 * copies + 1 + half);
                Task::SelectiveCopying(SelectiveCopying { vocab, len, copies, train_examples })
            }
            _ => Task::Memorization(Memorization { vocab: vocab + 1, len, train_examples }),
        }
    }
}

fn any_task() -> impl Strategy<Value = Task> {
    prop_oneof![mqar(), compositional(), variable_key().prop_map(Task::VariableKeyMqar), selective_key(), mad(), mad()]
}

fn split() -> impl Strategy<Value = Split> {
    prop_oneof![Just(Split::Train), Just(Split::Test)]
}

/// The number of labels of an example, where the settings fix it.
fn label_count(task: &Task, split: Split) -> Option<u32> {
    match (task, split) {
        (Task::Mqar(mqar), _) => Some(mqar.pairs),
        (Task::VariableKeyMqar(mqar), _) => Some(mqar.queries),
        (Task::SelectiveKeyMqar(mqar), _) => Some(mqar.queries),
        (Task::CompositionalMqar(mqar), _) => Some(mqar.grid * mqar.grid),
        (Task::InContextRecall(InContextRecall { len, .. }), Split::Train) => Some(len - 1),
        (Task::NoisyRecall(NoisyRecall { len, .. }), Split::Train) => Some(len - 1),
        (Task::FuzzyRecall(recall), Split::Train) => Some(recall.len),
        (Task::InContextRecall(_) | Task::NoisyRecall(_) | Task::FuzzyRecall(_), Split::Test) => None,
        (Task::SelectiveCopying(copying), _) => Some(copying.copies),
        (Task::Memorization(memorization), _) => Some(memorization.len / 2),
    }
}

/// Whether training labels go beyond what the context determines.
fn trains_on_everything(task: &Task) -> bool {
    matches!(task, Task::InContextRecall(_) | Task::NoisyRecall(_) | Task::FuzzyRecall(_))
}

fn is_distinct<T: std::hash::Hash + Eq>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    items.into_iter().all(|item| seen.insert(item))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn examples_have_the_stated_shape(task in any_task(), seed: u64, split in split(), index: u64) {
        let example = task.example(seed, split, index).expect("valid settings");
        let Example { ids, targets } = &example;
        prop_assert_eq!(ids.len(), task.len());
        prop_assert_eq!(targets.len(), task.len());
        prop_assert!(ids.iter().all(|&id| (id as usize) < task.vocab()));
        prop_assert!(targets.iter().all(|&label| label == IGNORE || (label as usize) < task.vocab()));
        let labels = targets.iter().filter(|&&label| label != IGNORE).count();
        prop_assert!(labels > 0);
        if let Some(count) = label_count(&task, split) {
            prop_assert_eq!(labels, count as usize);
        }
        // The same call gives the same example.
        prop_assert_eq!(&example, &task.example(seed, split, index).expect("valid settings"));
    }

    #[test]
    fn a_batch_is_its_examples_in_order(
        task in any_task(), seed: u64, split in split(), start in 0u64..1000, count in 0usize..5,
    ) {
        let mut expected = Example::default();
        for index in start..start + count as u64 {
            let example = task.example(seed, split, index).expect("valid settings");
            expected.ids.extend(example.ids);
            expected.targets.extend(example.targets);
        }
        prop_assert_eq!(task.batch(seed, split, start, count), Ok(expected));
    }

    /// Every query's key is in the context and the label is that key's value.
    #[test]
    fn labels_follow_from_the_context(task in any_task(), seed: u64, split in split(), index: u64) {
        let split = if trains_on_everything(&task) { Split::Test } else { split };
        let Example { ids, targets } = task.example(seed, split, index).expect("valid settings");
        let predictions = answers(&task, &ids, &learn(&task, seed, 4));
        for (t, (&target, &prediction)) in targets.iter().zip(&predictions).enumerate() {
            // Four examples need not show every key of a map.
            let unlearnt = matches!(task, Task::Memorization(_)) && prediction == IGNORE;
            prop_assert!(target == IGNORE || unlearnt || target == prediction, "position {t}: {ids:?}");
        }
    }

    #[test]
    fn mqar_keys_and_values_are_distinct(task in mqar(), seed: u64, index: u64) {
        let Task::Mqar(mqar) = &task else { unreachable!() };
        let ids = task.example(seed, Split::Train, index).expect("valid settings").ids;
        let context = &ids[..2 * mqar.pairs as usize];
        prop_assert!(is_distinct(context));
        prop_assert!(context.iter().step_by(2).all(|key| (1..mqar.vocab / 2).contains(key)));
        prop_assert!(context.iter().skip(1).step_by(2).all(|value| (mqar.vocab / 2..mqar.vocab).contains(value)));
    }

    #[test]
    fn compositional_keys_fill_a_grid_and_values_are_distinct(task in compositional(), seed: u64, index: u64) {
        let Task::CompositionalMqar(mqar) = &task else { unreachable!() };
        let (third, grid) = (mqar.vocab / 3, mqar.grid as usize);
        let ids = task.example(seed, Split::Train, index).expect("valid settings").ids;
        let triples: Vec<&[u32]> = ids[..3 * grid * grid].chunks(3).collect();
        prop_assert!(is_distinct(triples.iter().map(|triple| &triple[..2])));
        prop_assert!(is_distinct(triples.iter().map(|triple| triple[2])));
        for (place, range) in [(0, 1..third), (1, third..2 * third), (2, 2 * third..mqar.vocab)] {
            prop_assert!(triples.iter().all(|triple| range.contains(&triple[place])));
        }
        for place in [0, 1] {
            prop_assert_eq!(triples.iter().map(|triple| triple[place]).collect::<HashSet<_>>().len(), grid);
        }
    }

    /// Blocks of content and an ending symbol with a value in the context; keys, as the ending symbol and where it
    /// points, and values distinct; every query a block labelled on its end.
    #[test]
    fn selective_keys_and_values_are_distinct(task in selective_key(), seed: u64, index: u64) {
        let Task::SelectiveKeyMqar(mqar) = &task else { unreachable!() };
        let Example { ids, targets } = task.example(seed, Split::Train, index).expect("valid settings");
        let content = mqar.fillers..mqar.fillers + mqar.content;
        let ending = content.end..content.end + mqar.ending;
        let (reach, end_of_context) = (mqar.reach as usize, (mqar.pairs * (mqar.reach + 2)) as usize);
        let units: Vec<&[u32]> = ids[..end_of_context].chunks(reach + 2).collect();
        for unit in &units {
            prop_assert!(unit[..reach].iter().all(|id| content.contains(id)));
            prop_assert!(ending.contains(&unit[reach]));
            prop_assert!(unit[reach + 1] >= ending.end);
        }
        let key = |block: &[u32]| {
            let last = block[reach];
            (last, block[reach - 1 - ((last - ending.start) % mqar.reach) as usize])
        };
        prop_assert!(is_distinct(units.iter().map(|unit| key(unit))));
        prop_assert!(is_distinct(units.iter().map(|unit| unit[reach + 1])));
        for t in end_of_context..ids.len() {
            prop_assert!(ids[t] < ending.end);
            prop_assert_eq!(ending.contains(&ids[t]), targets[t] != IGNORE);
            if ending.contains(&ids[t]) {
                prop_assert!(ids[t - reach..t].iter().all(|id| content.contains(id)));
            }
        }
    }

    /// The last query of MAD's in-context tasks is always scored.
    #[test]
    fn mad_scores_its_final_query(task in mad(), seed: u64, index: u64) {
        prop_assume!(trains_on_everything(&task));
        let Example { ids, targets } = task.example(seed, Split::Test, index).expect("valid settings");
        let last_label = targets.iter().rposition(|&label| label != IGNORE).expect("a label");
        // Fuzzy sequences end one token before the last value token; the other two show it.
        let shows_it = !matches!(task, Task::FuzzyRecall(_));
        prop_assert_eq!(last_label, ids.len() - 1 - usize::from(shows_it));
    }
}
