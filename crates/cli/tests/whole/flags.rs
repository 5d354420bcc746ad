//! Flags, streams and exit codes.

use crate::fake::{Fake, GOOD, with};
use crate::{Done, invoke, start};
use std::io::{BufRead, BufReader, Read};

fn run(plan: &str, args: &str) -> Done {
    let folder = tempfile::tempdir().unwrap();
    invoke(folder.path(), plan, args)
}

#[test]
fn exit_codes_and_what_is_said() {
    for (plan, args, code, part) in [
        (GOOD.to_string(), "", 0, "[4/4] varkey.lowrank accuracy 0.961 [0.960–0.962] 3/3 ("),
        (with("").replace("0.95", "0.3"), "", 1, "[3/4] varkey.headwise accuracy 0.301"),
        (with("fail = \"nan\""), "", 1, "[3/4] varkey.headwise accuracy NaN 0/3"),
        (GOOD.into(), "--scale huge", 2, "error: there is no scale `huge`; the plan has small, smoke\nhint: --list"),
        (
            GOOD.into(),
            "--rows varkey.non",
            2,
            "error: there is no row `varkey.non` at scale smoke; the rows are varkey.none,",
        ),
        (GOOD.into(), "--format html", 2, "[possible values: text, markdown, json, csv]"),
        (with("valeu = 1"), "", 2, "error: row varkey.headwise at scale smoke: unknown field `valeu`"),
        (with("").replace("0.95", "1.5"), "", 2, "value = 1.5 is above 1\nhint: it is an accuracy\n"),
        (
            GOOD.replace("varkey.none", "mad-fuzzy.dynamic"),
            "",
            2,
            "is no row of paper/figure-recall.toml that can be run",
        ),
        (with("fail = \"error\""), "", 2, "error: row varkey.headwise: the disk is full\nhint: make room\n"),
        (with("fail = \"metric\""), "", 2, "the experiment returned a value of metric speed\nhint: the metrics of"),
        (
            with("fail = \"twice\""),
            "",
            2,
            "the experiment returned two values of accuracy at seed 0, step 1\nhint: this is a fault of",
        ),
        (with("fail = \"seed\""), "", 2, "the experiment returned a value of seed 100\nhint: this is a fault of"),
        (
            GOOD.into(),
            "FAKE_UNSEEDED=1 --seeds 2",
            2,
            "error: figure-recall has times and no seeds\nhint: leave out --seeds",
        ),
        (GOOD.into(), "--peer a.csv", 2, "error: unexpected argument '--peer'"),
        (GOOD.into(), "FAKE_PEER=1 --peer none.csv", 2, "error: row varkey.none: none.csv: No such file"),
        (GOOD.into(), "FAKE_UNSEEDED=1", 0, "[4/4] varkey.lowrank accuracy"),
        (
            GOOD.into(),
            "--device cuda:1",
            3,
            "error: there is no cuda device for this program\nhint: this program runs on: cpu;",
        ),
        (GOOD.into(), "--device dfdx", 3, "there is no dfdx device"),
        (
            with("wait_s = 60"),
            "--time-budget 0.3s",
            4,
            "error: stopped by --time-budget\nhint: 2 rows are left; the same command with --resume",
        ),
    ] {
        let done = run(&plan, args);
        assert_eq!(done.code, code, "{args}: {}", done.stderr);
        assert!(done.stderr.contains(part), "{args}: {}", done.stderr);
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    }
}

#[test]
fn the_table_is_stdout_in_every_format_and_the_rest_is_stderr() {
    let text = run(GOOD, "").stdout;
    assert!(text.starts_with("Recall figure") && text.contains("claims: 2 ok, 0 off, 11 skip"), "{text}");
    assert!(run(GOOD, "--format markdown").stdout.starts_with("**Recall figure"));
    assert!(run(GOOD, "--format csv").stdout.starts_with("row,metric,paper,grade,"));
    let json: serde_json::Value = serde_json::from_str(&run(GOOD, "--format json").stdout).unwrap();
    assert_eq!((&json["scale"], &json["device"]), (&"smoke".into(), &"cpu".into()));
    let lowrank = json["rows"].as_array().unwrap().iter().find(|row| row["id"] == "varkey.lowrank").unwrap();
    assert_eq!(lowrank["run"]["median"], 0.961);
    let quiet = run(GOOD, "--quiet");
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    assert_eq!(quiet.stdout, text);
}

#[test]
fn seeds_and_rows_are_those_asked_for() {
    let done = run(GOOD, "--seeds 4,9 --rows varkey.none --format csv");
    let line = done.stdout.lines().find(|line| line.starts_with("varkey.none")).unwrap().to_string();
    assert!(line.ends_with(",0.109,2,0,"), "{line}");
    assert_eq!(done.stdout.lines().count(), 2, "the header and the row: {}", done.stdout);
    assert_eq!(done.code, 0, "too few seeds are a skip");
}

#[test]
fn help_lists_every_flag_and_the_exit_codes() {
    let help = run(GOOD, "--help");
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    insta::assert_snapshot!("help", help.stdout);
}

#[test]
fn a_peer_is_in_the_help_of_the_items_that_have_one() {
    let help = run(GOOD, "FAKE_PEER=1 --help").stdout;
    assert!(help.contains("--peer <FILE>") && help.contains("Times of another"), "{help}");
    assert!(!run(GOOD, "--help").stdout.contains("--peer"));
}

#[test]
fn list_and_print_config_run_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let list = invoke(folder.path(), GOOD, "--list");
    insta::assert_snapshot!("list", list.stdout);
    let config = invoke(folder.path(), GOOD, "--print-config --rows varkey.static --seeds 7,");
    insta::assert_snapshot!("print-config", config.stdout);
    let json = invoke(folder.path(), GOOD, "--print-config --format json").stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["row"][1]["config"]["value"], 0.4);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file is written");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    // The first row waits, so that the reader is gone before the table comes.
    let plan = GOOD.replace("value = 0.1 }", "value = 0.1, wait_s = 0.5 }");
    let mut child = start(folder.path(), &plan, "");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("running 1 test") {}
    drop(lines);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
    assert!(stderr.contains("files: out/figure-recall.smoke") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn check_covers_every_scale() {
    assert_eq!(cli::check(&Fake { plan: GOOD.into() }), Ok(()));
    let plan = GOOD.replace("[scale.small]", "[scale.small]\nfailing = true");
    let error = cli::check(&Fake { plan }).unwrap_err();
    assert!(error.message.contains("at scale small: unknown field `failing`"), "{}", error.message);
}
