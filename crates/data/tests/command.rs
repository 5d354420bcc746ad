//! The program `data`, whole.
#![cfg(feature = "prepare")]

use std::path::Path;
use std::process::{Command, Output};

fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_data")).current_dir(folder).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const PREPARE: [&str; 6] = ["prepare", "a.txt", "b.jsonl", "--tokenizer", "bytes", "--out=shards"];

#[test]
fn it_prepares_tells_how_far_it_is_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a.txt", &"to be or not ".repeat(100));
    write("b.jsonl", "{\"text\": \"one\"}\n{broken\n");
    let broken = run(folder.path(), &PREPARE);
    assert_eq!((broken.status.code(), text(&broken.stdout)), (Some(2), String::new()));
    let said = text(&broken.stderr);
    // The text gives a part to each split.
    assert!(said.starts_with("[1/2] a.txt: 2 documents, 1300 tokens, done\nerror: b.jsonl: record 2"), "{said}");

    write("b.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    let resumed = run(folder.path(), &[&PREPARE[..], &["--resume"]].concat());
    let said = text(&resumed.stderr);
    assert!(resumed.status.success(), "{said}");
    assert!(said.contains("[1/2] a.txt: 2 documents, 1300 tokens, done before\n"), "{said}");
    assert!(said.contains("[2/2] b.jsonl: 2 documents, 6 tokens, done\n"), "{said}");
    let summary = text(&resumed.stdout);
    assert_eq!(
        summary,
        "train: 1293 tokens, 3 documents, 1293 bytes of text\nval: 13 tokens, 1 documents, 13 bytes of text\n"
    );
}

#[test]
fn settings_that_do_not_fit_are_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |args: &[&str]| {
        let out = run(folder.path(), args);
        assert_eq!(out.status.code(), Some(2));
        text(&out.stderr)
    };
    let message = refused(&[&PREPARE[..], &["--val-share=1"]].concat());
    assert_eq!(message, "error: --val-share 1: give a share from 0 up to 1\n");
    let message = refused(&["prepare", "a.txt", "--tokenizer", "none.json", "--out=shards"]);
    assert!(message.starts_with("error: --tokenizer: none.json: "), "{message}");
    assert!(refused(&PREPARE).starts_with("error: a.txt: "));
    assert!(refused(&["prepare-books", "no-clone", "--out=shards"]).starts_with("error: no-clone"));
}

#[test]
fn help_tells_every_argument() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["prepare", "prepare-books"] {
        let out = run(folder.path(), &[command, "--help"]);
        assert!(out.status.success());
        insta::assert_snapshot!(format!("{command}-help"), text(&out.stdout));
    }
}
