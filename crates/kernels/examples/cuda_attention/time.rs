//! Forward and backward at the sizes of peer.py: the median of 5 stretches of 20 calls each, between events.

use half::bf16;
use kernels::cuda::attention::{self, Input, InputGrad, Output, OutputGrad, Rows, RowsMut, Shape};
use kernels::cuda::{CudaResult, Device};

use crate::gpu::median;

/// batch, len, heads, head_size.
const SIZES: [[usize; 4]; 6] =
    [[4, 4096, 16, 64], [16, 2048, 12, 64], [4, 4096, 8, 128], [128, 128, 4, 32], [128, 128, 8, 16], [128, 128, 16, 8]];

/// Calls of a stretch.
const CALLS: usize = 20;

/// Prints a line for each of the first `sizes` sizes.
pub(crate) fn all(device: &Device, sizes: usize) -> CudaResult<()> {
    println!("bf16  B    T  H head_size  forward ms  TFLOP/s  backward ms  TFLOP/s");
    for [batch, len, heads, head_size] in SIZES.into_iter().take(sizes) {
        let shape = Shape { batch, len, heads, kv_heads: heads, head_size };
        let (width, rows) = (heads * head_size, batch * len);
        let stride = 3 * width;
        // Any numbers will do that are not all alike: a fixed pattern of unit size.
        let draw = |n: usize| -> Vec<bf16> {
            (0..n as u32).map(|i| bf16::from_f32((i.wrapping_mul(2654435761) >> 8) as f32 / 4.9e6 - 1.7)).collect()
        };
        let (qkv, d_o) = (device.upload(&draw(rows * stride))?, device.upload(&draw(rows * width))?);
        let angles = device.zeros::<f32>(len * head_size)?;
        let (mut o, mut grad) = (device.zeros::<bf16>(rows * width)?, device.zeros::<bf16>(rows * stride)?);
        let mut lse = device.zeros::<f32>(rows * heads)?;
        let input = || Input {
            q: Rows { data: qkv.as_view(), stride },
            k: Rows { data: qkv.slice(width..), stride },
            v: Rows { data: qkv.slice(2 * width..), stride },
            cu_seqlens: None,
        };
        let forward = median(device, CALLS, || {
            let output = Output { o: RowsMut { data: o.as_view_mut(), stride: width }, lse: lse.as_view_mut() };
            attention::forward(device, shape, &input(), output)
        })? / 1e3;
        let backward = median(device, CALLS, || {
            let output = OutputGrad {
                o: Rows { data: o.as_view(), stride: width },
                lse: lse.as_view(),
                d_o: Rows { data: d_o.as_view(), stride: width },
            };
            let fused = InputGrad::Fused { data: grad.as_view_mut(), stride, dq: 0, dk: width, dv: 2 * width };
            attention::backward(device, shape, &input(), output, fused, Some(&angles.as_view()))
        })? / 1e3;
        // Half of the pairs; products of forward 2, of backward 5 as usually counted.
        let flop = 2.0 * (rows * len * width) as f64;
        let rate = |ms: f64, products: f64| flop * products / 2.0 / ms / 1e9;
        println!(
            "{batch:7} {len:4} {heads:2} {head_size:9}  {forward:10.4}  {:7.0}  {backward:11.4}  {:7.0}",
            rate(forward, 2.0),
            rate(backward, 5.0)
        );
    }
    Ok(())
}
