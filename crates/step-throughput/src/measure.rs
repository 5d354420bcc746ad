//! Times the steps of one row.

use std::time::Instant;

use backend::{AdamW, Backend, Batch, CpuBackend, CudaBackend, Init, ParamSpec, Params, Precision, State, Tape};

use train::Parts;

use crate::{Row, model_flops};

/// What a row's steps took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Median time of a step.
    pub ms_per_step: f64,
    /// Tokens of a batch over that time.
    pub tokens_per_second: f64,
    /// Floating-point operations a second: [`model_flops`] over that time.
    pub flops_per_second: f64,
    /// Device memory in use after the steps, what other programs hold left out; none on the CPU.
    pub peak_gib: Option<f64>,
    /// Loss of the first and of the last step.
    pub loss: (f32, f32),
}

/// The rule of every step.
pub fn rule() -> AdamW {
    AdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 }
}

/// A backend on the CPU or, given an ordinal, on that GPU in bf16.
///
/// # Errors
/// Where there is no such device.
pub fn backend(cuda: Option<usize>) -> backend::Result<Box<dyn Backend>> {
    Ok(match cuda {
        None => Box::new(CpuBackend::new()),
        Some(ordinal) => Box::new(CudaBackend::new(ordinal, Precision::Bf16)?),
    })
}

/// So many random tokens that follow each other: each label is the next id.
pub fn batch(tokens: usize, vocab: usize) -> Batch {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab as u64) as u32
    };
    let ids: Vec<u32> = (0..=tokens).map(|_| draw()).collect();
    Batch::new(ids[..tokens].to_vec(), ids[1..].to_vec())
}

/// Parameters whose speed is that of any: small pseudo-random values, one for norm gains.
pub fn state(tape: &Tape) -> State {
    let specs = tape.specs();
    let draw = |spec: &ParamSpec| -> Vec<f32> {
        let mut state = 0x2545_f491_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5) * 0.07
        };
        if spec.init == Init::Ones { vec![1.0; spec.numel()] } else { (0..spec.numel()).map(|_| next()).collect() }
    };
    let values = specs.iter().map(draw).collect();
    State::new(Params { specs, values })
}

/// Times a row's steps on a GPU or, without an ordinal, on so many threads of the CPU.
///
/// # Errors
/// If the device is absent, fails or cannot hold the step, or the threads cannot be started.
pub fn measure(row: &Row, cuda: Option<usize>, threads: usize) -> train::Result<Timing> {
    Ok(if cuda.is_some() { time(row, cuda)? } else { with_threads(threads, || time(row, None))?? })
}

/// Calls on a pool of so many threads, which is the one that the CPU's kernels share their work out on.
fn with_threads<T: Send>(threads: usize, call: impl FnOnce() -> T + Send) -> train::Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    Ok(pool.map_err(|e| train::Error::Threads { threads, what: e.to_string() })?.install(call))
}

fn time(row: &Row, cuda: Option<usize>) -> backend::Result<Timing> {
    let tape = row.tape()?;
    let parts = Parts::new(batch(row.tokens(), row.model.vocab), row.accumulate);
    let free = || -> backend::Result<Option<usize>> {
        Ok(cuda.map(kernels::cuda::Device::new).transpose()?.map(|d| d.memory()).transpose()?.map(|(free, _)| free))
    };
    let before = free()?;
    let mut backend = backend(cuda)?;
    backend.load(state(&tape))?;
    let (mut times, mut losses) = (Vec::new(), Vec::new());
    for step in 0..row.warmup + row.steps.max(1) {
        let start = Instant::now();
        losses.push(parts.step(&mut *backend, &tape, &rule(), || Some(&parts))?[0]);
        if step >= row.warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let after = free()?;
    times.sort_by(f64::total_cmp);
    let seconds = times[times.len() / 2];
    Ok(Timing {
        ms_per_step: seconds * 1e3,
        tokens_per_second: row.tokens() as f64 / seconds,
        flops_per_second: row.accumulate as f64 * model_flops(&tape) / seconds,
        peak_gib: before.zip(after).map(|(b, a)| b.saturating_sub(a) as f64 / (1u64 << 30) as f64),
        loss: (losses[0], losses[losses.len() - 1]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_pass_has_the_threads_asked_for() {
        for threads in [1, 3] {
            assert_eq!(with_threads(threads, rayon::current_num_threads).unwrap(), threads);
        }
        let row = include_str!("../../../reproduce/table-4/table-4.toml");
        let row = report::plan::Plan::parse(row).unwrap().resolve("smoke", None).unwrap().remove(0);
        let row: Row = row.config.try_into().unwrap();
        let [one, two] = [1, 2].map(|threads| measure(&row, None, threads).unwrap());
        assert_eq!(one.loss, two.loss, "the numbers do not depend on the threads");
    }
}
