use super::*;
use backend::Init;
use serde_json::json;

fn sample() -> (State, Log, Value) {
    let spec = |name: &str, shape: &[usize], init| ParamSpec {
        name: name.into(),
        shape: shape.to_vec(),
        init,
        decay: true,
        balance: None,
    };
    let specs: Arc<[ParamSpec]> =
        [spec("embed.weight", &[3, 2], Init::Normal { std: 0.1 }), spec("norm.weight", &[2], Init::Ones)].into();
    let mut state = State::new(Params::init(specs, 1));
    state.m.values[0][5] = f32::MIN_POSITIVE / 2.0;
    state.v.values[1][0] = -0.0;
    state.step = 17;
    let mut log = Log::default();
    log.push(16, Metric::Loss, 0.1 + 0.2);
    log.push(17, Metric::Accuracy, 1.0 / 3.0);
    log.made_by(1, "cpu");
    log.made_by(9, "cuda:0-bf16");
    (state, log, json!({ "train": { "lr": 5e-4_f32, "steps": 20 }, "seed": 3 }))
}

fn message(path: &Path, run: &Value) -> String {
    load(path, &sample().0.params.specs, run).unwrap_err().to_string()
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/a.safetensors");
    let (state, log, run) = sample();
    save(&path, &state, &log, &run).unwrap();
    let (again, log_again) = load(&path, &state.params.specs, &run).unwrap();
    let bits = |s: &State| -> Vec<u32> {
        let all = [&s.params, &s.m, &s.v].into_iter().flat_map(|p| &p.values);
        all.flatten().map(|v| v.to_bits()).collect()
    };
    assert_eq!(bits(&again), bits(&state));
    assert_eq!((again.step, log_again), (17, log.clone()));
    assert_eq!(stored_run(&path).unwrap()["seed"], 3);
    // The same content is the same file, and nothing else is left beside it.
    let first = fs::read(&path).unwrap();
    save(&path, &state, &log, &run).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn any_flipped_bit_is_found_and_the_tensor_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let (state, log, run) = sample();
    save(&path, &state, &log, &run).unwrap();
    let good = fs::read(&path).unwrap();
    let (header, head) = SafeTensors::read_metadata(&good).unwrap();
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 1 << (i % 8);
        fs::write(&path, &bad).unwrap();
        let message = message(&path, &run);
        if let Some(at) = i.checked_sub(8 + header) {
            let tensors = head.tensors();
            let (name, _) = tensors.iter().find(|(_, t)| (t.data_offsets.0..t.data_offsets.1).contains(&at)).unwrap();
            assert!(message.contains(&format!("tensor {name} does not match its sha-256; restore")), "{message}");
        }
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let (state, log, run) = sample();
    save(&path, &state, &log, &run).unwrap();
    let good = fs::read(&path).unwrap();
    for n in 0..good.len() {
        fs::write(&path, &good[..n]).unwrap();
        assert!(message(&path, &run).contains("cut short"));
    }
}

#[test]
fn removing_leaves_nothing_of_this_checkpoint_and_all_of_others() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.safetensors", ".a.safetensors.17.tmp", ".b.safetensors.17.tmp", "b.safetensors"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let path = folder.path().join("a.safetensors");
    remove(&path).unwrap();
    remove(&path).unwrap();
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".b.safetensors.17.tmp", "b.safetensors"]);
}

#[test]
fn another_runs_checkpoint_is_refused_and_the_field_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let (mut state, log, run) = sample();
    save(&path, &state, &log, &run).unwrap();
    let other = json!({ "train": { "lr": 1e-3_f32, "steps": 20 }, "seed": 3 });
    assert!(message(&path, &other).contains("field run.train.lr is 0.0005"), "{}", message(&path, &other));
    let fewer = json!({ "train": run["train"] });
    assert!(message(&path, &fewer).contains("field run.seed is 3 in the file and null in this run"));

    let mut specs = state.params.specs.to_vec();
    specs[0].shape = vec![2, 3];
    let refused = load(&path, &specs.clone().into(), &run).unwrap_err().to_string();
    assert!(refused.contains("tensor embed.weight is F32 [3, 2], not F32 [2, 3]"), "{refused}");
    specs[0].name = "other".into();
    let refused = load(&path, &specs.into(), &run).unwrap_err().to_string();
    assert!(refused.contains("tensor other is missing"), "{refused}");
    state.params.specs = state.params.specs[..1].into();
    let refused = load(&path, &state.params.specs, &run).unwrap_err().to_string();
    assert!(refused.contains("9 tensors for a model of 1 parameters"), "{refused}");
}
