//! What can go wrong between this program and the GPU, each with what to do about it.

use std::path::PathBuf;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// A failure of the GPU runtime. No function of [`cuda`](super) panics on a missing or broken device.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// libcuda.so.1 is not there.
    #[error("cuda: no NVIDIA driver: libcuda.so.1 does not load\nhint: install the driver, or run with --device cpu")]
    NoDriver,
    /// The driver is there and finds no such device.
    #[error(
        "cuda: device {ordinal} not found, {count} present\nhint: choose one of 0..{count}, check CUDA_VISIBLE_DEVICES, or run with --device cpu"
    )]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// Devices present.
        count: usize,
    },
    /// The run-time compiler is not there.
    #[error(
        "cuda: {library} not found in {searched}\nhint: python3 -m pip install nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96 \
         nvidia-cuda-cccl==13.0.85 nvidia-cuda-crt==13.0.88, or set CUDA_LIBRARY_DIR to the folder that holds it"
    )]
    NoCompiler {
        /// The library looked for.
        library: &'static str,
        /// The folders searched.
        searched: String,
    },
    /// The compiler is there, CUDA's headers are not.
    #[error(
        "cuda: header cuda_bf16.h not found in {searched}\nhint: python3 -m pip install nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88, or set CUDA_INCLUDE_DIR"
    )]
    NoHeaders {
        /// The folders searched.
        searched: String,
    },
    /// The device is older than the kernels.
    #[error(
        "cuda: device {name} has compute capability {major}.{minor}, the kernels need 8.0 (bf16 tensor cores)\nhint: run with --device cpu"
    )]
    Architecture {
        /// The device.
        name: String,
        /// Its compute capability.
        major: i32,
        /// The minor part.
        minor: i32,
    },
    /// A kernel did not compile.
    #[error(
        "cuda: {source_file} does not compile for {arch} with {defines}\n{log}\nhint: if KERNELS_DIR is set, mend the source there; otherwise report this log"
    )]
    Compile {
        /// The kernel source.
        source_file: String,
        /// The target.
        arch: String,
        /// The defines of the variant.
        defines: String,
        /// The compiler's words.
        log: String,
    },
    /// A kernel source could not be read or a cache folder not written.
    #[error("cuda: {path}: {error}\nhint: check the path and its permissions (KERNELS_DIR, XDG_CACHE_HOME)")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Device memory ran out.
    #[error(
        "cuda: out of device memory allocating {bytes} bytes, {free} free of {total}\nhint: lower the batch size or the sequence length"
    )]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes free.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// An earlier kernel failed; the context is lost.
    #[error(
        "cuda: {what}: {error}: the device context is lost\nhint: start the process again; run it under compute-sanitizer to find the kernel"
    )]
    Sticky {
        /// What was being done.
        what: &'static str,
        /// The driver's error.
        error: String,
    },
    /// Any other error of the driver.
    #[error("cuda: {what}: {error}\nhint: check nvidia-smi; a driver of 580 or newer is needed for CUDA 13")]
    Driver {
        /// What was being done.
        what: &'static str,
        /// The driver's error.
        error: String,
    },
    /// The op refused its arguments.
    #[error(transparent)]
    Argument(#[from] crate::Error),
}

/// The result of a GPU call.
pub type CudaResult<T> = std::result::Result<T, CudaError>;

/// The driver's error with what was being done; errors that end the context are told apart.
pub(crate) fn driver(what: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |e| {
        use CUresult::*;
        let error = format!("{e:?}");
        match e.0 {
            CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_CONTEXT_IS_DESTROYED => CudaError::Sticky { what, error },
            _ => CudaError::Driver { what, error },
        }
    }
}
