//! Work recorded once and queued as a whole, and the time that work takes.

use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph};

use super::device::Device;
use super::error::{CudaError, CudaResult, driver};
use super::setup::setup;

/// A recorded sequence of launches. What it reads and writes must outlive it.
pub struct Graph(CudaGraph);

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

impl Graph {
    /// Records what `work` queues on the device's stream, without running it. Every kernel of it has been launched before, so
    /// that nothing is compiled or loaded meanwhile.
    ///
    /// # Errors
    /// Those of `work`; the driver's.
    pub fn record(device: &Device, work: impl FnOnce() -> CudaResult<()>) -> CudaResult<Self> {
        let _setup = setup();
        let stream = device.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(driver("begin capture"))?;
        let queued = work();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).map_err(driver("end capture"));
        queued?;
        graph?.map(Self).ok_or_else(|| CudaError::Driver { what: "end capture", error: "nothing was recorded".into() })
    }

    /// Queues it.
    ///
    /// # Errors
    /// The driver's.
    pub fn launch(&self) -> CudaResult<()> {
        self.0.launch().map_err(driver("launch graph"))
    }
}

/// A moment in the device's stream.
#[derive(Debug)]
pub struct Moment(CudaEvent);

impl Moment {
    /// The moment at which everything queued so far is done.
    ///
    /// # Errors
    /// The driver's.
    pub fn now(device: &Device) -> CudaResult<Self> {
        device.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map(Self).map_err(driver("event"))
    }

    /// Milliseconds from `earlier` to here; both have passed.
    ///
    /// # Errors
    /// The driver's.
    pub fn since(&self, earlier: &Self) -> CudaResult<f64> {
        earlier.0.elapsed_ms(&self.0).map(f64::from).map_err(driver("event time"))
    }
}
