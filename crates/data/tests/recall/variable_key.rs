//! Variable-key MQAR: the grammar of its sequences.

use std::collections::HashSet;
use std::ops::Range;

use data::{Example, IGNORE, Split, Task, VariableKeyMqar};
use proptest::prelude::*;

prop_compose! {
    /// Any valid setting whose keys have at most 4 tokens.
    pub(crate) fn variable_key()(
        fillers in 1u32..4,
        (continuing, ending) in (1u32..6, 1u32..6),
        key_lengths in prop_oneof![
            Just(vec![1]), Just(vec![0, 1]), Just(vec![1, 1, 1]), Just(vec![5, 0, 1]), Just(vec![1, 2, 3, 4, 0]),
        ],
        (pairs, spare_values) in (1u32..20, 0u32..20),
        (queries, room) in (1u32..30, 0u32..40),
    ) -> VariableKeyMqar {
        let longest = key_lengths.iter().rposition(|&f| f > 0).expect("a positive frequency") as u32 + 1;
        let keys: u32 = (0..).zip(&key_lengths).map(|(l, &f)| if f > 0 { continuing.pow(l) * ending } else { 0 }).sum();
        let pairs = pairs.min(keys);
        let len = pairs * (longest + 1) + queries * longest + room;
        VariableKeyMqar {
            fillers, continuing, ending, values: pairs + spare_values, key_lengths, pairs, queries, len,
            train_examples: None,
        }
    }
}

/// What a token can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Filler,
    Continuing,
    Ending,
    Value,
}

fn kind(mqar: &VariableKeyMqar, id: u32) -> Kind {
    match id {
        id if id < mqar.fillers => Kind::Filler,
        id if id < mqar.fillers + mqar.continuing => Kind::Continuing,
        id if id < mqar.fillers + mqar.continuing + mqar.ending => Kind::Ending,
        _ => Kind::Value,
    }
}

/// The keys of a sequence, found from their ends: an ending symbol and the continuing symbols before it.
fn keys(mqar: &VariableKeyMqar, ids: &[u32]) -> Vec<Range<usize>> {
    let ends = (0..ids.len()).filter(|&t| kind(mqar, ids[t]) == Kind::Ending);
    let start = |end| (0..end).rev().find(|&t| kind(mqar, ids[t]) != Kind::Continuing).map_or(0, |t| t + 1);
    ends.map(|end| start(end)..end + 1).collect()
}

/// In how many ways a sequence can be cut into fillers, values and `continuing* ending` keys of an allowed length.
fn parses(mqar: &VariableKeyMqar, ids: &[u32]) -> u64 {
    let is_key = |unit: &[u32]| {
        let (last, before) = unit.split_last().expect("a unit has a token");
        mqar.key_lengths.get(before.len()).is_some_and(|&frequency| frequency > 0)
            && kind(mqar, *last) == Kind::Ending
            && before.iter().all(|&id| kind(mqar, id) == Kind::Continuing)
    };
    let is_single = |unit: &[u32]| unit.len() == 1 && matches!(kind(mqar, unit[0]), Kind::Filler | Kind::Value);
    let mut ways = vec![1];
    for end in 1..=ids.len() {
        let first = end.saturating_sub(mqar.key_lengths.len());
        let cut = |start: &usize| is_key(&ids[*start..end]) || is_single(&ids[*start..end]);
        ways.push((first..end).filter(cut).map(|start| ways[start]).sum());
    }
    ways[ids.len()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn sequences_follow_the_grammar_in_one_way(mqar in variable_key(), seed: u64, index: u64) {
        let task = Task::VariableKeyMqar(mqar.clone());
        let Example { ids, targets } = task.example(seed, Split::Train, index).expect("valid settings");
        prop_assert_eq!(parses(&mqar, &ids), 1);

        let (pairs, queries) = (mqar.pairs as usize, mqar.queries as usize);
        let keys = keys(&mqar, &ids);
        prop_assert_eq!(keys.len(), pairs + queries);
        let (context, asked) = keys.split_at(pairs);

        // Context: key, value, key, value, ... from the first position on, all different.
        let mut at = 0;
        for key in context {
            prop_assert_eq!(key.start, at);
            prop_assert_eq!(kind(&mqar, ids[key.end]), Kind::Value);
            at = key.end + 1;
        }
        prop_assert!(ids[at..].iter().all(|&id| kind(&mqar, id) != Kind::Value));
        let known: Vec<&[u32]> = context.iter().map(|key| &ids[key.clone()]).collect();
        let values: Vec<u32> = context.iter().map(|key| ids[key.end]).collect();
        prop_assert_eq!(known.iter().collect::<HashSet<_>>().len(), pairs);
        prop_assert_eq!(values.iter().collect::<HashSet<_>>().len(), pairs);

        // Queries: each label on a known key's last token, and nowhere else.
        let mut labels = vec![IGNORE; ids.len()];
        let mut pass = HashSet::new();
        for key in asked {
            let pair = known.iter().position(|&known| known == &ids[key.clone()]).expect("a query's key is known");
            labels[key.end - 1] = values[pair];
            prop_assert!(pass.insert(pair), "a key is asked twice in a pass");
            if pass.len() == pairs {
                pass.clear();
            }
        }
        prop_assert_eq!(labels, targets);
    }

    /// Length frequencies hold while keys last: with plenty of keys, each length's share is its frequency.
    #[test]
    fn key_lengths_have_their_frequencies(seed: u64) {
        let mqar = VariableKeyMqar {
            fillers: 1, continuing: 40, ending: 2000, values: 400, key_lengths: vec![1, 2, 1], pairs: 400, queries: 1,
            len: 1603, train_examples: None,
        };
        let ids = Task::VariableKeyMqar(mqar.clone()).example(seed, Split::Test, 0).expect("valid settings").ids;
        let twos = keys(&mqar, &ids)[..400].iter().filter(|key| key.len() == 2).count();
        // Half of 400, give or take six standard deviations of 10.
        prop_assert!((140..=260).contains(&twos), "{twos} of 400");
    }
}
