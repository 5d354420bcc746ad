use super::*;
use std::fs;

fn point(row: &str, seed: u64, step: u64, value: f64) -> Metric {
    Metric { row: row.into(), seed, step, metric: "loss".into(), value }
}

fn sample() -> Run {
    let config: toml::Table = "steps = 100\nlr = 1.0\nmodel = { conv = { kind = \"none\" } }".parse().unwrap();
    let row = |id: &str| RowRecord {
        id: id.into(),
        seeds: vec![0, 1],
        git_rev: "abc".into(),
        wall_s: 1.25,
        config_sha256: config_hash(&config),
        config: config.clone(),
        remarks: if id == "a" { vec!["seed 1 moved".into()] } else { Vec::new() },
    };
    Run {
        record: RunRecord {
            schema: SCHEMA,
            item: "figure-recall".into(),
            scale: "smoke".into(),
            device: Device { kind: "cpu".into(), name: "a CPU".into(), threads: 2, driver: None, cuda: None },
            source: Source {
                git_rev: "abc".into(),
                dirty: Some(false),
                rustc: "1.95.0".into(),
                lockfile_sha256: sha256(b"lock"),
            },
            date: "2026-01-31".into(),
            dtype: "f32".into(),
            seeds: vec![0, 1],
            command: "cargo run -p reproduce-figure-recall".into(),
            wall_s: 2.5,
            kernels_sha256: BTreeMap::new(),
            data_sha256: BTreeMap::from([("text".into(), sha256(b"text"))]),
            rows: vec![row("a"), row("b, \"quoted\"")],
            files: BTreeMap::new(),
        },
        metrics: vec![point("a", 0, 9, 0.1 + 0.2), point("a", 1, 9, f64::INFINITY), point("b, \"quoted\"", 0, 9, 1e-9)],
        curve: vec![point("a", 0, 1, 5.0), point("a", 0, 9, 0.1 + 0.2)],
    }
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out/x");
    write(&out, sample()).unwrap();
    let mut read_back = read(&out).unwrap();
    assert_eq!(read_back.record.files.len(), 2);
    read_back.record.files.clear();
    assert_eq!(read_back, sample());
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["curve.csv", "metrics.csv", "run.json"], "nothing else is left behind");
}

#[test]
fn nan_survives_and_a_run_without_curves_has_no_curve_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = sample();
    run.curve.clear();
    run.metrics[0].value = f64::NAN;
    write(folder.path(), run).unwrap();
    let run = read(folder.path()).unwrap();
    assert!(run.metrics[0].value.is_nan() && run.curve.is_empty());
    assert!(!folder.path().join("curve.csv").exists());
}

#[test]
fn every_truncation_of_every_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), sample()).unwrap();
    for name in ["run.json", "metrics.csv", "curve.csv"] {
        let path = folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        // The last byte of run.json is its newline, without which it is still whole.
        let longest = if name == "run.json" { whole.len() - 2 } else { whole.len() - 1 };
        for len in (0..longest).step_by(11).chain([longest]) {
            fs::write(&path, &whole[..len]).unwrap();
            let message = read(folder.path()).expect_err(&format!("{name} cut to {len}")).to_string();
            assert!(message.contains(name), "{message}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read(folder.path()), Err(Error::Io { path: p, .. }) if p == path));
        fs::write(&path, &whole).unwrap();
    }
    assert!(read(folder.path()).is_ok());
}

#[test]
fn contradictions_are_named() {
    type Change<'a> = &'a dyn Fn(&mut Run);
    let cases: [(Change, &str); 4] = [
        (&|run| run.record.schema = 2, "schema 2 is not 1"),
        (&|run| run.record.rows[0].config_sha256 = "0".into(), "row a has config_sha256 0"),
        (&|run| run.metrics[0].seed = 5, "(row a, seed 5, step 9, metric loss) is of no row and seed"),
        (&|run| run.metrics[1] = run.metrics[0].clone(), "(row a, seed 0, step 9, metric loss) stands twice"),
    ];
    for (change, part) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut run = sample();
        change(&mut run);
        write(folder.path(), run).unwrap();
        let message = read(folder.path()).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), sample()).unwrap();
    let path = folder.path().join("run.json");
    let json = fs::read_to_string(&path).unwrap().replacen("\"dtype\"", "\"type\"", 1);
    fs::write(&path, json).unwrap();
    assert!(read(folder.path()).unwrap_err().to_string().contains("unknown field `type`"));
}

#[test]
fn csv_faults_are_named() {
    for (text, part) in [
        ("", "no end"),
        ("row,seed,step,metric\n", "the header is"),
        ("row,seed,step,metric,value\na,0,1,loss\n", "4 fields"),
        ("row,seed,step,metric,value\na,0,1,loss,x\n", "invalid float"),
    ] {
        let message = from_csv(text.as_bytes()).unwrap_err();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn curves_are_thinned_evenly_with_both_ends() {
    let mut points: Vec<Metric> = (0..2001).rev().map(|step| point("a", 0, step, step as f64)).collect();
    points.push(point("a", 1, 7, 7.0));
    let (last, curve) = split(&points);
    assert_eq!(last, [point("a", 0, 2000, 2000.0), point("a", 1, 7, 7.0)]);
    assert_eq!(curve.len(), CURVE_POINTS);
    assert_eq!((curve[0].step, curve[499].step), (0, 2000));
    assert!(curve.windows(2).all(|w| (4..=5).contains(&(w[1].step - w[0].step))));
}
