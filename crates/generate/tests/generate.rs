//! Whole commands on a small model's checkpoint.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use backend::{Backend, Batch, CpuBackend, IGNORE, Init, ParamSpec, Params, State};
use model::Transformer;
use serde_json::{Value, json};
use train::{Leg, Log, save};

fn row() -> Value {
    json!({ "model": {
        "vocab": 13, "d_model": 16, "layers": 2, "heads": 2, "conv": { "kind": "low-rank", "rank": 3 },
        "mlp": { "moe": { "experts": 4, "top_k": 2, "ffn": 8, "shared_ffn": 8 } }
    } })
}

/// A checkpoint of random values, large enough that the likeliest token is not always the same.
fn checkpoint(folder: &Path, row: &Value) -> (PathBuf, Transformer, State) {
    let model: Transformer = serde_json::from_value(row["model"].clone()).unwrap();
    let specs = model.record(1, 1).unwrap().specs();
    let scattered: Vec<_> = specs.iter().map(|s| ParamSpec { init: Init::Normal { std: 0.4 }, ..s.clone() }).collect();
    let state = State::new(Params { values: Params::init(scattered.into(), 2).values, specs });
    let path = folder.join("model.safetensors");
    // Where it was trained does not matter: here on a GPU.
    let log = Log { legs: vec![Leg { from: 1, device: "cuda:0-bf16".into() }], ..Log::default() };
    save(&path, &state, &log, &json!({ "row": row, "seed": 0 })).unwrap();
    (path, model, state)
}

fn run(path: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_generate")).arg(path).args(flags).output().unwrap()
}

fn ids(path: &Path, flags: &[&str]) -> Vec<u32> {
    let out = run(path, flags);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect()
}

#[test]
fn greedy_tokens_are_the_full_passes_likeliest() {
    let folder = tempfile::tempdir().unwrap();
    let (path, model, state) = checkpoint(folder.path(), &row());
    let mut row = vec![3, 1, 4];
    row.extend(ids(&path, &["--ids", "3,1,4", "--tokens", "40", "--temperature", "0"]));
    assert_eq!(row.len(), 43);

    let tape = model.record(1, 43).unwrap();
    let mut targets = row[1..].to_vec();
    targets.push(IGNORE);
    let mut cpu = CpuBackend::new();
    cpu.load(state).unwrap();
    let likeliest = cpu.evaluate(&tape, &Batch::new(row.clone(), targets)).unwrap().predictions;
    assert_eq!(row[3..], likeliest[2..42]);
    let mut kinds = row[3..].to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    assert!(kinds.len() > 2, "the model says little: {row:?}");
}

/// The reference has no memory of the tokens before: each is a full pass, padded behind.
#[test]
fn another_backend_draws_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut row = row();
    row["model"]["mlp"] = json!("swiglu");
    row["model"]["ffn"] = 24.into();
    let (path, ..) = checkpoint(folder.path(), &row);
    let flags = ["--ids", "3,1,4", "--tokens", "6", "--temperature", "0"];
    assert_eq!(ids(&path, &[&flags[..], &["--device", "dfdx"]].concat()), ids(&path, &flags));
}

#[test]
fn a_seed_fixes_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let (path, ..) = checkpoint(folder.path(), &row());
    let draw = |seed| ids(&path, &["--ids", "5", "--tokens", "30", "--top-k", "6", "--seed", seed]);
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn text_goes_on_from_the_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let mut row = row();
    // A vocabulary above the text's 65 characters: what is beyond is never drawn.
    row["model"]["vocab"] = 80.into();
    row["data"] = json!({ "text": "tinyshakespeare", "context": 16 });
    let (path, ..) = checkpoint(folder.path(), &row);
    let text = |flags: &[&str]| {
        let out = run(&path, flags);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let said = text(&["--prompt", "KING:", "--tokens", "300", "--temperature", "4"]);
    assert!(said.starts_with("KING:") && said.ends_with('\n'), "{said}");
    assert_eq!(said.chars().count(), 5 + 300 + 1);
    let bytes = text(&["--prompt", "A", "--tokenizer", "bytes", "--tokens", "4"]);
    assert_eq!(bytes.chars().next(), Some('A'));
    let unknown = run(&path, &["--prompt", "é"]);
    let message = String::from_utf8(unknown.stderr).unwrap();
    assert!(message.contains("character 'é' is not among the tokenizer's 65"), "{message}");
}

#[test]
fn what_does_not_fit_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path, flags: &[&str]| {
        let out = run(path, flags);
        assert_eq!((out.status.code(), &out.stdout[..]), (Some(2), &b""[..]));
        String::from_utf8(out.stderr).unwrap()
    };
    let (path, ..) = checkpoint(folder.path(), &row());
    assert!(refused(&path, &["--prompt", "a"]).contains("name one with --tokenizer, or give --ids"));
    let message = refused(&path, &["--ids", "13"]);
    assert!(message.contains("prompt: id 13 in a vocabulary of 13; use the tokenizer"), "{message}");
    assert!(refused(&path, &["--ids", "1", "--temperature=-1"]).contains("at least 0"));
    assert!(refused(&path.with_extension("none"), &["--ids", "1"]).contains("cannot be read"));

    // As the other commands: 3 where the device is absent. A machine may well have one GPU, but not this one.
    let absent = run(&path, &["--ids", "1", "--device", "cuda:999"]);
    assert_eq!(absent.status.code(), Some(3));
    let message = String::from_utf8(absent.stderr).unwrap();
    assert!(message.starts_with("error: ") && message.contains("\nhint: "), "{message}");

    let (_, _, state) = checkpoint(folder.path(), &row());
    let other = folder.path().join("other.safetensors");
    save(&other, &state, &Log::default(), &json!({ "row": { "task": 1 } })).unwrap();
    assert!(refused(&other, &["--ids", "1"]).contains("field run.row.model is missing"));
    let mut damaged = std::fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, damaged).unwrap();
    assert!(refused(&path, &["--ids", "1"]).contains("does not match its sha-256"));
}
