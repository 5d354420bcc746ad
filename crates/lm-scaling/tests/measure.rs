//! Rows measured whole, on the CPU, at a size that takes milliseconds.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use cli::Experiment;
use lm_scaling::{Measured, Result, Row};
use report::measured::Metric;
use serde_json::{Value, json};
use train::{Device, Event, Options, What};

/// A small row with a partial row laid over it.
fn row(change: Value) -> Row {
    let mut row = json!({
        "model": { "vocab": 65, "d_model": 16, "layers": 1, "heads": 2, "ffn": 32, "conv": { "kind": "low-rank", "rank": 2 } },
        "data": { "text": "tinyshakespeare", "context": 16 },
        "train": { "steps": 12, "batch": 4, "lr": 1e-2, "eval_every": 5, "eval_examples": 6 },
    });
    for (table, fields) in change.as_object().unwrap() {
        match (row.get_mut(table), fields) {
            (Some(Value::Object(into)), Value::Object(from)) => into.extend(from.clone()),
            _ => row[table] = fields.clone(),
        }
    }
    serde_json::from_value(row).unwrap()
}

fn options() -> Options {
    Options { device: Device::Cpu, threads: 1, out: None, resume: false, keep: false, deadline: None }
}

fn measured(
    row: &Row,
    seeds: &[u64],
    data: Option<&Path>,
    options: &Options,
    listen: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Measured> {
    lm_scaling::measure("a", row, seeds, data, &[], options, listen)
}

fn run(row: &Row, seeds: &[u64], options: &Options) -> Measured {
    measured(row, seeds, None, options, &|_| ()).unwrap()
}

/// All but what wall time decides.
fn bits(points: &[Metric]) -> Vec<(u64, u64, &str, u64)> {
    let timeless = points.iter().filter(|p| !["tokens_per_s", "train_s"].contains(&p.metric.as_str()));
    timeless.map(|p| (p.seed, p.step, p.metric.as_str(), p.value.to_bits())).collect()
}

fn last(points: &[Metric], metric: &str) -> Metric {
    points.iter().rfind(|p| p.metric == metric).unwrap_or_else(|| panic!("no {metric}")).clone()
}

#[test]
fn a_row_measures_what_it_says() {
    let row = row(json!({}));
    let measured = run(&row, &[3], &options());
    assert!(measured.complete && measured.counted.is_none() && measured.data_sha256.len() == 2);
    let last = |metric| last(&measured.points, metric);
    let steps: Vec<u64> = measured.points.iter().filter(|p| p.metric == "loss").map(|p| p.step).collect();
    assert_eq!(steps, [5, 10, 12]);
    let loss = last("loss").value;
    assert_eq!((last("ppl").value, last("bpb").value), (loss.exp(), loss / std::f64::consts::LN_2));
    assert!(last("best_loss").value <= loss && last("best_loss").step == 12);
    assert!((last("initial_loss").value - 65f64.ln()).abs() < 0.05);
    assert!(last("tokens_per_s").value > 0.0);
    let tape = row.model.record(4, 16).unwrap();
    assert_eq!(last("flops").value, 12.0 * 3.0 * tape.flops());
    assert_eq!(last("params").value, tape.parameter_count() as f64 / 1e6);
}

#[test]
fn numbers_do_not_depend_on_the_threads() {
    let row = row(json!({}));
    let one = run(&row, &[0, 1], &options());
    for threads in [2, 3] {
        let other = run(&row, &[0, 1], &Options { threads, ..options() });
        assert_eq!(bits(&other.points), bits(&one.points), "{threads} threads");
    }
}

/// Documents of 8 tokens: packed ones start 8 sequences a row, of which none sees the others.
#[test]
fn packed_documents_do_not_see_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::create_dir(&text).unwrap();
    let ids: Vec<u8> = (0..4000u32).flat_map(|i| [if i % 8 == 0 { 0 } else { 1 + (i * i / 8 % 7) as u8 }, 0]).collect();
    let split = json!({ "tokens": 4000, "docs": 500, "bytes_text": 4000 });
    for name in ["train", "val"] {
        std::fs::write(text.join(format!("{name}.u16")), &ids).unwrap();
    }
    let index =
        json!({ "dtype": "u16", "eot": 0, "vocab": 8, "tokenizer": "t", "splits": { "train": split, "val": split } });
    std::fs::write(text.join("index.json"), index.to_string()).unwrap();
    let loss = |documents: &str| {
        let data = json!({ "text": "text", "context": 64, "documents": documents });
        let row = row(json!({ "data": data, "model": { "vocab": 8 }, "train": { "batch": 1, "steps": 5 } }));
        let measured = measured(&row, &[0], Some(folder.path()), &options(), &|_| ()).unwrap();
        last(&measured.points, "loss").value
    };
    let (packed, ignored) = (loss("packed"), loss("ignored"));
    assert!((packed - ignored).abs() > 1e-6 && packed < 3.0 && ignored < 3.0, "{packed} and {ignored}");
}

#[test]
fn the_reference_agrees() {
    let row = row(json!({ "train": { "steps": 3 } }));
    let cpu = run(&row, &[0], &options());
    let dfdx = run(&row, &[0], &Options { device: Device::Dfdx, ..options() });
    for metric in ["initial_loss", "initial_grad_norm", "loss"] {
        let [a, b] = [&cpu, &dfdx].map(|measured| last(&measured.points, metric).value);
        assert!((a / b - 1.0).abs() < 1e-4, "{metric}: {a} and {b}");
    }
}

#[test]
fn what_a_deadline_stops_can_be_resumed_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let row = row(json!({}));
    let kept = Options { out: Some(folder.path().into()), resume: true, ..options() };
    let whole = run(&row, &[0], &options());
    // The deadline is now: the step under way is the last.
    let stopped = measured(&row, &[0], None, &Options { deadline: Some(Instant::now()), ..kept.clone() }, &|_| ());
    assert!(!stopped.unwrap().complete);
    let resumed = run(&row, &[0], &kept);
    assert_eq!(bits(&resumed.points), bits(&whole.points));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // Kept on demand, with the model's configuration inside.
    run(&row, &[0], &Options { keep: true, ..kept });
    let run = train::stored_run(&folder.path().join("a.seed-0.safetensors")).unwrap();
    assert_eq!(run["row"]["model"]["d_model"], 16);
}

#[test]
fn a_run_that_diverges_says_where_and_shows_as_nan() {
    let heard = Mutex::new(Vec::new());
    let listen = |event: Event<'_>| {
        if let What::Diverged { error } = event.what {
            heard.lock().unwrap().push(error.to_string());
        }
    };
    let row = row(json!({ "train": { "lr": 1e30 } }));
    let measured = measured(&row, &[0], None, &options(), &listen).unwrap();
    assert!(last(&measured.points, "ppl").value.is_nan() && last(&measured.points, "best_loss").value.is_nan());
    let curve: Vec<u64> = measured.points.iter().filter(|p| p.metric == "train_loss").map(|p| p.step).collect();
    assert!(curve == [1, 2] && last(&measured.points, "initial_loss").value.is_finite(), "{curve:?}");
    let message = &heard.into_inner().unwrap()[0];
    for part in ["step 2: loss", "not finite", "has norm", "hint: lower train.lr"] {
        assert!(message.contains(part), "{message}");
    }
}

/// Through the command.
#[test]
fn the_record_of_a_diverged_run_says_where() {
    const PLAN: &str = r#"
        [base]
        seeds = [3]
        model = { vocab = 65, d_model = 16, layers = 1, heads = 2, ffn = 32 }
        data = { text = "tinyshakespeare", context = 16 }
        train = { steps = 12, batch = 4, lr = 1e30, eval_every = 5, eval_examples = 6 }
        [scale.smoke]
        [[row]]
        id = "ROW"
    "#;
    let ours = report::plan::Plan::parse(lm_scaling::Table::nanogpt().plan()).unwrap();
    let plan = PLAN.replace("ROW", &ours.resolve("smoke", None).unwrap()[0].id);
    let table = lm_scaling::Table::new("nanogpt", plan.leak(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--out", folder.path().to_str().unwrap(), "-q"].map(String::from);
    assert!(cli::run_with(&table, &flags, &mut Vec::new()) <= 1);
    let run = report::record::read(folder.path()).unwrap();
    let [remark] = &run.record.rows[0].remarks[..] else { panic!("{:?}", run.record.rows[0].remarks) };
    assert!(remark.starts_with("seed 3 diverged at step 2: loss") && remark.contains("gradient norm"), "{remark}");
    assert!(!remark.contains("hint"), "{remark}");
}

#[test]
fn without_its_text_a_row_is_refused_or_counted() {
    let missing = json!({ "text": "no/such", "context": 16 });
    let refused = measured(&row(json!({ "data": missing })), &[0], None, &options(), &|_| ());
    assert!(refused.unwrap_err().to_string().starts_with("there is no text no/such: "));
    let counted = run(&row(json!({ "data": missing, "without_data": "count" })), &[0, 1], &options());
    let metrics: Vec<(u64, &str)> = counted.points.iter().map(|p| (p.seed, p.metric.as_str())).collect();
    assert_eq!(metrics, [(0, "params"), (0, "active_params"), (1, "params"), (1, "active_params")]);
    assert!(counted.complete && counted.counted.unwrap().contains("--data"));
}

/// Probes add their metrics and change no other; what is not at hand is named, a probe unknown or twice is refused.
#[test]
fn probes_ask_the_trained_model() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["text", "eval"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let text = folder.path().join("text");
    let ids: Vec<u8> = (0..400u32).flat_map(|i| [(i * i % 7) as u8, 0]).collect();
    for split in ["train", "val"] {
        std::fs::write(text.join(format!("{split}.u16")), &ids).unwrap();
    }
    let split = json!({ "tokens": 400, "docs": 1, "bytes_text": 1600 });
    let splits = json!({ "train": split, "val": split });
    let index = json!({ "dtype": "u16", "eot": 0, "vocab": 16384, "tokenizer": "bpe16384.json", "splits": splits });
    std::fs::write(text.join("index.json"), index.to_string()).unwrap();
    let pair = json!({ "uid": "u", "term": "t", "field": "syntax", "good": "She sleeps.", "bad": "She sleep." });
    std::fs::write(folder.path().join("eval/blimp.jsonl"), pair.to_string()).unwrap();
    let row = |probe: Value| {
        row(json!({ "data": { "text": "text" }, "model": { "vocab": 16384 }, "train": { "steps": 3 }, "probe": probe }))
    };
    let run = |probe: Value| measured(&row(probe), &[0, 1], Some(folder.path()), &options(), &|_| ()).unwrap();
    let (plain, probed) = (run(json!([])), run(json!(["blimp", "domains"])));
    let of = |points: &[Metric], names: &[&str]| -> Vec<Metric> {
        points.iter().filter(|p| names.contains(&p.metric.as_str())).cloned().collect()
    };
    let found = of(&probed.points, &["blimp", "blimp_syntax"]);
    assert_eq!(found.len(), 4, "two metrics of two seeds: {found:?}");
    assert!(found.iter().all(|p| p.step == 3 && [0.0, 100.0].contains(&p.value)), "{found:?}");
    let rest: Vec<Metric> = probed.points.iter().filter(|p| !p.metric.starts_with("blimp")).cloned().collect();
    assert_eq!(bits(&rest), bits(&plain.points));
    assert!(probed.data_sha256.contains_key("eval/blimp.jsonl"));
    assert_eq!((probed.left_out.len(), plain.left_out.len()), (1, 0));
    assert!(probed.left_out[0].starts_with("without bpb_c4, bpb_medquad, "), "{:?}", probed.left_out);
    assert!(probed.left_out[0].ends_with("domains"), "the folder is named: {:?}", probed.left_out);
    let twice = row(json!(["blimp", "blimp"])).check().unwrap_err().to_string();
    assert_eq!(twice, "probe: Blimp stands twice; name each probe once");
}

/// A probe's metrics are columns of the item, or they would be lost.
#[test]
fn a_probe_that_the_item_does_not_list_is_refused() {
    let table = lm_scaling::Table::scaling();
    let checked = |probe: &str| {
        let mut row = toml::Table::try_from(row(json!({}))).unwrap();
        row.insert("probe".into(), toml::Value::Array(vec![probe.into()]));
        table.check(&row).map_err(|e| e.message)
    };
    assert_eq!([checked("domains"), checked("blimp")], [Ok(()), Ok(())]);
    assert_eq!(checked("lambada"), Err("probe: it finds ppl_lambada, which is no metric of figure-scaling".into()));
    assert!(checked("blmip").unwrap_err().contains("unknown variant `blmip`"));
}

/// Of a text that is built in the command needs no folder, but its probes may.
#[test]
fn rows_that_read_prepared_texts_are_known() {
    let reads = |change: Value| lm_scaling::Table::scaling().reads_data(&toml::Table::try_from(row(change)).unwrap());
    let changes = [json!({}), json!({ "data": { "text": "books/tok16k" } }), json!({ "probe": ["domains"] })];
    assert_eq!(changes.map(reads), [false, true, true]);
}

/// Known without a GPU, so that the other rows of a table go on.
#[test]
fn rows_of_sizes_that_a_gpu_cannot_take_are_refused_there_alone() {
    let device = |kind: &str| cli::Device { kind: kind.into(), name: "x".into(), threads: 1, driver: None, cuda: None };
    let plan = report::plan::Plan::parse(include_str!("../../../reproduce/table-1/table-1.toml")).unwrap();
    let table = lm_scaling::Table::one(&[]);
    for scale in ["smoke", "small", "paper"] {
        for row in plan.resolve(scale, None).unwrap() {
            assert_eq!(table.runs_on(&row.config, &device("cuda")).map_err(|e| e.message), Ok(()), "{}", row.id);
        }
    }
    let many = row(json!({ "model": { "mlp": { "moe": { "experts": 300, "top_k": 2, "ffn": 8 } } } }));
    let many = toml::Table::try_from(many).unwrap();
    assert_eq!(table.runs_on(&many, &device("cpu")).map_err(|e| e.message), Ok(()));
    let refused = table.runs_on(&many, &device("cuda")).unwrap_err().message;
    assert!(refused.contains("cuda moe") && refused.contains("experts") && refused.contains("300"), "{refused}");
}

/// By hand and by the metric of a run.
#[test]
fn the_cost_of_a_row_is_known_beforehand() {
    let table = lm_scaling::Table::scaling();
    let flops = |row: &Row, data| table.flops(&toml::Table::try_from(row).unwrap(), data);
    let plain = row(json!({}));
    assert_eq!(flops(&plain, None), Some(last(&run(&plain, &[0], &options()).points, "flops").value));
    let folder = tempfile::tempdir().unwrap();
    let counted = row(json!({ "data": { "text": "text" }, "without_data": "count" }));
    assert_eq!(flops(&counted, Some(folder.path())), None, "only its parameters are counted");
    std::fs::create_dir(folder.path().join("text")).unwrap();
    std::fs::write(folder.path().join("text/index.json"), "{}").unwrap();
    assert_eq!(flops(&counted, Some(folder.path())), flops(&plain, None));
}

#[test]
fn refusals_name_the_field_and_the_remedy() {
    for (change, part) in [
        (json!({ "model": { "heads": 3 } }), "3 heads do not divide d_model 16"),
        (json!({ "train": { "lr": 0.0 } }), "train.lr: 0 is out of range"),
        (json!({ "data": { "documents": "packed" } }), "train.batch: 4 rows of packed documents; use one longer row"),
        (json!({ "model": { "vocab": 64 } }), "model.vocab: 64, but the text has 65 different tokens"),
        (json!({ "train": { "eval_examples": 10_000 } }), "lower train.eval_examples or the context"),
    ] {
        let message = measured(&row(change), &[0], None, &options(), &|_| ()).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    assert!(serde_json::from_value::<Row>(json!({ "modle": {} })).is_err());
}
