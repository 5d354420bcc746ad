//! The second stage of the reductions: `kernels/sums.cu`.

use super::super::arguments::pointer;
use super::super::device::Grid;
use super::super::error::CudaResult;
use super::params::Call;

const MAX_JOBS: usize = 3;

/// `struct Sum`: out[i, j] = sum over k of part[k * part_stride + i * part_pitch + j].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) part: u64,
    pub(super) out: u64,
    pub(super) part_stride: i64,
    pub(super) part_pitch: i64,
    pub(super) ld_out: i64,
    pub(super) s_part: i64,
    pub(super) s_out: i64,
    pub(super) rows: i64,
    pub(super) cols: i32,
    pub(super) parts: i32,
    pub(super) first_block: i32,
    pub(super) wide: i32,
}

#[repr(C)]
struct Sums {
    job: [Sum; MAX_JOBS],
    jobs: i32,
}

/// Adds the partial sums of all jobs in one launch.
pub(super) fn add(call: &Call<'_>, jobs: &[Sum]) -> CudaResult<()> {
    let mut sums = Sums { job: [Sum::default(); MAX_JOBS], jobs: jobs.len().min(MAX_JOBS) as i32 };
    let mut blocks = 0;
    for (slot, job) in sums.job.iter_mut().zip(jobs) {
        let elements = job.rows as usize * job.cols as usize;
        // Many parts or few elements: a block shares the parts of 32 elements; otherwise one thread each.
        let wide = job.parts > 16 || (job.parts > 4 && elements < 1 << 16);
        *slot = Sum { first_block: blocks, wide: i32::from(wide), ..*job };
        blocks += elements.div_ceil(if wide { 32 } else { 256 }) as i32;
    }
    let grid = Grid { blocks: (blocks as u32, call.op.shape.streams as u32), threads: (256, 1), shared: 0 };
    // SAFETY: the argument of sum_partials; each job's addresses were sized for it by the launch that filled them.
    unsafe { call.device.launch("sums.cu", "sum_partials", &call.op.defines(&[]), grid, &mut [pointer(&mut sums)]) }
}
