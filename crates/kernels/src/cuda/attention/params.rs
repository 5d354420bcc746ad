//! The argument block of `kernels/attention.cuh`, and the blocks of a launch.

use std::ffi::c_void;

use cudarc::driver::sys::CUtensorMap;
use cudarc::driver::{CudaSlice, CudaStream};

use super::super::arguments::{Sequences, at, at_mut, pointer, scratch};
use super::super::compile::Defines;
use super::super::device::{Device, Grid};
use super::super::error::CudaResult;
use super::super::short_conv::Element;
use super::args::{Input, Rows, RowsMut, Shape};

/// Bytes of keys and values of the heads whose blocks run side by side: within the L2 cache of every device that is
/// tuned for.
const SIDE_BY_SIDE: usize = 16 << 20;

/// `struct Attention`: field by field.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Params {
    pub(super) q: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) d_o: u64,
    pub(super) o: u64,
    pub(super) dq: u64,
    pub(super) dk: u64,
    pub(super) dv: u64,
    pub(super) lse: u64,
    pub(super) delta: u64,
    pub(super) plan: u64,
    pub(super) angles: u64,
    pub(super) ldq: i64,
    pub(super) ldk: i64,
    pub(super) ldv: i64,
    pub(super) ldo: i64,
    pub(super) lddo: i64,
    pub(super) lddq: i64,
    pub(super) lddk: i64,
    pub(super) lddv: i64,
    pub(super) rows: i32,
    pub(super) seq_len: i32,
    pub(super) tiles_per_seq: i32,
    pub(super) tiles: i32,
    pub(super) heads: i32,
    pub(super) kv_heads: i32,
    pub(super) group: i32,
    pub(super) scale: f32,
}

/// Rows as address and stride.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) ld: i64,
}

impl Place {
    pub(super) fn of<T>(rows: &Rows<'_, T>, stream: &CudaStream) -> Self {
        Self { at: at(&rows.data, stream), ld: rows.stride as i64 }
    }

    pub(super) fn of_mut<T>(rows: &mut RowsMut<'_, T>, stream: &CudaStream) -> Self {
        Self { at: at_mut(&mut rows.data, stream), ld: rows.stride as i64 }
    }
}

/// One call: its sizes, and its operands by address.
#[derive(Debug)]
pub(super) struct Call<'d> {
    pub(super) device: &'d Device,
    pub(super) shape: Shape,
    /// DTYPE, and its bytes.
    pub(super) code: i64,
    pub(super) element: usize,
    sequences: Sequences,
    /// All operands; the tiles of the launches that follow are filled in by [`Call::tiles`].
    pub(super) p: Params,
}

impl<'d> Call<'d> {
    pub(super) fn new<T: Element>(device: &'d Device, shape: Shape, input: &Input<'_, T>) -> Self {
        let s = device.stream();
        let (q, k, v) = (Place::of(&input.q, s), Place::of(&input.k, s), Place::of(&input.v, s));
        let p = Params {
            q: q.at,
            ldq: q.ld,
            k: k.at,
            ldk: k.ld,
            v: v.at,
            ldv: v.ld,
            rows: shape.rows() as i32,
            seq_len: shape.len as i32,
            heads: shape.heads as i32,
            kv_heads: shape.kv_heads as i32,
            scale: 1.0 / (shape.head_size as f32).sqrt(),
            ..Params::default()
        };
        let sequences = Sequences::new(shape.batch, shape.len, input.cu_seqlens.as_ref(), s);
        Self { device, shape, code: T::CODE, element: size_of::<T>(), sequences, p }
    }

    /// The defines that every kernel takes, and `more`.
    fn defines(&self, more: &[(&'static str, i64)]) -> Defines {
        let packed = i64::from(self.sequences.packed());
        let common = [("DTYPE", self.code), ("HEAD", self.shape.head_size as i64), ("PACKED", packed)];
        Defines::new(&[&common[..], more].concat())
    }

    /// Cuts the sequences in tiles of `tile` rows for the launches that follow, and gives the number of tiles. Packed
    /// sequences are cut on the device; the plan is kept until those launches are queued.
    pub(super) fn tiles(&mut self, tile: usize) -> CudaResult<(usize, Option<CudaSlice<i32>>)> {
        let Shape { batch, len, head_size, kv_heads, heads } = self.shape;
        let tiles = self.sequences.chunks(self.device, tile)?;
        (self.p.tiles_per_seq, self.p.tiles, self.p.plan) = (tiles.per_sequence as i32, tiles.count as i32, tiles.plan);
        let kv_bytes = 2 * len * head_size * self.element * kv_heads / heads;
        self.p.group = (SIDE_BY_SIDE / kv_bytes.max(1)).clamp(1, batch * heads) as i32;
        Ok((tiles.count, tiles.memory))
    }

    /// Scratch for delta, kept until the launches are queued.
    pub(super) fn delta(&mut self) -> CudaResult<CudaSlice<f32>> {
        let (memory, address) = scratch(self.device, self.shape.heads * self.shape.rows())?;
        self.p.delta = address;
        Ok(memory)
    }

    /// Launches a kernel on the argument block and then the tensor maps.
    ///
    /// # Safety
    /// As [`Device::launch`].
    pub(super) unsafe fn launch(
        &mut self,
        file: &'static str,
        entry: &'static str,
        defines: &[(&'static str, i64)],
        grid: Grid,
        maps: &[CUtensorMap],
    ) -> CudaResult<()> {
        let defines = self.defines(defines);
        let mut args = vec![pointer(&mut self.p)];
        args.extend(maps.iter().map(|m| std::ptr::from_ref(m).cast_mut().cast::<c_void>()));
        // SAFETY: by the caller; the driver copies the arguments.
        unsafe { self.device.launch(file, entry, &defines, grid, &mut args) }
    }
}
