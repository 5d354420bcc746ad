//! Decoding held against the full pass, of a text of packed documents.

use backend::{Backend, CpuBackend, Params, State};
use lm_scaling::Row;
use serde_json::json;

/// Documents of 8 tokens, in rows of 64.
#[test]
fn rows_of_packed_documents_are_probed() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::create_dir(&text).unwrap();
    let ids: Vec<u8> = (0..2000u32).flat_map(|i| [if i % 8 == 0 { 0 } else { 1 + (i * i / 8 % 7) as u8 }, 0]).collect();
    for name in ["train", "val"] {
        std::fs::write(text.join(format!("{name}.u16")), &ids).unwrap();
    }
    let split = json!({ "tokens": 2000, "docs": 250, "bytes_text": 2000 });
    let splits = json!({ "train": split, "val": split });
    let index = json!({ "dtype": "u16", "eot": 0, "vocab": 8, "tokenizer": "t", "splits": splits });
    std::fs::write(text.join("index.json"), index.to_string()).unwrap();
    let probe = |documents: &str| {
        let row: Row = serde_json::from_value(json!({
            "model": { "vocab": 8, "d_model": 32, "layers": 1, "heads": 2, "ffn": 32, "mixer": { "gated-deltanet": { "heads": 2, "key_size": 8, "value_size": 16 } } },
            "data": { "text": "text", "context": 64, "documents": documents },
            "train": { "steps": 1, "batch": 1, "lr": 1e-2, "eval_every": 1, "eval_examples": 1 },
        }))
        .unwrap();
        let corpus = row.data.open(Some(folder.path())).unwrap();
        let mut backend = CpuBackend::new();
        backend.load(State::new(Params::init(row.model.record(1, 64).unwrap().specs(), 3))).unwrap();
        linear_rnn::probe(&row, &corpus, &mut backend).unwrap()
    };
    let (packed, ignored) = (probe("packed"), probe("ignored"));
    assert_eq!(packed, ignored, "one row, taken as one sequence");
    let gap = packed.iter().find(|(name, _)| *name == "decode_gap").unwrap().1;
    assert!(gap < 1e-4, "{gap}");
}
