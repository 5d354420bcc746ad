//! Words on their way to the device while it works.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice};

use super::device::Device;
use super::error::{CudaError, CudaResult, driver};
use super::memory::{Dtype, Memory, Tensor};
use super::setup::setup;

/// A row of words in host memory that the device reads by itself, and its copy on the device, filled on a stream of its own:
/// [`Staging::fill`] runs beside what the device's stream does, [`Staging::deliver`] in order with it.
pub struct Staging {
    host: PinnedHostSlice<u32>,
    arrived: Tensor,
    stream: Arc<CudaStream>,
    /// When the last copy from `host` was done: the device's context keeps no such events.
    sent: Option<CudaEvent>,
    /// When the device's stream had taken the last words.
    delivered: Option<CudaEvent>,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").field("words", &self.host.len()).finish_non_exhaustive()
    }
}

impl Staging {
    /// Room for `words` words.
    ///
    /// # Errors
    /// The driver's; [`CudaError::OutOfMemory`].
    pub fn new(device: &Device, words: usize) -> CudaResult<Self> {
        let _setup = setup();
        let words = words.max(1);
        let memory = Memory::new(device, words * Dtype::U32.bytes())?;
        let arrived = Tensor::new(&memory, 0, 1, words, words, Dtype::U32)?;
        // The copies wait until the memory is there.
        let stream = device.stream().fork().map_err(driver("stream"))?;
        stream.join(device.stream()).map_err(driver("wait for stream"))?;
        // SAFETY: `fill` writes every word before a copy reads any.
        let host = unsafe { device.stream().context().alloc_pinned(words) }.map_err(driver("pinned memory"))?;
        Ok(Self { host, arrived, stream, sent: None, delivered: None })
    }

    /// How many words it holds.
    pub fn words(&self) -> usize {
        self.host.len()
    }

    /// Begins to copy `values` to the device, beside what runs there. The words before them are lost.
    ///
    /// # Errors
    /// [`crate::Error::Size`] if there are not [`Staging::words`] of them; the driver's.
    pub fn fill(&mut self, device: &Device, values: &[u32]) -> CudaResult<()> {
        if values.len() != self.host.len() {
            let (found, expected) = (values.len(), self.host.len());
            let shape = format!("[{expected}]");
            return Err(CudaError::Argument(crate::Error::Size {
                op: "staging",
                name: "values",
                found,
                expected,
                shape,
            }));
        }
        // Words that the device may still read are not written over.
        if let Some(sent) = self.sent.take() {
            sent.synchronize().map_err(driver("wait for copy"))?;
        }
        self.host.as_mut_slice().map_err(driver("wait for copy"))?.copy_from_slice(values);
        if let Some(delivered) = &self.delivered {
            self.stream.wait(delivered).map_err(driver("wait for event"))?;
        }
        // SAFETY: as long as the row, of its type; the copy before has been taken, and `deliver` waits for this one.
        let mut arrived = unsafe { self.arrived.slice::<u32>(device) };
        self.stream.memcpy_htod(&self.host, &mut *arrived.0).map_err(driver("copy to device"))?;
        self.sent = Some(self.stream.record_event(None).map_err(driver("event"))?);
        Ok(())
    }

    /// Queues a copy of what was filled in to `to`.
    ///
    /// # Errors
    /// [`crate::Error::Size`] if `to` is not as long; the driver's.
    pub fn deliver(&mut self, device: &Device, to: &Tensor) -> CudaResult<()> {
        if to.span() != self.arrived.span() || to.dtype != Dtype::U32 {
            let (found, expected) = (to.span(), self.arrived.span());
            let shape = format!("[{expected}]");
            return Err(CudaError::Argument(crate::Error::Size { op: "staging", name: "to", found, expected, shape }));
        }
        device.stream().join(&self.stream).map_err(driver("wait for stream"))?;
        // SAFETY: both rows have the same length and type, and lie in different allocations.
        let (from, mut to) = unsafe { (self.arrived.slice::<u32>(device), to.slice::<u32>(device)) };
        device.stream().memcpy_dtod(&*from.0, &mut *to.0).map_err(driver("copy on device"))?;
        self.delivered = Some(device.stream().record_event(None).map_err(driver("event"))?);
        Ok(())
    }
}

/// Both rows stay until the copy between them is done.
impl Drop for Staging {
    fn drop(&mut self) {
        // A device that fails now has said so before, or says so to whoever uses it next.
        let _ = self.stream.synchronize();
    }
}
