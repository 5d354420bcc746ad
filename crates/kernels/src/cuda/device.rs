//! One GPU: its stream, its compiled kernels, its memory.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr, ValidAsZeroBits, result,
};
use cudarc::nvrtc::Ptx;

use super::compile::{Defines, cubin};
use super::error::{CudaError, CudaResult, driver};
use super::library;
use super::setup::setup;
use crate::error::Error;

/// The grid of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    /// Blocks: x, and y = streams.
    pub(crate) blocks: (u32, u32),
    /// Threads of a block.
    pub(crate) threads: (u32, u32),
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
}

type Variant = (&'static str, &'static str, Defines);

/// A GPU and a stream of it on which everything of this process runs, in order.
pub struct Device {
    stream: Arc<CudaStream>,
    arch: String,
    name: String,
    multiprocessors: usize,
    shared_per_block: usize,
    functions: Mutex<HashMap<Variant, Function>>,
}

/// A kernel, and the dynamic shared memory that it may have on this device.
#[derive(Clone)]
struct Function {
    kernel: CudaFunction,
    most_shared: usize,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.name).field("arch", &self.arch).finish_non_exhaustive()
    }
}

impl Device {
    /// Opens a device: the driver, the device and its architecture are each checked.
    pub fn new(ordinal: usize) -> CudaResult<Self> {
        if !library::driver_present() {
            return Err(CudaError::NoDriver);
        }
        result::init().map_err(|e| {
            if e.0 == CUresult::CUDA_ERROR_NO_DEVICE {
                CudaError::NoDevice { ordinal, count: 0 }
            } else {
                driver("init")(e)
            }
        })?;
        let count = CudaContext::device_count().map_err(driver("device count"))?.max(0) as usize;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let _setup = setup();
        let context = CudaContext::new(ordinal).map_err(driver("context"))?;
        let name = context.name().map_err(driver("device name"))?;
        let (major, minor) = context.compute_capability().map_err(driver("compute capability"))?;
        if major < 8 {
            return Err(CudaError::Architecture { name, major, minor });
        }
        // SAFETY: every launch and copy of this process goes to one stream, in order, so no events are needed between them.
        unsafe { context.disable_event_tracking() };
        let attribute = |a| context.attribute(a).map(|v| v.max(0) as usize).map_err(driver("device attribute"));
        let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared_per_block = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let stream = context.new_stream().map_err(driver("stream"))?;
        let functions = Mutex::default();
        Ok(Self { stream, arch: arch(major, minor), name, multiprocessors, shared_per_block, functions })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest CUDA version that the driver knows, such as 13.0.
    pub fn cuda_version(&self) -> CudaResult<String> {
        let mut version = 0;
        // SAFETY: the driver is loaded; the pointer is valid for the call.
        unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }.result().map_err(driver("driver version"))?;
        Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    /// What its kernels are compiled for, such as sm_90a.
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Makes this device the calling thread's: before calls that go past the stream.
    pub(crate) fn bind(&self) -> CudaResult<()> {
        self.stream.context().bind_to_thread().map_err(driver("bind context"))
    }

    /// Bytes of its memory: free, and in all.
    pub fn memory(&self) -> CudaResult<(usize, usize)> {
        self.bind()?;
        self.stream.context().mem_get_info().map_err(driver("memory size"))
    }

    pub(crate) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    pub(crate) fn shared_per_block(&self) -> usize {
        self.shared_per_block
    }

    /// Waits for everything; errors of earlier kernels come out here.
    pub fn synchronize(&self) -> CudaResult<()> {
        self.stream.synchronize().map_err(driver("synchronize"))
    }

    /// Memory with whatever it held.
    pub(crate) fn scratch<T: DeviceRepr>(&self, len: usize) -> CudaResult<CudaSlice<T>> {
        // SAFETY: T is plain data for the device; kernels write scratch before they read it.
        unsafe { self.stream.alloc(len.max(1)) }.map_err(|e| self.memory_error(e, len * size_of::<T>()))
    }

    /// Zeroed memory.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> CudaResult<CudaSlice<T>> {
        self.stream.alloc_zeros(len.max(1)).map_err(|e| self.memory_error(e, len * size_of::<T>()))
    }

    /// A copy on the device.
    pub fn upload<T: DeviceRepr>(&self, data: &[T]) -> CudaResult<CudaSlice<T>> {
        self.stream.clone_htod(data).map_err(|e| self.memory_error(e, size_of_val(data)))
    }

    /// A copy on the host.
    pub fn download<T: DeviceRepr + Default + Clone>(&self, data: &CudaSlice<T>) -> CudaResult<Vec<T>> {
        self.stream.clone_dtoh(data).map_err(driver("copy to host"))
    }

    /// Copies host values to a part of device memory, before anything queued later runs.
    pub fn upload_to<T: DeviceRepr>(&self, data: &[T], to: &mut CudaViewMut<'_, T>) -> CudaResult<()> {
        self.stream.memcpy_htod(data, to).map_err(driver("copy to device"))
    }

    /// A copy on the host of a part of device memory.
    pub fn download_part<T: DeviceRepr + Default + Clone>(&self, data: &CudaView<'_, T>) -> CudaResult<Vec<T>> {
        self.stream.clone_dtoh(data).map_err(driver("copy to host"))
    }

    /// Queues a copy within device memory.
    pub fn copy<T: DeviceRepr>(&self, from: &CudaSlice<T>, to: &mut CudaSlice<T>) -> CudaResult<()> {
        self.stream.memcpy_dtod(from, to).map_err(driver("copy on the device"))
    }

    /// Queues zeros over memory; over more than the L2 cache holds, it leaves nothing else in there.
    pub fn clear<T: DeviceRepr + ValidAsZeroBits>(&self, data: &mut CudaSlice<T>) -> CudaResult<()> {
        self.stream.memset_zeros(data).map_err(driver("clear"))
    }

    fn memory_error(&self, e: cudarc::driver::DriverError, bytes: usize) -> CudaError {
        if e.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return driver("allocate")(e);
        }
        let (free, total) = self.stream.context().mem_get_info().unwrap_or((0, 0));
        CudaError::OutOfMemory { bytes, free, total }
    }

    fn function(&self, file: &'static str, entry: &'static str, defines: &Defines) -> CudaResult<Function> {
        let variant = (file, entry, defines.clone());
        // A panic elsewhere leaves the map usable: entries are only added whole.
        let functions = || self.functions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = functions().get(&variant) {
            return Ok(found.clone());
        }
        let _setup = setup();
        let image = cubin(file, defines, &self.arch)?;
        let module = self.stream.context().load_module(Ptx::from_binary(image)).map_err(driver("load kernels"))?;
        let kernel = module.load_function(entry).map_err(driver("find kernel"))?;
        let held = kernel.shared_size_bytes().map_err(driver("kernel attribute"))?;
        let most = self.shared_per_block as i32 - held;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        kernel.set_attribute(attribute, most).map_err(driver("kernel attribute"))?;
        let function = Function { kernel, most_shared: most as usize };
        functions().insert(variant, function.clone());
        Ok(function)
    }

    /// Launches a kernel of `file` compiled with `defines`.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and what their pointers reach is valid and large enough.
    pub(crate) unsafe fn launch(
        &self,
        file: &'static str,
        entry: &'static str,
        defines: &Defines,
        grid: Grid,
        args: &mut [*mut c_void],
    ) -> CudaResult<()> {
        if grid.blocks.0 == 0 || grid.blocks.1 == 0 {
            return Ok(());
        }
        let Function { kernel, most_shared } = self.function(file, entry, defines)?;
        if grid.shared as usize > most_shared {
            return Err(CudaError::Argument(Error::Range {
                op: entry,
                name: "bytes of shared memory",
                found: grid.shared as usize,
                range: format!("0..={most_shared} on this GPU"),
                remedy: "choose smaller heads, or run this model with --device cpu",
            }));
        }
        self.stream.context().bind_to_thread().map_err(driver("bind context"))?;
        // SAFETY: by the caller.
        unsafe {
            result::launch_kernel(
                kernel.cu_function(),
                (grid.blocks.0, grid.blocks.1, 1),
                (grid.threads.0, grid.threads.1, 1),
                grid.shared,
                self.stream.cu_stream(),
                args,
            )
        }
        .map_err(driver(entry))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _setup = setup();
        self.functions.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}

/// The target for a compute capability: the architecture's own features on Hopper, plain code elsewhere.
fn arch(major: i32, minor: i32) -> String {
    if (major, minor) == (9, 0) { "sm_90a".into() } else { format!("sm_{major}{minor}") }
}
