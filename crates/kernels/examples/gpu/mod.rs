//! What the examples share: how they begin and end, and how they time a call.

use std::process::ExitCode;

use kernels::cuda::graph::Moment;
use kernels::cuda::{CudaResult, Device};

/// The first argument, one of these words; any other ends the program with 2.
pub(crate) fn asked(words: &[&str]) -> Option<String> {
    let word = std::env::args().nth(1)?;
    if !words.contains(&word.as_str()) {
        eprintln!("error: {word}: give {} or nothing", words.join(", "));
        std::process::exit(2);
    }
    Some(word)
}

/// What a program ends with: an absent or broken GPU is told in its words, with 3.
pub(crate) fn ended(run: CudaResult<ExitCode>) -> ExitCode {
    run.unwrap_or_else(|e| {
        eprintln!("error: {}", e.to_string().trim_start_matches("cuda: "));
        ExitCode::from(3)
    })
}

/// Microseconds of a call: the median of 5 stretches of so many calls each, between events.
pub(crate) fn median(device: &Device, calls: usize, mut call: impl FnMut() -> CudaResult<()>) -> CudaResult<f64> {
    for _ in 0..3 {
        call()?;
    }
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Moment::now(device)?;
        for _ in 0..calls {
            call()?;
        }
        let end = Moment::now(device)?;
        device.synchronize()?;
        times.push(1e3 * end.since(&start)? / calls as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[2])
}
