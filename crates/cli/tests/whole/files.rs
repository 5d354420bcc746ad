//! The files of a run, resuming, and recorded runs.

use crate::fake::{GOOD, with};
use crate::{finish, invoke, start};
use report::record::{RunRecord, read};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const OUT: &str = "out/figure-recall.smoke";

/// How often each row was measured, in order of rows.
fn measured(folder: &Path) -> [usize; 4] {
    let log = fs::read_to_string(folder.join("measured.log")).unwrap_or_default();
    ["none", "static", "headwise", "lowrank"]
        .map(|row| log.lines().filter(|line| *line == format!("varkey.{row}")).count())
}

/// The hash of the one file of kernels.
fn kernels(record: &RunRecord) -> String {
    record.kernels_sha256.values().cloned().collect()
}

#[test]
fn a_run_leaves_a_whole_record() {
    let folder = tempfile::tempdir().unwrap();
    let done = invoke(folder.path(), GOOD, "--threads 2 --time-budget 1h");
    assert_eq!(done.code, 0, "{}", done.stderr);
    let run = read(&folder.path().join(OUT)).unwrap();
    let record = &run.record;
    assert_eq!((record.item.as_str(), record.scale.as_str()), ("figure-recall", "smoke"));
    assert_eq!((record.device.kind.as_str(), record.device.threads), ("cpu", 2));
    assert_eq!(record.command, "cargo run --release -p reproduce-figure-recall -- --threads 2");
    assert_eq!((record.dtype.as_str(), record.seeds.as_slice()), ("f32", [0, 1, 2].as_slice()));
    assert!(record.source.rustc.starts_with("rustc "));
    assert_eq!(record.source.git_rev, "unknown", "the folder is no work tree of this project");
    assert_eq!(record.rows.len(), 4);
    assert_eq!(record.rows[1].config["value"].as_float(), Some(0.4));
    assert_eq!((run.metrics.len(), run.curve.len()), (12, 24), "the last step alone, and both");
    for name in ["varkey.svg", "varkey.csv"] {
        assert!(folder.path().join(OUT).join(name).exists(), "{name}");
    }
    assert!(!folder.path().join(OUT).join("mad.svg").exists(), "no row of it was run");
}

#[test]
fn the_recorded_command_names_what_the_run_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.csv"), "").unwrap();
    let command = |args: &str| {
        assert_eq!(invoke(folder.path(), GOOD, args).code, 0, "{args}");
        let command = read(&folder.path().join(OUT)).unwrap().record.command;
        command.strip_prefix("cargo run --release -p reproduce-figure-recall").unwrap().to_string()
    };
    assert_eq!(command("FAKE_PEER=1 --peer p.csv --data here"), " -- --peer PEER.csv --data DATA");
    assert_eq!(command("FAKE_READS=1 DYNCONV_DATA=there"), " -- --data DATA");
    assert_eq!(command("DYNCONV_DATA=there"), "", "nothing is read from there");
    assert_eq!(command("FAKE_READS=1"), "", "what is read needs no folder");
}

#[test]
fn a_run_stopped_in_time_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let stopped = invoke(folder.path(), &with("wait_s = 60"), "--time-budget 0.3s");
    assert_eq!(stopped.code, 4, "{}", stopped.stderr);
    assert!(stopped.stdout.contains("claims: 0 ok, 0 off, 13 skip"), "what was not run is skip: {}", stopped.stdout);
    assert_eq!(read(&folder.path().join(OUT)).unwrap().record.rows.len(), 2);
    let resumed = invoke(folder.path(), GOOD, "--resume");
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert!(resumed.stderr.contains("[1/4] varkey.none finished before"), "{}", resumed.stderr);
    assert_eq!(measured(folder.path()), [1, 1, 2, 1]);
    let record = read(&folder.path().join(OUT)).unwrap().record;
    assert_eq!((record.rows.len(), record.data_sha256.len()), (4, 4), "data of rows finished before are named too");
}

/// Of the rows, the four `wall_s` are those of all processes, and what another source began says so.
#[test]
fn a_resumed_row_tells_of_every_process() {
    let folder = tempfile::tempdir().unwrap();
    let record = || read(&folder.path().join(OUT)).unwrap().record;
    for _ in 0..2 {
        let stopped = "REPRODUCE_GIT_REV=old-dirty FAKE_KERNELS=k1 FAKE_WAIT_S=60 --resume --time-budget 0.3s";
        assert_eq!(invoke(folder.path(), GOOD, stopped).code, 4);
    }
    let resumed = invoke(folder.path(), GOOD, "REPRODUCE_GIT_REV=new FAKE_KERNELS=k2 --resume");
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    let record = record();
    assert!((0.5..5.0).contains(&record.rows[0].wall_s), "{} s", record.rows[0].wall_s);
    assert!(record.rows[1].wall_s < 0.3 && record.wall_s > record.rows[0].wall_s);
    assert_eq!(record.rows[0].remarks, ["begun at commit old with other kernels (a.cu)"]);
    assert_eq!((record.rows[0].git_rev.as_str(), record.rows[1].remarks.len()), ("new", 0));
    assert_eq!((record.source.dirty, record.source.git_rev.as_str()), (Some(true), "new"));
}

#[test]
fn rows_of_other_kernels_are_measured_again_and_a_dirty_one_marks_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let record = || read(&folder.path().join(OUT)).unwrap().record;
    invoke(folder.path(), GOOD, "REPRODUCE_GIT_REV=a-dirty FAKE_KERNELS=k1 --rows varkey.none,varkey.static");
    let more = invoke(folder.path(), GOOD, "REPRODUCE_GIT_REV=b FAKE_KERNELS=k1 --resume");
    assert_eq!((more.code, measured(folder.path())), (0, [1, 1, 1, 1]), "{}", more.stderr);
    assert_eq!((record().source.dirty, kernels(&record())), (Some(true), "k1".into()));
    let revisions: Vec<String> = record().rows.into_iter().map(|row| row.git_rev).collect();
    assert_eq!(revisions, ["a", "a", "b", "b"]);
    let again = invoke(folder.path(), GOOD, "REPRODUCE_GIT_REV=b FAKE_KERNELS=k2 --resume --rows varkey.none");
    let said = "[1/1] varkey.none was measured with other kernels (a.cu): it is measured again";
    assert!(again.stderr.contains(said), "{}", again.stderr);
    assert_eq!((measured(folder.path()), record().rows.len()), ([2, 1, 1, 1], 1), "no row of k1 is in it");
    assert_eq!((record().source.dirty, kernels(&record())), (Some(false), "k2".into()));
}

#[test]
fn two_versions_of_a_data_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(invoke(folder.path(), GOOD, "FAKE_TEXT=aa --rows varkey.none").code, 0);
    let refused = invoke(folder.path(), GOOD, "FAKE_TEXT=bb --resume");
    let said =
        "error: row varkey.static has read text.tok with sha256 bb, row varkey.none with aa\nhint: give the data";
    assert!(refused.code == 2 && refused.stderr.contains(said), "{}", refused.stderr);
    let record = read(&folder.path().join(OUT)).unwrap().record;
    assert_eq!((record.rows.len(), record.data_sha256["text.tok"].as_str()), (1, "aa"));
    assert_eq!(invoke(folder.path(), GOOD, "FAKE_TEXT=aa --resume").code, 0);
    // What is measured again counts no more.
    assert_eq!(invoke(folder.path(), &GOOD.replace("seeds = 3", "seeds = 4"), "FAKE_TEXT=bb --resume").code, 0);
}

#[test]
fn a_kill_loses_nothing_finished() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), &with("wait_s = 60"), "");
    let state = folder.path().join(OUT).join("state.jsonl");
    let began = Instant::now();
    let lines = || fs::read_to_string(&state).unwrap_or_default().matches('\n').count();
    while lines() < 2 && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    assert_eq!(finish(child).code, -1, "killed by a signal");
    let resumed = invoke(folder.path(), GOOD, "--resume");
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    let again = measured(folder.path());
    assert_eq!((again[0], again[1], again[3]), (1, 1, 1), "finished rows are not measured again");
}

#[test]
fn only_the_same_configuration_seeds_and_device_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    invoke(folder.path(), GOOD, "");
    let changed = invoke(folder.path(), &GOOD.replace("0.4", "0.5"), "--resume --format csv");
    assert_eq!(measured(folder.path()), [1, 2, 1, 1]);
    assert!(changed.stdout.contains("varkey.static,accuracy,,U,,,,,,0.501,"), "{}", changed.stdout);
    invoke(folder.path(), &GOOD.replace("0.4", "0.5"), "--resume --seeds 4");
    assert_eq!(measured(folder.path()), [2, 3, 2, 2]);
    let fresh = invoke(folder.path(), GOOD, "--rows varkey.none");
    assert!(fresh.stderr.contains("set aside in state.old-1.jsonl; to keep them, name it"), "{}", fresh.stderr);
    assert_eq!(measured(folder.path()), [3, 3, 2, 2]);
    let again = invoke(folder.path(), GOOD, "--rows varkey.none");
    assert!(again.stderr.contains("set aside in state.old-2.jsonl"), "{}", again.stderr);
    // As the line says.
    let out = folder.path().join(OUT);
    fs::rename(out.join("state.old-1.jsonl"), out.join("state.jsonl")).unwrap();
    invoke(folder.path(), &GOOD.replace("0.4", "0.5"), "--resume --seeds 4");
    assert_eq!(measured(folder.path()), [4, 3, 2, 2], "the rows set aside first are kept");
}

#[test]
fn rows_run_one_by_one_make_one_record() {
    let folder = tempfile::tempdir().unwrap();
    for row in ["varkey.lowrank", "varkey.static", "varkey.none", "varkey.headwise"] {
        invoke(folder.path(), GOOD, &format!("--resume --rows {row} --out o"));
    }
    let rows = read(&folder.path().join("o")).unwrap().record.rows;
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["varkey.none", "varkey.static", "varkey.headwise", "varkey.lowrank"], "in the plan's order");
}

#[test]
fn an_equal_configuration_is_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let done = invoke(folder.path(), &GOOD.replace("0.96", "0.95"), "--format csv");
    assert!(done.stderr.contains("[4/4] varkey.lowrank copied from varkey.headwise"), "{}", done.stderr);
    assert_eq!(measured(folder.path()), [1, 1, 1, 0]);
    assert_eq!(done.stdout.matches(",0.951,0.95,").count(), 2, "{}", done.stdout);
}

#[test]
fn what_a_run_costs_is_said_before_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let run = |plan: &str, args: &str| invoke(folder.path(), plan, args).stderr;
    assert!(!run(GOOD, "").contains("FLOP"), "nothing is trained");
    let plan = &GOOD.replace("seeds = 3", "seeds = 3\nflops = 1e10\nwait_s = 0.01");
    let said = run(plan, "--threads 2");
    let guess = "very roughly 2.0 s: 12 runs, 1.2e11 FLOP, at a guessed 60.0 GFLOP/s; nothing is recorded for scale";
    assert!(said.find(guess).unwrap() < said.find("[1/4]").unwrap(), "{said}");
    assert!(!run(plan, "--resume").contains("FLOP"), "all is done");
    assert!(run(plan, "--rows varkey.none,varkey.static").contains(": 6 runs, 6.0e10 FLOP"));
    assert!(run(plan, "--resume").contains(": 6 runs, 6.0e10 FLOP"), "what is done is not counted");
    assert!(run(&plan.replace("0.96", "0.95"), "").contains(": 9 runs, 9.0e10 FLOP"), "a copy costs nothing");

    fs::create_dir_all(folder.path().join("golden/records")).unwrap();
    run(plan, "--out golden/records/figure-recall.smoke.cpu");
    let known = run(plan, "");
    let line = known.lines().find(|line| line.contains("FLOP")).unwrap();
    assert!(line.starts_with("about ") && line.contains(" s on this device: 12 runs, 1.2e11 FLOP, at the "), "{line}");
    assert!(line.ends_with("FLOP/s of record figure-recall.smoke.cpu"), "{line}");
    assert!(run(plan, "--scale small").contains("nothing is recorded for scale small on cpu"));
    assert_eq!(run(plan, "-q"), "");
}

#[test]
fn rows_that_the_device_does_not_run_are_skipped_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let done = invoke(folder.path(), &with("op = \"moe\""), "");
    let line = "varkey.headwise is skipped: op 3, moe, is not on cpu yet; run it with --device abacus\n";
    assert!(done.stderr.contains(line) && done.stderr.contains("[3/3] varkey.lowrank accuracy"), "{}", done.stderr);
    let end = "error: 1 row is skipped: not on cpu\nhint: --device cpu --rows varkey.headwise --out FOLDER runs it\n";
    assert!(done.code == 4 && done.stderr.ends_with(end), "{}", done.stderr);
    assert!(done.stdout.contains("claims: "), "the table is printed: {}", done.stdout);
    assert_eq!(measured(folder.path()), [1, 1, 0, 1]);
    assert_eq!(read(&folder.path().join(OUT)).unwrap().record.rows.len(), 3);
}

#[test]
fn finished_rows_survive_a_failing_one() {
    let folder = tempfile::tempdir().unwrap();
    let failed = invoke(folder.path(), &with("fail = \"error\""), "");
    assert_eq!((failed.code, failed.stdout.as_str()), (2, ""));
    assert_eq!(read(&folder.path().join(OUT)).unwrap().record.rows.len(), 2);
    assert_eq!(invoke(folder.path(), GOOD, "--resume").code, 0);
    assert_eq!(measured(folder.path()), [1, 1, 2, 1]);
}

#[test]
fn recorded_runs_are_printed_alone_and_beside_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = invoke(folder.path(), GOOD, "--recorded");
    assert_eq!(nowhere.code, 2);
    assert!(nowhere.stderr.contains("no golden/records folder here or above\nhint: run it inside the repository"));

    let record = |name: &str| format!("--out golden/records/figure-recall.{name}.cpu");
    fs::create_dir_all(folder.path().join("golden/records")).unwrap();
    let none = invoke(folder.path(), GOOD, "--recorded");
    assert!(
        none.code == 2 && none.stderr.contains("no such record of figure-recall; recorded: none"),
        "{}",
        none.stderr
    );
    invoke(folder.path(), GOOD, &record("smoke"));
    invoke(folder.path(), &GOOD.replace("0.96", "0.97"), &format!("--scale small {}", record("small")));

    let inside = folder.path().join("crates/deep");
    fs::create_dir_all(&inside).unwrap();
    let csv = |args: &str| invoke(&inside, GOOD, &format!("{args} --format csv"));
    let largest = csv("--recorded");
    assert_eq!(largest.code, 0, "{}", largest.stderr);
    assert!(largest.stdout.contains("varkey.lowrank,accuracy,,U,0.971,0.97,0.972,3,3,,,,,,skip"), "{}", largest.stdout);
    assert!(largest.stderr.contains("-p reproduce-figure-recall -- --scale small"), "{}", largest.stderr);
    assert!(csv("--recorded --scale smoke").stdout.contains("varkey.lowrank,accuracy,,U,0.961,0.96,0.962,3,3,,,,,,ok"));
    assert_eq!(csv("--recorded --device cuda").code, 2);
    assert_eq!(csv("--recorded --rows varkey.non").code, 2);
    let beside = csv("");
    assert!(
        beside.stdout.contains("varkey.lowrank,accuracy,,U,0.971,0.97,0.972,3,3,0.961,0.96,0.962,3,3,ok"),
        "{}",
        beside.stdout
    );

    let golden = folder.path().join("golden");
    fs::write(golden.join("stale.toml"), "[stale]\n\"figure-recall.small.cpu\" = \"the kernel changed\"\n").unwrap();
    let stale = invoke(&inside, GOOD, "--recorded").stdout;
    assert!(stale.contains("(stale)") && stale.contains("stale: the kernel changed."), "{stale}");

    fs::write(golden.join("records/figure-recall.small.cpu/metrics.csv"), "row,seed\n").unwrap();
    let broken = invoke(&inside, GOOD, "--recorded");
    assert!(broken.code == 2 && broken.stderr.contains("metrics.csv: sha256 is"), "{}", broken.stderr);
    let warned = invoke(&inside, GOOD, "");
    assert!(warned.code == 0 && warned.stderr.contains("the recorded column is left out"), "{}", warned.stderr);
}
