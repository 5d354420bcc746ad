//! How the examples time a call.

use kernels::cuda::graph::Moment;
use kernels::cuda::{CudaResult, Device};

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
