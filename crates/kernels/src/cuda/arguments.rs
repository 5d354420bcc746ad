//! What the argument blocks of the convolution and of attention share: device addresses, scratch, and how rows divide into
//! sequences and those into chunks.

use std::ffi::c_void;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};

use super::compile::Defines;
use super::device::{Device, Grid};
use super::error::CudaResult;

/// A device address.
pub(super) fn at<T>(view: &CudaView<'_, T>, stream: &CudaStream) -> u64 {
    view.device_ptr(stream).0
}

/// A device address that is written.
pub(super) fn at_mut<T>(view: &mut CudaViewMut<'_, T>, stream: &CudaStream) -> u64 {
    view.device_ptr_mut(stream).0
}

/// A launch's pointer to an argument.
pub(super) fn pointer<A>(argument: &mut A) -> *mut c_void {
    std::ptr::from_mut(argument).cast()
}

/// fp32 scratch and its address.
pub(super) fn scratch(device: &Device, len: usize) -> CudaResult<(CudaSlice<f32>, u64)> {
    let mut memory = device.scratch::<f32>(len)?;
    let address = at_mut(&mut memory.as_view_mut(), device.stream());
    Ok((memory, address))
}

/// The sequences of a call: `batch` of `len` rows, or the packed ones of one batch element.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequences {
    batch: usize,
    len: usize,
    /// The address of `count + 1` offsets.
    pub(super) cu_seqlens: Option<u64>,
    pub(super) count: usize,
}

/// Chunks of so many rows, the last of a sequence shorter.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Of the longest sequence that there can be.
    pub(super) per_sequence: usize,
    /// In all; of packed sequences at most, as only the device knows how many there are.
    pub(super) count: usize,
    /// The address of the packed ones' plan, else 0.
    pub(super) plan: u64,
    /// Holds the plan, which must outlive the launches that read it.
    pub(super) memory: Option<CudaSlice<i32>>,
}

impl Sequences {
    pub(super) fn new(batch: usize, len: usize, cu_seqlens: Option<&CudaView<'_, i32>>, stream: &CudaStream) -> Self {
        let count = cu_seqlens.map_or(batch, |v| v.len() - 1);
        Self { batch, len, cu_seqlens: cu_seqlens.map(|v| at(v, stream)), count }
    }

    pub(super) fn packed(&self) -> bool {
        self.cu_seqlens.is_some()
    }

    /// Cuts in chunks of `rows`; packed sequences are cut on the device.
    pub(super) fn chunks(&self, device: &Device, rows: usize) -> CudaResult<Chunks> {
        let per_sequence = self.len.div_ceil(rows);
        let Some(mut cu) = self.cu_seqlens else {
            return Ok(Chunks { per_sequence, count: per_sequence * self.batch, plan: 0, memory: None });
        };
        let count = self.batch * self.len / rows + self.count;
        let mut memory = device.scratch::<i32>(4 * count)?;
        let plan = at_mut(&mut memory.as_view_mut(), device.stream());
        let (mut seqs, mut len, mut out, mut chunks) = (self.count as i32, rows as i32, plan, count as i32);
        let grid = Grid { blocks: (1, 1), threads: (1024, 1), shared: 0 };
        let args =
            &mut [pointer(&mut cu), pointer(&mut seqs), pointer(&mut len), pointer(&mut out), pointer(&mut chunks)];
        // SAFETY: the arguments of plan_chunks; the plan holds `count` int4.
        unsafe { device.launch("plan.cu", "plan_chunks", &Defines::new(&[]), grid, args)? };
        Ok(Chunks { per_sequence, count, plan, memory: Some(memory) })
    }
}
