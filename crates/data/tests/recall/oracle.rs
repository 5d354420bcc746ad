//! Solvers that see only the tokens: that they score 1.0 shows that every test label follows from its context.

use std::collections::HashMap;

use data::{Example, IGNORE, SelectiveKeyMqar, Split, Task, accuracy, macro_accuracy};

use crate::tasks;

/// One prediction per position; [`IGNORE`] where the solver has no answer. `learnt` maps memorized keys to values.
pub(crate) fn answers(task: &Task, ids: &[u32], learnt: &HashMap<u32, u32>) -> Vec<u32> {
    let answers = match task {
        Task::Mqar(mqar) => {
            let (context, queries) = ids.split_at(2 * mqar.pairs as usize);
            let map: HashMap<u32, u32> = context.chunks(2).map(|pair| (pair[0], pair[1])).collect();
            let context = context.iter().map(|_| None);
            context.chain(queries.iter().map(|key| map.get(key).copied())).collect()
        }
        Task::CompositionalMqar(mqar) => {
            let context = &ids[..3 * (mqar.grid * mqar.grid) as usize];
            let map: HashMap<_, u32> = context.chunks(3).map(|triple| (&triple[..2], triple[2])).collect();
            (0..ids.len()).map(|t| map.get(&ids[t.saturating_sub(1)..=t]).copied()).collect()
        }
        Task::VariableKeyMqar(mqar) => {
            let value = mqar.fillers + mqar.continuing + mqar.ending;
            runs(ids, |id| id >= mqar.fillers && id < value - mqar.ending, |id| id >= value)
        }
        Task::SelectiveKeyMqar(mqar) => selective(mqar, ids),
        Task::InContextRecall(recall) => runs(ids, |_| false, |id| id >= recall.vocab / 2),
        Task::NoisyRecall(recall) => {
            let symbols = recall.vocab - recall.noise_vocab;
            runs(ids, |_| false, |id| (symbols / 2..symbols).contains(&id))
        }
        Task::FuzzyRecall(recall) => fuzzy(ids, (recall.vocab - 1) / 2, recall.vocab - 1),
        Task::SelectiveCopying(copying) => {
            let content = ids.iter().copied().filter(|&id| id < copying.vocab - 2);
            let asked = ids.len() - copying.copies as usize;
            std::iter::repeat_n(None, asked).chain(content.map(Some)).collect()
        }
        Task::Memorization(_) => (0..ids.len()).map(|t| learnt.get(&ids[t.saturating_sub(1)]).copied()).collect(),
    };
    answers.into_iter().map(|answer: Option<u32>| answer.unwrap_or(IGNORE)).collect()
}

/// Keys that `continues` joins to one, each followed by its value: on each key's last token, the value last seen.
fn runs(ids: &[u32], continues: impl Fn(u32) -> bool, is_value: impl Fn(u32) -> bool) -> Vec<Option<u32>> {
    let mut map = HashMap::new();
    let mut answers = Vec::new();
    let (mut start, mut key) = (0, 0..0);
    for (t, &id) in ids.iter().enumerate() {
        answers.push(None);
        if is_value(id) {
            map.insert(&ids[key.clone()], id);
            start = t + 1;
        } else if !continues(id) {
            key = start..t + 1;
            answers[t] = map.get(&ids[key.clone()]).copied();
            start = t + 1;
        }
    }
    answers
}

/// On each ending symbol, the value that followed the same symbol with the same content symbol where it points.
fn selective(mqar: &SelectiveKeyMqar, ids: &[u32]) -> Vec<Option<u32>> {
    let first_ending = mqar.fillers + mqar.content;
    let mut map = HashMap::new();
    let mut answers = vec![None; ids.len()];
    for (t, &id) in ids.iter().enumerate() {
        if (first_ending..first_ending + mqar.ending).contains(&id) {
            let key = (id, ids[t - 1 - ((id - first_ending) % mqar.reach) as usize]);
            answers[t] = map.get(&key).copied();
            if let Some(&value) = ids.get(t + 1).filter(|&&next| next >= first_ending + mqar.ending) {
                map.insert(key, value);
            }
        }
    }
    answers
}

/// Runs of tokens below `value` are keys, runs from `value` to below `pad` values: the next token of a known value.
fn fuzzy(ids: &[u32], value: u32, pad: u32) -> Vec<Option<u32>> {
    let body = ids.iter().position(|&id| id != pad).expect("a token that is not padding");
    let mut map: HashMap<&[u32], &[u32]> = HashMap::new();
    let mut answers = vec![None; body];
    let (mut key, mut start) = (body..body, body);
    for t in body..ids.len() {
        if t > body && (ids[t] < value) != (ids[t - 1] < value) {
            if ids[t] < value {
                map.insert(&ids[key.clone()], &ids[start..t]);
            }
            start = t;
        }
        if ids[t] < value {
            key = start..t + 1;
        }
        let known = map.get(&ids[key.clone()]);
        // On the key the value's first token, on the value's i-th token the one after it.
        let next = if ids[t] < value { 0 } else { t + 1 - start };
        answers.push(known.and_then(|known| known.get(next).copied()));
    }
    answers
}

/// The map that the training labels of a memorization task show.
pub(crate) fn learn(task: &Task, seed: u64, examples: usize) -> HashMap<u32, u32> {
    let Task::Memorization(_) = task else { return HashMap::new() };
    let Example { ids, targets } = task.batch(seed, Split::Train, 0, examples).expect("valid settings");
    let slots = ids.chunks(2).zip(targets.chunks(2));
    slots.map(|(ids, targets)| (ids[0], targets[1])).collect()
}

#[test]
fn every_test_label_can_be_answered() {
    for (name, task) in tasks() {
        let learnt = learn(&task, 0, 256);
        let (mut targets, mut predictions) = (Vec::new(), Vec::new());
        for index in 0..200 {
            let example = task.example(0, Split::Test, index).expect("valid settings");
            predictions.extend(answers(&task, &example.ids, &learnt));
            targets.extend(example.targets);
        }
        assert_eq!(accuracy(&targets, &predictions), Ok(1.0), "{name}");
        assert_eq!(macro_accuracy(&targets, &predictions), Ok(1.0), "{name}");
    }
}
