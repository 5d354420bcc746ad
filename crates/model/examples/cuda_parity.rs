//! The CUDA backend against the CPU's on every op alone and every variant of the model: loss, and the gradient of every parameter.
//!
//! `cargo run --release -p model --example cuda_parity [-- --shard 0/8] [--only NAME]`, on a machine with a GPU. In f32 every tensor
//! agrees to a relative 1e-4, in bf16 to 2e-2 (models of 16 columns 6e-2). Mixtures in bf16 are counted apart where, from each of 16
//! states, some token meets other experts than on the CPU, whose logits are not rounded: no number
//! near the CPU's is to be expected there, and what does not need one is still checked. Gradients in bf16 that are further off, but at
//! most twice as far as the furthest of the CPU's own moves when nothing but the parameters is rounded, are named and counted apart too. The same bits come from a second backend, from the graph that replaces the single launches from the second run on, from a batch taken in
//! ahead of its pass, and with activations made again in the backward. Wider models also take a batch in two parts. One line per
//! variant that fails, one line in the end; exit code 1 if any failed.

#[path = "../../reference/tests/oracle/common.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "the oracle's variants, of whose helpers this uses some")]
mod common;

#[path = "../../reference/tests/oracle/op_tapes.rs"]
mod op_tapes;

#[path = "cuda_parity/experts.rs"]
mod experts;

#[path = "cuda_parity/rounding.rs"]
mod rounding;

use std::process::ExitCode;

use backend::{AdamW, Backend, Batch, CpuBackend, CudaBackend, IGNORE, Params, Part, Precision, Scores, Tape};
use common::{VOCAB, distance, norm, random_batch, variants, wide, wider};
use model::{Mlp, Transformer};
use rounding::{LEAST, Off};

type Failures = Vec<String>;
type Case = (String, Tape, Batch, Precision);

fn main() -> Result<ExitCode, backend::Error> {
    if let Err(e) = backend::cuda_device(0) {
        eprintln!("error: {e}");
        return Ok(ExitCode::from(3));
    }
    let args: Vec<String> = std::env::args().collect();
    let value = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1));
    let shard =
        value("--shard").and_then(|s| s.split_once('/')).and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    let (shard, shards): (usize, usize) = shard.unwrap_or((0, 1));
    let only = value("--only");

    let mut all: Vec<Case> = Vec::new();
    for (name, tape, data) in op_tapes::op_tapes().into_iter().chain(op_tapes::recurrent_tapes()) {
        all.push((name, tape, data, Precision::F32));
    }
    let mut push = |name: &str, model: &Transformer, batch, len, borders: Option<Vec<usize>>, precision| {
        let name = format!("{name}, {batch} x {len}, borders {borders:?}, {precision:?}");
        let tape = model.record(batch, len)?;
        let mut data = random_batch(&tape, VOCAB, len as u64);
        data.cu_seqlens = borders;
        all.push((name, tape, data, precision));
        Ok::<_, backend::Error>(())
    };
    for (name, model) in variants() {
        for (batch, len, borders) in
            [(2, 1, None), (1, 2, None), (2, 3, None), (1, 63, None), (1, 24, Some(vec![0, 1, 3, 12, 24]))]
        {
            push(&name, &model, batch, len, borders, Precision::F32)?;
        }
        push(&name, &model, 2, 63, None, Precision::Bf16)?;
        if let Mlp::Moe(_) = model.mlp {
            // The fewer tokens, the fewer that stand between two experts.
            push(&name, &model, 2, 3, None, Precision::Bf16)?;
            push(&name, &model, 1, 12, Some(vec![0, 5, 12]), Precision::Bf16)?;
        }
    }
    let wider: Vec<_> = wider().into_iter().chain([("experts, wider".into(), experts::wider())]).collect();
    for (name, model) in wider.clone() {
        for precision in [Precision::F32, Precision::Bf16] {
            push(&name, &model, 2, 300, None, precision)?;
            push(&name, &model, 1, 300, Some(vec![0, 170, 300]), precision)?;
        }
    }
    let all = all.into_iter().enumerate();
    let mine = all.filter(|(i, case)| i % shards == shard && only.is_none_or(|only| case.0.contains(only)));

    let (mut cases, mut elsewhere, mut ill, mut failures, mut worst) = (0, 0, 0, Failures::new(), [0.0f64; 2]);
    for (_, (name, tape, data, precision)) in mine {
        match check(&name, &tape, &data, precision, &mut failures) {
            Ok(None) => elsewhere += 1,
            Ok(Some((apart, tensors))) => {
                cases += 1;
                ill += tensors;
                let worst = &mut worst[usize::from(precision == Precision::Bf16)];
                *worst = worst.max(apart);
            }
            Err(e) => failures.push(format!("{name}: {e}")),
        }
    }
    for (i, (name, model)) in wider.into_iter().enumerate() {
        if i % shards == shard && only.is_none_or(|only| name.contains(only)) {
            for precision in [Precision::F32, Precision::Bf16] {
                match in_parts(&format!("{name}, {precision:?}"), &model, precision, &mut failures) {
                    Ok(true) => cases += 1,
                    Ok(false) => elsewhere += 1,
                    Err(e) => failures.push(format!("{name}: {e}")),
                }
            }
        }
    }
    failures.iter().for_each(|failure| println!("{failure}"));
    println!(
        "{cases} cases, {} failures, {elsewhere} with other experts, {ill} ill-conditioned tensors, worst f32 {:.2e}, worst bf16 {:.2e}",
        failures.len(),
        worst[0],
        worst[1]
    );
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The relative distance of the worst tensor, and tensors of ill-conditioned models that are further off; none where tokens meet other experts than on the CPU.
fn check(
    name: &str,
    tape: &Tape,
    data: &Batch,
    precision: Precision,
    failures: &mut Failures,
) -> Result<Option<(f64, usize)>, backend::Error> {
    let (state, moved) = experts::state(tape, data, precision)?;
    let mut cpu = CpuBackend::new();
    cpu.load(state.clone())?;
    let want = cpu.gradients(tape, data)?;
    let want_gradients = cpu.read_gradients()?;

    let run = |steps: usize| -> Result<(CudaBackend, Vec<Scores>), backend::Error> {
        let mut cuda = CudaBackend::new(0, precision)?;
        cuda.load(state.clone())?;
        let scores = (0..steps).map(|_| cuda.gradients(tape, data)).collect::<Result<_, _>>()?;
        Ok((cuda, scores))
    };
    let (mut cuda, scores) = run(3)?;
    let have = cuda.read_gradients()?;
    let (again, once) = run(1)?;
    if scores.iter().any(|s| *s != once[0]) || again.read_gradients()? != have {
        failures.push(format!("{name}: two runs differ, or the graph from the launches"));
    }
    // Sums over the 16 columns of the tiny models average little of the rounding out.
    let allowed = match (precision, tape.specs().iter().map(|s| s.numel()).max()) {
        (Precision::F32, _) => 1e-4,
        (Precision::Bf16, Some(4096..)) => 2e-2,
        (Precision::Bf16, _) => 6e-2,
    };
    if moved > 0 {
        println!("{name}: {moved} choices of experts are not the CPU's");
        ahead_and_again(name, tape, data, (&mut cuda, &scores[2], &have), failures)?;
        return Ok(None);
    }
    let (mut worst, off) = compare(name, (&want, &want_gradients), (&scores[2], &have), allowed, failures);
    let ill = if precision == Precision::Bf16 && !off.is_empty() {
        rounding::ill_conditioned(tape, data, &state, &off)?
    } else {
        vec![false; off.len()]
    };
    for (off, ill) in off.iter().zip(&ill) {
        let what = off.said(name, &want_gradients);
        if *ill {
            println!("{what}: ill conditioned");
        } else {
            worst = worst.max(off.apart / off.size);
            failures.push(what);
        }
    }
    let ill = ill.iter().filter(|ill| **ill).count();

    ahead_and_again(name, tape, data, (&mut cuda, &scores[2], &have), failures)?;
    // Both hold the gradients of the whole batch again.
    cuda.gradients(tape, data)?;

    // The state moves between devices: one step on each from the same gradients' state.
    let rule = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 };
    let (norm_cpu, norm_cuda) = (cpu.update(&rule)?, cuda.update(&rule)?);
    if f64::from((norm_cpu - norm_cuda).abs()) > allowed * f64::from(norm_cpu) {
        failures.push(format!("{name}: gradient norm {norm_cuda}, expected {norm_cpu}"));
    }
    let moved = cuda.state()?;
    cpu.load(moved.clone())?;
    if cpu.state()? != moved {
        failures.push(format!("{name}: the state does not survive the move"));
    }
    if precision == Precision::F32 {
        evaluation(name, tape, data, &mut cpu, &mut cuda, failures)?;
    }
    Ok(Some((worst, ill)))
}

/// What changes no bit: a batch taken in ahead of its pass, also where another one comes, and activations made again.
fn ahead_and_again(
    name: &str,
    tape: &Tape,
    data: &Batch,
    (cuda, want, gradients): (&mut CudaBackend, &Scores, &Params),
    failures: &mut Failures,
) -> Result<(), backend::Error> {
    let mut other = data.clone();
    other.ids.rotate_left(1);
    let mut recompute = tape.clone();
    recompute.set_recompute(true);
    for (what, tape, batches) in
        [("taken in ahead", tape, [data, &other, data]), ("recomputed", &recompute, [data, data, data])]
    {
        let mut scores = Scores::default();
        for ahead in batches {
            cuda.begin(tape, data, Part::WHOLE)?;
            cuda.prepare(tape, ahead, Part::WHOLE)?;
            scores = cuda.scores()?;
        }
        if scores != *want || cuda.read_gradients()? != *gradients {
            failures.push(format!("{name}: {what}, the bits differ"));
        }
    }
    Ok(())
}

/// A batch in two parts, some labels ignored, against the CPU's gradients of the whole; and the same bits again, by the graphs. False
/// where tokens meet other experts than on the CPU.
fn in_parts(
    name: &str,
    model: &Transformer,
    precision: Precision,
    failures: &mut Failures,
) -> Result<bool, backend::Error> {
    let (whole, half) = (model.record(4, 300)?, model.record(2, 300)?);
    let mut data = random_batch(&whole, VOCAB, 7);
    data.targets[..400].fill(IGNORE);
    let (state, moved) = experts::state(&whole, &data, precision)?;
    let mut cpu = CpuBackend::new();
    cpu.load(state.clone())?;
    let want = cpu.gradients(&whole, &data)?;
    let want_gradients = cpu.read_gradients()?;

    let labels = |targets: &[u32]| targets.iter().filter(|&&t| t != IGNORE).count();
    let parts = data.ids.chunks(600).zip(data.targets.chunks(600));
    let parts: Vec<(Batch, Part)> = parts
        .enumerate()
        .map(|(i, (ids, targets))| {
            let share = labels(targets) as f32 / labels(&data.targets) as f32;
            (Batch::new(ids.into(), targets.into()), Part { share, add: i > 0 })
        })
        .collect();
    let mut cuda = CudaBackend::new(0, precision)?;
    cuda.load(state)?;
    let mut runs: Vec<(f32, Params)> = Vec::new();
    for _ in 0..3 {
        let mut loss = 0.0;
        for (i, (batch, part)) in parts.iter().enumerate() {
            cuda.begin(&half, batch, *part)?;
            let (ahead, part_ahead) = &parts[1 - i];
            cuda.prepare(&half, ahead, *part_ahead)?;
            loss += part.share * cuda.scores()?.loss;
        }
        runs.push((loss, cuda.read_gradients()?));
    }
    if runs.iter().any(|run| *run != runs[0]) {
        failures.push(format!("{name}: in parts, two runs differ, or the graph from the launches"));
    }
    if moved > 0 {
        return Ok(false);
    }
    let have = Scores { loss: runs[0].0, ..Scores::default() };
    let allowed = if precision == Precision::F32 { 1e-4 } else { 2e-2 };
    let name = format!("{name}, in parts");
    let (_, off) = compare(&name, (&want, &want_gradients), (&have, &runs[0].1), allowed, failures);
    failures.extend(off.iter().map(|off| off.said(&name, &want_gradients)));
    Ok(true)
}

/// Both hold the same state: an evaluation and every logit agree.
fn evaluation(
    name: &str,
    tape: &Tape,
    data: &Batch,
    cpu: &mut CpuBackend,
    cuda: &mut CudaBackend,
    failures: &mut Failures,
) -> Result<(), backend::Error> {
    let (want, have) = (cpu.evaluate(tape, data)?, cuda.evaluate(tape, data)?);
    let logits = tape.logits().ok_or_else(no_loss)?;
    let (a, b) = (wide(&cpu.read(logits)?), wide(&cuda.read(logits)?));
    if f64::from((want.loss - have.loss).abs()) > 1e-4 * f64::from(want.loss) || distance(&a, &b) > 1e-4 * norm(&a) {
        failures.push(format!("{name}: after an update: loss {} for {}", have.loss, want.loss));
    }
    Ok(())
}

fn no_loss() -> backend::Error {
    backend::Error::Batch { what: "a model without a loss".into(), remedy: "record cross_entropy last" }
}

/// The relative distance of the loss and of the tensors within bounds, the worst of them; and the tensors that are off.
fn compare(
    name: &str,
    (want, want_gradients): (&Scores, &Params),
    (have, gradients): (&Scores, &Params),
    allowed: f64,
    failures: &mut Failures,
) -> (f64, Vec<Off>) {
    if !have.load.is_empty() {
        let aux = f64::from((want.aux - have.aux).abs());
        if have.load != want.load || aux.is_nan() || aux > allowed * f64::from(want.aux) {
            failures
                .push(format!("{name}: load {:?} for {:?}, aux {} for {}", have.load, want.load, have.aux, want.aux));
        }
    }
    let mut worst = f64::from((want.loss - have.loss).abs() / want.loss);
    if worst.is_nan() || worst > allowed {
        failures.push(format!("{name}: loss {} for {}", have.loss, want.loss));
    }
    let mut off = Vec::new();
    let whole = norm(&want_gradients.values.iter().flat_map(|v| wide(v)).collect::<Vec<_>>());
    for (at, (want, have)) in want_gradients.values.iter().zip(&gradients.values).enumerate() {
        let apart = distance(&wide(want), &wide(have));
        let size = norm(&wide(want)).max(LEAST * whole);
        if apart.is_nan() || apart > allowed * size {
            off.push(Off { at, apart, size });
        } else {
            worst = worst.max(apart / size);
        }
    }
    (worst, off)
}
