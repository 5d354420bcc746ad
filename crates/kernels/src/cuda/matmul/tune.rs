//! Which of the library's proposals is fastest: how `choices.csv` was made.

use super::Matmul;
use super::plan::Key;
use crate::cuda::graph::Moment;
use crate::cuda::{CudaError, CudaResult, Device, Dtype, Memory, Tensor};

impl Matmul {
    /// Times every proposal for the products run so far, on memory of their sizes; lines for `choices.csv` where another than the
    /// first is faster by 2 % or more, with both times in microseconds behind a `#`.
    ///
    /// # Errors
    /// The driver's and the library's.
    pub fn tune(&self, device: &Device) -> CudaResult<Vec<String>> {
        let keys: Vec<Key> =
            self.plans.lock().unwrap_or_else(std::sync::PoisonError::into_inner).keys().copied().collect();
        let mut lines = Vec::new();
        for key in keys.iter().filter(|key| !key.bias) {
            let (m, n, k) = key.shape;
            let tensor = |(rows, cols): (usize, usize), transposed: bool, stride: usize, dtype: Dtype| {
                let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
                Tensor::new(&Memory::new(device, rows * stride * dtype.bytes())?, 0, rows, cols, stride, dtype)
            };
            let a = tensor((m, k), key.transposed.0, key.strides.0, key.types.0)?;
            let b = tensor((k, n), key.transposed.1, key.strides.1, key.types.0)?;
            let out = tensor((m, n), false, key.strides.3, key.types.1)?;
            let c = tensor((m, n), false, key.strides.2, key.types.1)?;
            // Zeros would run faster than data.
            for operand in [&a, &b] {
                operand.write_pattern(device)?;
            }
            let mut times = Vec::new();
            for plan in self.proposals(key)? {
                let run = || self.queue(device, &plan, (&a, &b, &c, &out), key.accumulate);
                let time = (0..4).try_fold(f64::MAX, |best, _| {
                    let start = Moment::now(device)?;
                    (0..4).try_for_each(|_| run())?;
                    let end = Moment::now(device)?;
                    device.synchronize()?;
                    Ok::<_, CudaError>(best.min(end.since(&start)? * 250.0))
                })?;
                times.push(time);
                plan.destroy();
            }
            let best = (0..times.len()).min_by(|&i, &j| times[i].total_cmp(&times[j])).unwrap_or(0);
            if times.first().is_some_and(|first| times[best] < 0.98 * first) {
                lines.push(format!("{},{best} # {:.1} instead of {:.1}", key.line(), times[best], times[0]));
            }
        }
        lines.sort();
        Ok(lines)
    }
}
