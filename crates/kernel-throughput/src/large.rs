//! More than 2^31 elements: the last sequence of a batch that large must have the bits it has on its own.

use kernels::cuda::short_conv::{
    Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape, backward, forward,
};
use kernels::cuda::{CudaResult, CudaSlice, Device};

use half::bf16;

use crate::values::splitmix;

const LEN: usize = 4096;
const D: usize = 2048;
const WIDTH: usize = 4;
/// Just above 2^31 elements of x.
const BATCH: usize = (1 << 31) / (LEN * D) + 1;

struct Tensors {
    x: CudaSlice<bf16>,
    rows: CudaSlice<bf16>,
    y: CudaSlice<bf16>,
    dx: CudaSlice<bf16>,
    drows: CudaSlice<bf16>,
}

/// What differs, head-wise (head size 32) and low-rank (rank 16), forward and backward; empty if nothing does.
///
/// # Errors
/// Those of the GPU runtime, such as less memory than about 20 GB.
pub fn check(device: &Device) -> CudaResult<Vec<String>> {
    let mut wrong = Vec::new();
    for rank in [0, 16] {
        let columns = if rank > 0 { rank } else { D / 32 * WIDTH };
        let block: Vec<bf16> = (0..LEN * D).map(|i| value(i as u64)).collect();
        let taps: Vec<bf16> = (0..LEN * columns).map(|i| value(1 << 40 | i as u64)).collect();
        let u: Vec<bf16> = (0..rank.max(1) * WIDTH * D).map(|i| value(1 << 41 | i as u64)).collect();
        let u = device.upload(&u)?;
        let mut du = device.zeros::<bf16>(rank.max(1) * WIDTH * D)?;
        let (mut whole, mut alone) = (Vec::new(), Vec::new());
        for (batch, kept) in [(BATCH, &mut whole), (1, &mut alone)] {
            let mut t = Tensors {
                x: device.zeros(batch * LEN * D)?,
                rows: device.zeros(batch * LEN * columns)?,
                y: device.zeros(batch * LEN * D)?,
                dx: device.zeros(batch * LEN * D)?,
                drows: device.zeros(batch * LEN * columns)?,
            };
            // Other numbers in the first sequence than in the last; zeros between are enough.
            for b in [0, batch - 1] {
                let sign =
                    |v: &[bf16]| -> Vec<bf16> { v.iter().map(|v| if b < batch - 1 { -*v } else { *v }).collect() };
                device.upload_to(&sign(&block), &mut t.x.slice_mut(b * LEN * D..(b + 1) * LEN * D))?;
                device.upload_to(&sign(&taps), &mut t.rows.slice_mut(b * LEN * columns..(b + 1) * LEN * columns))?;
            }
            run(device, batch, rank, &mut t, &u, &mut du)?;
            let last = (batch - 1) * LEN;
            for (data, cols) in [(&t.y, D), (&t.dx, D), (&t.drows, columns)] {
                kept.push(device.download_part(&data.slice(last * cols..(last + LEN) * cols))?);
            }
        }
        let kind = if rank > 0 { "low-rank 16" } else { "head-wise 32" };
        for (name, (a, b)) in ["y", "dx", "dtaps"].iter().zip(whole.iter().zip(&alone)) {
            let differ = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            if differ > 0 || a.iter().all(|v| *v == bf16::ZERO) {
                wrong.push(format!(
                    "{kind}, {} elements: {differ} of the last sequence's {name} differ",
                    BATCH * LEN * D
                ));
            }
        }
    }
    Ok(wrong)
}

fn value(i: u64) -> bf16 {
    bf16::from_f32((splitmix(i) >> 40) as f32 / (1 << 23) as f32 - 1.0)
}

/// Forward, then backward from dy = x.
fn run(
    device: &Device,
    batch: usize,
    rank: usize,
    t: &mut Tensors,
    u: &CudaSlice<bf16>,
    du: &mut CudaSlice<bf16>,
) -> CudaResult<()> {
    let columns = if rank > 0 { rank } else { D / 32 * WIDTH };
    let shape = Shape { streams: 1, batch, len: LEN, d: D, width: WIDTH };
    let x = || Rows { data: t.x.as_view(), stride: D, stream: D };
    let rows = Rows { data: t.rows.as_view(), stride: columns, stream: columns };
    let filter = if rank > 0 {
        Filter::LowRank { z: rows, u: u.as_view(), rank, static_w: None }
    } else {
        Filter::HeadWise { weight: rows, head_size: 32, static_w: None }
    };
    let input = Input { x: x(), filter, cu_seqlens: None, initial_state: None };
    let y = RowsMut { data: t.y.as_view_mut(), stride: D, stream: D };
    forward(device, shape, Options::default(), &input, Output { y, final_state: None })?;
    let rows = RowsMut { data: t.drows.as_view_mut(), stride: columns, stream: columns };
    let filter = if rank > 0 {
        FilterGrad::LowRank { dz: rows, du: du.as_view_mut(), dstatic_w: None }
    } else {
        FilterGrad::HeadWise { dweight: rows, dstatic_w: None }
    };
    let dx = RowsMut { data: t.dx.as_view_mut(), stride: D, stream: D };
    let output = OutputGrad { dy: x(), dfinal_state: None };
    backward(device, shape, Options::default(), &input, output, InputGrad { dx, filter, dinitial_state: None })
}
