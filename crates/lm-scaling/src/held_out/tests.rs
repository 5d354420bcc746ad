//! Batched scores against the same model run token by token.

use std::path::Path;

use backend::{Backend, CpuBackend, Decoder, Params, State};
use serde_json::{Value, json};
use train::Device;

use super::likelihood::{Likelihood, Sequence, lengths, likelihoods, of_any_length};
use super::*;

/// A row on a folder of the BPE's tokens with a partial row laid over it.
fn row(change: Value) -> Row {
    let mut row = json!({
        "model": { "vocab": 16384, "d_model": 16, "layers": 1, "heads": 2, "ffn": 32, "conv": { "kind": "low-rank", "rank": 2 } },
        "data": { "text": "text", "context": 24 },
        "train": { "steps": 2, "batch": 3, "lr": 1e-2, "eval_every": 2, "eval_examples": 4 },
        "probe": ["domains", "blimp", "lambada", "choices"],
    });
    for (table, fields) in change.as_object().unwrap() {
        match (row.get_mut(table), fields) {
            (Some(Value::Object(into)), Value::Object(from)) => into.extend(from.clone()),
            _ => row[table] = fields.clone(),
        }
    }
    serde_json::from_value(row).unwrap()
}

/// Random parameters, large enough for the predictions to be far from even.
fn params(row: &Row) -> Params {
    let mut params = Params::init(row.model.record(1, 1).unwrap().specs(), 5);
    params.values.iter_mut().flatten().for_each(|value| *value *= 4.0);
    params
}

fn backend(params: &Params) -> CpuBackend {
    let mut backend = CpuBackend::new();
    backend.load(State::new(params.clone())).unwrap();
    backend
}

/// Token by token, softmax in f64.
fn naive(row: &Row, params: &Params, Sequence { ids, from }: &Sequence) -> Likelihood {
    let mut decoder = Decoder::new(row.model.record(1, 1).unwrap(), params.clone()).unwrap();
    let (mut nats, mut greedy) = (0.0, true);
    for (place, pair) in ids.windows(2).enumerate() {
        let logits = decoder.step(&pair[..1]).unwrap();
        if place + 1 >= *from {
            let (most, next) = (logits.iter().copied().fold(f32::MIN, f32::max), logits[pair[1] as usize]);
            let sum: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
            nats += sum.ln() - f64::from(next - most);
            greedy &= next == most;
        }
    }
    Likelihood { nats, greedy }
}

fn near(found: f64, want: f64) -> bool {
    (found - want).abs() <= 1e-5 * want.abs()
}

/// What fills a row up changes nothing, for attention as for a recurrence, nor for the reference.
#[test]
fn padded_rows_score_as_token_by_token() {
    let mamba = json!({ "mamba-2": { "heads": 2, "intermediate": 16, "state_size": 4 } });
    for mixer in [json!("attention"), mamba] {
        let row = row(json!({ "model": { "vocab": 11, "mixer": mixer } }));
        let params = params(&row);
        let sequences: Vec<Sequence> = [(2, 1), (17, 9), (9, 1), (25, 1), (5, 4)]
            .map(|(len, from)| Sequence { ids: (0..len).map(|t| (t * t + len) % 11).collect(), from })
            .into();
        let record = |batch, len| row.model.record(batch, len);
        let want: Vec<Likelihood> = sequences.iter().map(|sequence| naive(&row, &params, sequence)).collect();
        assert!(want.iter().all(|w| (w.nats / 11f64.ln() - 1.0).abs() > 0.01), "not even: {want:?}");
        let all: Vec<&Sequence> = sequences.iter().collect();
        assert_eq!(lengths(&sequences, 24), [16, 24], "both shapes are met");
        for device in [Device::Cpu, Device::Dfdx] {
            let mut backend = device.backend(0).unwrap();
            backend.load(State::new(params.clone())).unwrap();
            let check = |found: Vec<Likelihood>| {
                assert_eq!(found.len(), want.len());
                for (found, want) in found.iter().zip(&want) {
                    let same = near(found.nats, want.nats) && found.greedy == want.greedy;
                    assert!(same, "{device:?}: {found:?} {want:?}");
                }
            };
            check(of_any_length(&record, &mut *backend, &sequences, [48, 24]).unwrap());
            check(likelihoods(&record, &mut *backend, &all, [2, 30]).unwrap());
            check(likelihoods(&record, &mut *backend, &all, [5, 24]).unwrap());
        }
    }
}

/// Of inputs: an id less than tokens.
#[test]
fn two_lengths_hold_all() {
    let of = |lens: &[usize]| lens.iter().map(|&len| Sequence { ids: vec![0; len + 1], from: 1 }).collect::<Vec<_>>();
    assert_eq!(lengths(&of(&[3, 18, 2]), 512), [16, 32]);
    assert_eq!(lengths(&of(&[3, 18, 17, 37, 20]), 512), [32, 48], "4 * 32 + 48, not 16 + 4 * 48");
    assert_eq!(lengths(&of(&[37, 40]), 512), [48], "nothing is saved");
    assert_eq!(lengths(&of(&[20, 24]), 24), [24], "no longer than the context");
    assert_eq!(lengths(&[], 512), [16]);
}

const TEXT: &str = "It was the best of times, it was the worst of times; it was the age of wisdom, it was the age of \
                    foolishness, it was the epoch of belief.";

/// A data folder with tokens to train on, and eval and domains as given.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    for name in ["text", "eval", "domains"] {
        std::fs::create_dir(data.path().join(name)).unwrap();
    }
    let ids: Vec<u8> = (0..400u32).flat_map(|i| [(i % 7) as u8, 0]).collect();
    let split = json!({ "tokens": 400, "docs": 1, "bytes_text": 1600 });
    let index = json!({ "dtype": "uint16", "eot": 0, "vocab": 16384, "tokenizer": "../bpe16384.json",
                        "splits": { "train": split, "val": split } });
    std::fs::write(data.path().join("text/index.json"), index.to_string()).unwrap();
    for split in ["train", "val"] {
        std::fs::write(data.path().join(format!("text/{split}.u16")), &ids).unwrap();
    }
    for (name, text) in files {
        std::fs::write(data.path().join(name), text).unwrap();
    }
    data
}

fn tokens(row: &Row, data: &Path, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    row.data.tokenizer_of(Some(data)).unwrap().encode(text, &mut ids).unwrap();
    ids
}

fn scored(row: &Row, data: &Path, params: &Params) -> (BTreeMap<&'static str, f64>, Texts) {
    let texts = Texts::load(row, Some(data)).unwrap();
    let found = texts.score(row, &mut backend(params)).unwrap();
    assert!(found.iter().all(|(metric, _)| metrics(row).contains(metric)), "{found:?}");
    (found.into_iter().collect(), texts)
}

/// Windows of the context, each with its own start, over all of a text's tokens once.
#[test]
fn bits_per_byte_by_hand() {
    let row = row(json!({ "probe": ["domains"], "data": { "context": 8 } }));
    let (data, params) = (folder(&[("domains/c4.txt", TEXT)]), params(&row));
    let (found, texts) = scored(&row, data.path(), &params);
    let ids = [vec![0], tokens(&row, data.path(), TEXT)].concat();
    assert!(ids.len() > 3 * 8 && (ids.len() - 1) % 8 != 0, "several windows, the last one short: {}", ids.len());
    let windows = (0..ids.len() - 1).step_by(8).map(|at| ids[at..ids.len().min(at + 9)].to_vec());
    let nats: f64 = windows.map(|ids| naive(&row, &params, &Sequence { ids, from: 1 }).nats).sum();
    assert!(near(found["bpb_c4"], nats / (2f64.ln() * TEXT.len() as f64)), "{found:?}");
    assert_eq!((found.len(), texts.left_out.len()), (1, 6), "no mean of a part: {:?}", texts.left_out);
    assert!(texts.left_out[0].starts_with("without bpb_medquad and bpb_domains: there is no "));
    assert!(texts.sha256.contains_key("domains/c4.txt"));
}

#[test]
fn questions_by_hand() {
    let pair = |uid: &str, field: &str, good: &str, bad: &str| {
        json!({ "uid": uid, "term": "t", "field": field, "good": good, "bad": bad }).to_string()
    };
    // Both ways round, so that one of two is solved; a sentence against itself is a tie, which nobody solves.
    let blimp = [
        pair("one", "syntax", "The cat sleeps.", "The cat sleep."),
        pair("one", "syntax", "The cat sleep.", "The cat sleeps."),
        pair("two", "syntax/semantics", "A dog barks.", "A dog barks."),
    ];
    let long = "word ".repeat(60);
    let lambada = json!({ "ctx": long.trim_end(), "target": " and more" }).to_string();
    let choices = json!({ "id": 1, "ctx": "Who?", "choices": [" he", " she and her many friends"], "gold": 0 });
    let sets = json!({ "id": 1, "ctxs": ["Ann", "Bob"], "cont": " won.", "gold": 1 });
    let data = folder(&[
        ("eval/blimp.jsonl", &blimp.join("\n")),
        ("eval/lambada_openai_test.jsonl", &lambada),
        ("eval/piqa_val.jsonl", &choices.to_string()),
        ("eval/winogrande_val.jsonl", &sets.to_string()),
    ]);
    let row = row(json!({ "probe": ["blimp", "lambada", "choices"] }));
    let params = params(&row);
    let (found, texts) = scored(&row, data.path(), &params);
    assert_eq!((texts.left_out.len(), texts.sha256.len()), (6, 4), "{:?}", texts.left_out);
    let nats = |context: &str, text: &str| {
        let (context, text) = (tokens(&row, data.path(), context), tokens(&row, data.path(), text));
        let ids = [vec![0], context, text.clone()].concat();
        let ids = ids[ids.len().saturating_sub(25)..].to_vec();
        let from = ids.len() - text.len();
        naive(&row, &params, &Sequence { ids, from }).nats
    };
    assert_eq!((found["blimp_syntax"], found["blimp_syntax_semantics"], found["blimp"]), (50.0, 0.0, 25.0));
    assert!(!found.contains_key("blimp_morphology"), "a field without a pair has no number");
    assert!(near(found["ppl_lambada"], nats(long.trim_end(), " and more").exp()), "{found:?}");
    let [he, she] = [" he", " she and her many friends"].map(|choice| (nats("Who?", choice), choice.len() as f64));
    let percent = |solved: bool| if solved { 100.0 } else { 0.0 };
    assert_eq!(found["acc_piqa"], percent(he.0 < she.0));
    assert_eq!(found["acc_norm_piqa"], percent(he.0 / he.1 < she.0 / she.1));
    assert_eq!(found["acc_winogrande"], percent(nats("Bob", " won.") < nats("Ann", " won.")));
}

#[test]
fn what_cannot_be_scored_is_refused_before_training() {
    let refused = |change: Value, files: &[(&str, &str)]| {
        let data = folder(files);
        Texts::load(&row(change), Some(data.path())).unwrap_err().to_string()
    };
    let message = refused(json!({}), &[("eval/blimp.jsonl", "{}\n")]);
    assert!(message.contains("blimp.jsonl: line 1: "), "{message}");
    assert!(refused(json!({}), &[("domains/c4.txt", "")]).contains("holds no text"));
    let question = json!({ "ctx": "a", "target": TEXT }).to_string();
    let message = refused(json!({}), &[("eval/lambada_openai_test.jsonl", &question)]);
    assert!(message.starts_with("data.context: 24, but \"It was"), "{message}");
    let characters = json!({ "data": { "text": "tinyshakespeare" }, "model": { "vocab": 65 } });
    assert!(refused(characters, &[]).contains("no end of text for held-out text to start with"));
}

#[test]
fn without_a_data_folder_the_metrics_are_named() {
    let row = row(json!({ "data": { "text": "tinyshakespeare" }, "model": { "vocab": 65 }, "probe": ["blimp"] }));
    let texts = Texts::load(&row, None).unwrap();
    assert!(texts.left_out[0].starts_with("without blimp, blimp_morphology, "), "{:?}", texts.left_out);
    assert!(texts.left_out[0].ends_with("name it with --data or in DYNCONV_DATA"));
    assert!(texts.score(&row, &mut CpuBackend::new()).unwrap().is_empty(), "nothing is run");
}
