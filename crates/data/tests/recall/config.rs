//! Config files in and out, and what the checks refuse.

use data::Task;

use crate::{task, tasks};

#[test]
fn settings_survive_a_round_trip() {
    for (name, task) in tasks() {
        assert!(name.starts_with(task.name()), "{name} holds a task named {}", task.name());
        let text = toml::to_string(&task).expect("a task is a table");
        assert_eq!(toml::from_str::<Task>(&text).as_ref(), Ok(&task), "{text}");
    }
}

#[test]
fn unknown_missing_and_untagged_fields_are_refused() {
    let refusal = |text: &str| toml::from_str::<Task>(text).expect_err(text).message().to_string();
    let valid = "vocab = 256\nlen = 32\n";
    let unknown = refusal(&format!("task = \"memorization\"\n{valid}length = 32"));
    assert!(unknown.starts_with("unknown field `length`"), "{unknown}");
    let missing = refusal("task = \"memorization\"\nvocab = 256");
    assert!(missing.starts_with("missing field `len`"), "{missing}");
    let untagged = refusal(valid);
    assert!(untagged.starts_with("missing field `task`"), "{untagged}");
    let compression = refusal(&format!("task = \"compression\"\n{valid}"));
    assert!(compression.starts_with("unknown variant `compression`"), "{compression}");
}

/// The settings of `tasks.toml` with some replaced.
fn with(name: &str, changes: &str) -> Task {
    let mut table = toml::Table::try_from(task(name)).expect("a task is a table");
    table.extend(changes.parse::<toml::Table>().expect("changes parse"));
    table.try_into().expect("the changes fit the task")
}

#[test]
fn refusals_tell_the_values_and_the_remedy() {
    let cases = [
        ("mqar", "len = 0", "mqar: len is 0: give at least 1"),
        ("mqar", "train_examples = 0", "mqar: train_examples is 0: give at least 1"),
        ("mqar", "pairs = 0", "mqar: pairs is 0: give at least 1"),
        ("mqar", "power = 1.5", "mqar: power = 1.5 is out of range: give a value from 0 to 1"),
        ("mqar", "power = nan", "mqar: power = NaN is out of range: give a value from 0 to 1"),
        (
            "mqar",
            "vocab = 17",
            "mqar: 8 different keys are needed, but there are only 7: raise vocab to at least 2 * pairs + 2, or lower \
             pairs",
        ),
        (
            "mqar",
            "len = 31",
            "mqar: len 31 is too short: 8 pairs and as many query slots of two take up to 32 positions; raise len or \
             lower pairs",
        ),
        (
            "compositional-mqar",
            "vocab = 11",
            "compositional-mqar: 3 different first key tokens are needed, but there are only 2: raise vocab to at \
             least 3 * grid + 3, or lower grid",
        ),
        (
            "compositional-mqar",
            "grid = 4\nvocab = 45",
            "compositional-mqar: 16 different values are needed, but there are only 15: raise vocab to at least \
             3 * grid^2, or lower grid",
        ),
        (
            "compositional-mqar",
            "len = 53",
            "compositional-mqar: len 53 is too short: 9 triples and as many query slots of three take up to 54 \
             positions; raise len or lower grid",
        ),
        (
            "variable-key-mqar",
            "key_lengths = [0, 0]",
            "variable-key-mqar: every entry of key_lengths is 0: give at least 1",
        ),
        ("variable-key-mqar", "continuing = 0", "variable-key-mqar: continuing is 0: give at least 1"),
        (
            "variable-key-mqar",
            "key_lengths = [1]",
            "variable-key-mqar: 16 different keys are needed, but there are only 4: raise continuing, ending or the \
             longest of key_lengths, or lower pairs",
        ),
        (
            "variable-key-mqar",
            "values = 15",
            "variable-key-mqar: 16 different values are needed, but there are only 15: raise values or lower pairs",
        ),
        (
            "variable-key-mqar",
            "len = 111",
            "variable-key-mqar: len 111 is too short: 16 pairs and 16 queries of keys of 3 take up to 112 positions; \
             raise len, lower pairs or queries, or shorten key_lengths",
        ),
        (
            "variable-key-mqar",
            "values = 4294967290",
            "variable-key-mqar: a vocabulary of 4294967299 tokens does not fit in 32-bit ids: lower the alphabet \
             sizes",
        ),
        ("selective-key-mqar", "reach = 0", "selective-key-mqar: reach is 0: give at least 1"),
        (
            "selective-key-mqar",
            "ending = 2",
            "selective-key-mqar: 3 different ending symbols are needed, but there are only 2: raise ending to at least \
             reach",
        ),
        (
            "selective-key-mqar",
            "content = 2",
            "selective-key-mqar: 16 different keys are needed, but there are only 12: raise content or ending, or \
             lower pairs",
        ),
        (
            "selective-key-mqar",
            "len = 143",
            "selective-key-mqar: len 143 is too short: 16 pairs and 16 queries of blocks of 4 take up to 144 \
             positions; raise len, or lower pairs, queries or reach",
        ),
        (
            "in-context-recall",
            "len = 127",
            "in-context-recall: len 127 is odd, but a slot has two tokens: take 126 or 128",
        ),
        (
            "in-context-recall",
            "len = 2",
            "in-context-recall: len 2 is too short: one pair and one query of two take up to 4 positions; raise len",
        ),
        (
            "in-context-recall",
            "vocab = 1",
            "in-context-recall: 2 different keys and values are needed, but there are only 1: raise vocab to at \
             least 2",
        ),
        ("noisy-recall", "noise = 1.0", "noisy-recall: noise = 1 is out of range: give a value from 0 to below 1"),
        (
            "noisy-recall",
            "noise_vocab = 40",
            "noisy-recall: 2 different keys and values are needed, but there are only 0: raise vocab to at least \
             noise_vocab + 2",
        ),
        (
            "fuzzy-recall",
            "vocab = 6",
            "fuzzy-recall: 3 different key tokens are needed, but there are only 2: raise vocab or lower max_key_len",
        ),
        (
            "fuzzy-recall",
            "len = 17",
            "fuzzy-recall: len 17 is too short: two pairs and the query take up to 18 positions; raise len, or lower \
             max_key_len or max_value_len",
        ),
        (
            "selective-copying",
            "copies = 128",
            "selective-copying: len 256 is too short: 128 tokens, their copies and the copy token take up to 257 \
             positions; raise len or lower copies",
        ),
        (
            "selective-copying",
            "vocab = 2",
            "selective-copying: 1 different content tokens are needed, but there are only 0: raise vocab to at least 3",
        ),
        ("memorization", "len = 31", "memorization: len 31 is odd, but a slot has two tokens: take 30 or 32"),
        (
            "memorization",
            "vocab = 2",
            "memorization: 2 different keys and values are needed, but there are only 1: raise vocab to at least 3",
        ),
    ];
    for (name, changes, expected) in cases {
        let task = with(name, changes);
        let refusal = task.validate().expect_err(changes);
        assert_eq!(refusal.to_string(), expected, "{name} with {changes}");
        let refused = task.batch(0, data::Split::Train, 0, 1).expect_err(changes);
        assert_eq!(refused.to_string(), expected, "{name} with {changes}");
    }
}
