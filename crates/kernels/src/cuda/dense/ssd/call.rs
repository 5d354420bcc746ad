//! What the launches of a pass share.

use super::super::{Arg, Kernel, code, vector};
use super::shape::{SsdShape, across, along};
use super::{CHUNK, STATES, Ssd, THREADS};
use crate::cuda::{CudaResult, Device, Tensor};

pub(super) struct Call<'a> {
    device: &'a Device,
    op: Ssd<'a>,
    s: SsdShape,
    /// Elements that lie together in x and what is shaped like it, and in b.
    x_vec: usize,
    b_vec: usize,
}

impl<'a> Call<'a> {
    /// Beside x, b and c the kernels touch what is shaped like them.
    pub(super) fn new(
        device: &'a Device,
        op: Ssd<'a>,
        s: SsdShape,
        like_x: [&Tensor; 2],
        like_b: [&Tensor; 2],
    ) -> Self {
        let x_vec = vector(&[op.x, like_x[0], like_x[1]], &[s.head_size]);
        let b_vec = vector(&[op.b, op.c, like_b[0], like_b[1]], &[s.state_size]);
        Self { device, op, s, x_vec, b_vec }
    }

    /// f32 of shared memory of the tiles of b or c and of a state.
    pub(super) fn tiles(&self, file: &str) -> usize {
        let tile = self.s.tile_of(file);
        CHUNK * across(tile) + tile * along(self.s.head_size)
    }

    /// The chunks' states and their scan.
    ///
    /// # Safety
    /// The operands are those that `Ssd::shape` and `Ssd::saved` checked.
    pub(super) unsafe fn states(
        &self,
        [chunks, scan]: [&'static str; 2],
        [keys, values]: [&Tensor; 2],
        gates: &Tensor,
        states: &Tensor,
    ) -> CudaResult<()> {
        let s = self.s;
        let (plan, heads) = (self.op.plan, s.heads);
        let blocks = (s.states() / s.chunks.max(1) / 4).div_ceil(THREADS);
        let args: &mut [Arg] = &mut [
            keys.into(),
            keys.stride.into(),
            values.into(),
            values.stride.into(),
            plan.into(),
            gates.into(),
            states.into(),
            heads.into(),
            s.groups.into(),
        ];
        let shared = CHUNK * (along(s.tile_of(STATES)) + along(s.head_size));
        // SAFETY: by the caller.
        unsafe {
            self.launch((STATES, chunks), (s.chunks * heads, 1), shared, args)?;
            let args = &mut [states.into(), gates.into(), plan.into(), s.chunks.into(), heads.into()];
            self.launch((STATES, scan), (s.sequences * blocks, 1), 0, args)
        }
    }

    /// Launches a kernel with so many f32 of shared memory.
    ///
    /// # Safety
    /// As [`Kernel::launch`].
    pub(super) unsafe fn launch(
        &self,
        (file, entry): (&'static str, &'static str),
        blocks: (usize, usize),
        shared: usize,
        args: &mut [Arg],
    ) -> CudaResult<()> {
        let defines = self.s.defines(file, code(entry, self.op.x)?, self.x_vec, self.b_vec);
        let kernel = Kernel { file, entry, defines: &defines, blocks, threads: THREADS, shared: 4 * shared };
        // SAFETY: by the caller.
        unsafe { kernel.launch(self.device, args) }
    }
}
