//! The argument block of `kernels/attention.cuh`, and the blocks of a launch.

use std::ffi::c_void;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};

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

/// A device address.
pub(super) fn at<T>(view: &CudaView<'_, T>, stream: &CudaStream) -> u64 {
    view.device_ptr(stream).0
}

/// A device address that is written.
pub(super) fn at_mut<T>(view: &mut CudaViewMut<'_, T>, stream: &CudaStream) -> u64 {
    view.device_ptr_mut(stream).0
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
    cu_seqlens: Option<u64>,
    sequences: usize,
    /// All operands; sizes of a launch are filled in by [`Call::launch`].
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
        let cu_seqlens = input.cu_seqlens.as_ref().map(|v| at(v, s));
        let sequences = input.cu_seqlens.as_ref().map_or(shape.batch, |v| v.len() - 1);
        Self { device, shape, code: T::CODE, element: size_of::<T>(), cu_seqlens, sequences, p }
    }

    /// The defines that every kernel takes, and `more`.
    pub(super) fn defines(&self, more: &[(&'static str, i64)]) -> Defines {
        let packed = i64::from(self.cu_seqlens.is_some());
        let common = [("DTYPE", self.code), ("HEAD", self.shape.head_size as i64), ("PACKED", packed)];
        Defines::new(&[&common[..], more].concat())
    }

    /// Cuts the sequences in tiles of `tile` rows for the launches that follow, and gives the number of tiles. Packed
    /// sequences are cut on the device; the plan is kept until those launches are queued.
    pub(super) fn tiles(&mut self, tile: usize) -> CudaResult<(usize, Option<CudaSlice<i32>>)> {
        let Shape { batch, len, head_size, kv_heads, heads } = self.shape;
        let per_seq = len.div_ceil(tile);
        self.p.tiles_per_seq = per_seq as i32;
        let kv_bytes = 2 * len * head_size * self.element * kv_heads / heads;
        self.p.group = (SIDE_BY_SIDE / kv_bytes.max(1)).clamp(1, batch * heads) as i32;
        let Some(mut cu) = self.cu_seqlens else {
            self.p.tiles = (per_seq * batch) as i32;
            return Ok((per_seq * batch, None));
        };
        let tiles = self.shape.rows() / tile + self.sequences;
        self.p.tiles = tiles as i32;
        let mut plan = self.device.scratch::<i32>(4 * tiles)?;
        self.p.plan = at_mut(&mut plan.as_view_mut(), self.device.stream());
        let (mut seqs, mut len, mut out, mut count) = (self.sequences as i32, tile as i32, self.p.plan, tiles as i32);
        let grid = Grid { blocks: (1, 1), threads: (1024, 1), shared: 0 };
        let args =
            &mut [pointer(&mut cu), pointer(&mut seqs), pointer(&mut len), pointer(&mut out), pointer(&mut count)];
        // SAFETY: the arguments of plan_chunks; `plan` holds `tiles` int4.
        unsafe { self.device.launch("plan.cu", "plan_chunks", &Defines::new(&[]), grid, args)? };
        Ok((tiles, Some(plan)))
    }

    /// fp32 scratch and its address.
    pub(super) fn scratch(&self, len: usize) -> CudaResult<(CudaSlice<f32>, u64)> {
        let mut memory = self.device.scratch::<f32>(len)?;
        let address = at_mut(&mut memory.as_view_mut(), self.device.stream());
        Ok((memory, address))
    }
}

/// A launch's pointer to an argument.
pub(super) fn pointer<A>(argument: &mut A) -> *mut c_void {
    std::ptr::from_mut(argument).cast()
}
