//! Words on their way back from the device.

use std::mem::ManuallyDrop;

use cudarc::driver::{DeviceRepr, PinnedHostSlice, ValidAsZeroBits};

use super::device::Device;
use super::error::{CudaError, CudaResult, driver};
use super::memory::Tensor;
use super::setup::setup;

/// Host memory that the device writes by itself. A copy into other memory goes through the driver's own, and other threads' launches
/// wait for it.
pub struct Readback<T>(ManuallyDrop<PinnedHostSlice<T>>);

impl<T> std::fmt::Debug for Readback<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readback").field("len", &self.0.len()).finish()
    }
}

impl<T: DeviceRepr + ValidAsZeroBits> Readback<T> {
    /// Room for `len` values.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device, len: usize) -> CudaResult<Self> {
        let _setup = setup();
        // SAFETY: `read` has the device write every value before it shows any. No flags: memory that the host reads as its own.
        let host = unsafe { device.stream().context().alloc_pinned_with_flags(len.max(1), 0) };
        Ok(Self(ManuallyDrop::new(host.map_err(driver("pinned memory"))?)))
    }

    /// Waits for what is queued and shows the values of `from`, a row of as many. Errors of earlier kernels come out here.
    ///
    /// # Errors
    /// [`crate::Error::Size`] if `from` has another length or type; the driver's.
    pub fn read(&mut self, device: &Device, from: &Tensor) -> CudaResult<&[T]> {
        let host = &mut *self.0;
        if from.span() != host.len() || from.dtype.bytes() != size_of::<T>() {
            let (found, expected) = (from.span(), host.len());
            let shape = format!("[{expected}] of {} bytes", size_of::<T>());
            return Err(CudaError::Argument(crate::Error::Size {
                op: "readback",
                name: "from",
                found,
                expected,
                shape,
            }));
        }
        // SAFETY: as long as the host's row, of elements of that size, for which any bytes are a value.
        let slice = unsafe { from.slice::<T>(device) };
        device.stream().memcpy_dtoh(&*slice.0, host).map_err(driver("copy to host"))?;
        device.synchronize()?;
        host.as_slice().map_err(driver("wait for copy"))
    }
}

impl<T> Drop for Readback<T> {
    fn drop(&mut self) {
        let _setup = setup();
        // SAFETY: nothing names it after this.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}
