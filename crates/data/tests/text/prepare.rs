//! Text files to shards and back.

use std::path::{Path, PathBuf};

use data::text::{Done, Error, Index, Options, TextConfig, Tokenizer, Tokens, prepare};
use serde_json::json;

use super::{compressed, file};

/// Two files of many documents and one text.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let lines =
        |from: u32| -> String { (from..from + 200).map(|i| format!("{{\"text\":\"document {i}\"}}\n")).collect() };
    vec![
        file(folder, "a.jsonl.gz", &compressed("gz", lines(0).as_bytes())),
        file(folder, "b.jsonl", lines(200).as_bytes()),
        file(folder, "c.txt", "é".repeat(500).as_bytes()),
    ]
}

fn options(out: &Path) -> Options {
    Options { out: out.into(), field: "text".into(), val: Vec::new(), val_share: 0.1, resume: false }
}

fn run(inputs: &[PathBuf], options: &Options) -> (Result<Index, Error>, Vec<Done>) {
    let mut heard = Vec::new();
    let index = prepare(inputs, &Tokenizer::bytes(), options, &mut |done| heard.push(done.clone()));
    (index, heard)
}

fn bytes_of(out: &Path, index: &Index, split: &str) -> Vec<u8> {
    let tokens = Tokens::open(&index.files(out, split).unwrap(), 256).unwrap();
    let mut ids = vec![0; tokens.len() as usize];
    tokens.read(0, &mut ids).unwrap();
    ids.into_iter().map(|id| id as u8).collect()
}

#[test]
fn every_document_goes_to_one_split_and_is_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("data/text");
    let index = run(&inputs(folder.path()), &options(&out)).0.unwrap();
    assert_eq!(Index::read(&out).unwrap(), index);
    let [train, val] = ["train", "val"].map(|split| bytes_of(&out, &index, split));
    let whole: usize = (0..400).map(|i| format!("document {i}").len()).sum();
    assert_eq!(train.len() + val.len(), whole + 1000);
    // The text gives its last tenth, cut between characters; of 400 documents about 40 are held out.
    assert!(val.ends_with("é".repeat(50).as_bytes()) && train.ends_with("é".repeat(450).as_bytes()));
    let held = index.splits["val"].docs - 1;
    assert!((20..60).contains(&held), "{held} documents held out");
    assert_eq!(index.splits["train"].docs + index.splits["val"].docs, 402);
    // What is prepared can be read as rows.
    let config = json!({ "text": "text", "context": 32 });
    let config: TextConfig = serde_json::from_value(config).unwrap();
    let corpus = config.open(Some(&folder.path().join("data"))).unwrap();
    assert_eq!((corpus.vocab(), corpus.bytes_per_token()), (256, 1.0));
}

#[test]
fn an_end_of_text_follows_every_document() {
    let folder = tempfile::tempdir().unwrap();
    let bpe = concat!(env!("CARGO_MANIFEST_DIR"), "/files/books/bpe16384.json");
    let Ok(tokenizer) = Tokenizer::named(bpe) else { panic!("no tokenizer at {bpe}") };
    let validation = vec![file(folder.path(), "v.txt", b"held out")];
    let options = Options { val: validation, ..options(&folder.path().join("out")) };
    let index = prepare(&inputs(folder.path())[1..2], &tokenizer, &options, &mut |_| ()).unwrap();
    assert_eq!((index.eot, index.splits["train"].docs, index.splits["val"].docs), (Some(0), 200, 1));
    let tokens = Tokens::open(&index.files(&options.out, "train").unwrap(), 16_384).unwrap();
    let mut ids = vec![9; tokens.len() as usize];
    tokens.read(0, &mut ids).unwrap();
    assert_eq!((ids.iter().filter(|&&id| id == 0).count(), ids.last()), (200, Some(&0)));
}

#[test]
fn a_run_cut_short_goes_on_and_gives_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path().join(name));
    let inputs = inputs(folder.path());
    run(&inputs, &options(&whole)).0.unwrap();
    // The second input breaks off, is mended, and the run goes on.
    let good = std::fs::read(&inputs[1]).unwrap();
    std::fs::write(&inputs[1], [&good[..100], b"\n{broken"].concat()).unwrap();
    let (broken, _) = run(&inputs, &options(&cut));
    assert!(matches!(broken, Err(Error::Record { .. })));
    assert!(!cut.join("index.json").exists());
    std::fs::write(&inputs[1], &good).unwrap();
    let resumed = Options { resume: true, ..options(&cut) };
    let (index, heard) = run(&inputs, &resumed);
    let finished: Vec<_> = heard.iter().map(|done| done.finished).collect();
    assert_eq!(finished, [Some(true), Some(false), Some(false)]);
    for entry in std::fs::read_dir(&whole).unwrap() {
        let name = entry.unwrap().file_name();
        let [a, b] = [&whole, &cut].map(|folder| std::fs::read(folder.join(&name)).unwrap());
        assert!(a == b, "{} differs", name.display());
    }
    assert_eq!(index.unwrap(), Index::read(&whole).unwrap());
    // A shard that is gone is made again.
    let [shard, kept] = ["train-00001.tok", "train-00000.tok"].map(|name| cut.join(name));
    let made = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let (bytes, before) = (std::fs::read(&shard).unwrap(), made(&kept));
    std::fs::remove_file(&shard).unwrap();
    let (_, heard) = run(&inputs, &resumed);
    assert_eq!(heard.iter().map(|done| done.finished).collect::<Vec<_>>()[..2], [Some(true), Some(false)]);
    assert_eq!((std::fs::read(&shard).unwrap(), made(&kept)), (bytes, before));
    // Other settings are refused.
    let other = Options { val_share: 0.2, ..resumed };
    assert!(matches!(run(&inputs, &other).0, Err(Error::Index { .. })));
}
