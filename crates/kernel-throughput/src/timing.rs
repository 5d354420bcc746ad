//! Times of one case. What is reported is the median; on a GPU its cache is emptied before each repetition.
//!
//! On a GPU twice: as a captured graph, which leaves the host out, and as plain launches between two events, the protocol
//! behind the paper's numbers (its backward is the difference of forward and backward, and forward). On a CPU by the clock.

use std::time::Instant;

use half::bf16;
use kernels::cuda::graph::{Graph, Moment};
use kernels::cuda::{CudaResult, CudaSlice, Device};

use crate::case::Case;
use crate::cpu;
use crate::gpu::{Given, Made};
use crate::values::Operands;

/// More than the last cache of any device of today.
const FLUSH: usize = 256 << 20;

/// Times in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Time {
    /// The median.
    pub median: f64,
    /// Half of the repetitions lie in this range, as a share of the median.
    pub spread: f64,
}

impl Time {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        Self { median: at(0.5), spread: (at(0.75) - at(0.25)) / at(0.5) }
    }
}

/// The times of a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// Forward; on a GPU as a graph.
    pub forward: Time,
    /// Forward and backward; none for a decode step.
    pub both: Option<Time>,
    /// Plain launches of both, on a GPU.
    pub plain: Option<(Time, Time)>,
}

/// Bytes per second, read and written, of a copy on the device larger than its cache.
///
/// # Errors
/// Those of the GPU runtime.
pub fn gpu_copy_rate(device: &Device) -> CudaResult<f64> {
    let bytes = 1 << 30;
    let from = device.zeros::<u8>(bytes)?;
    let mut to = device.zeros::<u8>(bytes)?;
    device.copy(&from, &mut to)?;
    let mut flush = device.zeros::<u8>(FLUSH)?;
    let time = timed(device, &mut flush, 20, || device.copy(&from, &mut to))?;
    Ok(2.0 * bytes as f64 / (time.median * 1e-6))
}

fn timed(
    device: &Device,
    flush: &mut CudaSlice<u8>,
    repetitions: usize,
    mut work: impl FnMut() -> CudaResult<()>,
) -> CudaResult<Time> {
    let mut times = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        device.clear(flush)?;
        let before = Moment::now(device)?;
        work()?;
        let after = Moment::now(device)?;
        device.synchronize()?;
        times.push(after.since(&before)? * 1e3);
    }
    Ok(Time::of(times))
}

/// Times a case in bf16 on a GPU.
///
/// # Errors
/// Those of the GPU runtime.
pub fn gpu(device: &Device, case: &Case, repetitions: usize) -> CudaResult<Times> {
    let operands = Operands::repeating(case, 0);
    let (given, mut made) = (Given::<bf16>::new(device, case, &operands)?, Made::new(device, case)?);
    drop(operands);
    let mut flush = device.zeros::<u8>(FLUSH)?;
    // Once beforehand: compiles and loads the kernels.
    given.forward(device, &mut made)?;
    given.backward(device, &mut made)?;
    device.synchronize()?;
    let forward = Graph::record(device, || given.forward(device, &mut made))?;
    let both = Graph::record(device, || {
        given.forward(device, &mut made)?;
        given.backward(device, &mut made)
    })?;
    for graph in [&forward, &both] {
        graph.launch()?;
    }
    let forward = timed(device, &mut flush, repetitions, || forward.launch())?;
    let both = timed(device, &mut flush, repetitions, || both.launch())?;
    let plain_forward = timed(device, &mut flush, repetitions, || given.forward(device, &mut made))?;
    let plain_both = timed(device, &mut flush, repetitions, || {
        given.forward(device, &mut made)?;
        given.backward(device, &mut made)
    })?;
    Ok(Times { forward, both: Some(both), plain: Some((plain_forward, plain_both)) })
}

/// Times one decode step of a case, one token of each of its sequences.
///
/// # Errors
/// Those of the GPU runtime.
pub fn gpu_step(device: &Device, case: &Case, repetitions: usize) -> CudaResult<Times> {
    let operands = Operands::repeating(case, 0);
    let (given, mut made) = (Given::<bf16>::new(device, case, &operands)?, Made::new(device, case)?);
    let mut state = device.zeros::<bf16>(operands.state.len())?;
    let mut flush = device.zeros::<u8>(FLUSH)?;
    given.step(device, 0, &mut state, &mut made)?;
    device.synchronize()?;
    let graph = Graph::record(device, || given.step(device, 0, &mut state, &mut made))?;
    graph.launch()?;
    let forward = timed(device, &mut flush, repetitions, || graph.launch())?;
    Ok(Times { forward, both: None, plain: None })
}

/// Bytes per second, read and written, of copies of `len` floats by the current rayon pool.
pub fn cpu_copy_rate(len: usize) -> f64 {
    use rayon::prelude::*;
    let from = vec![1.0f32; len];
    let mut to = vec![0.0f32; len];
    let part = len.div_ceil(rayon::current_num_threads()).max(1);
    let time = clocked(9, || {
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        std::hint::black_box(&to);
        Ok(())
    });
    time.map_or(f64::NAN, |time| 8.0 * len as f64 / (time.median * 1e-6))
}

fn clocked(repetitions: usize, mut work: impl FnMut() -> kernels::Result<()>) -> kernels::Result<Time> {
    work()?;
    let mut times = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Time::of(times))
}

/// Times a case by the CPU op, on the current rayon pool. Nothing empties the caches: operands are to be larger.
///
/// # Errors
/// Those of the op.
pub fn cpu(case: &Case, repetitions: usize) -> kernels::Result<Times> {
    let operands = Operands::repeating(case, 0);
    let mut results = cpu::results(case, &operands);
    let forward = clocked(repetitions, || cpu::run_forward(case, &operands, &mut results))?;
    let both = clocked(repetitions, || {
        cpu::run_forward(case, &operands, &mut results)?;
        cpu::run_backward(case, &operands, &mut results)
    })?;
    Ok(Times { forward, both: Some(both), plain: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_middle_half() {
        let time = Time::of(vec![9.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!((time.median, time.spread), (3.0, 2.0 / 3.0));
    }
}
