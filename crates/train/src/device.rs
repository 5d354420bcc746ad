//! What runs the tapes of a training.

use backend::{Backend, CpuBackend, CudaBackend, Precision, Tape};
use cli::DeviceArg;
use reference::DfdxBackend;
use report::record;

/// What runs the tapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Our kernels on the CPU.
    Cpu,
    /// dfdx in f32: the slow oracle.
    Dfdx,
    /// Our kernels on the GPU of that ordinal, activations in bf16.
    Cuda(usize),
}

impl Device {
    /// The kinds by name, as records and flags have them.
    pub const KINDS: [&str; 3] = ["cpu", "dfdx", "cuda"];

    /// The device of that kind and ordinal, if there is such a kind.
    pub fn of_kind(kind: &str, ordinal: usize) -> Option<Self> {
        match kind {
            "cpu" => Some(Self::Cpu),
            "dfdx" => Some(Self::Dfdx),
            "cuda" => Some(Self::Cuda(ordinal)),
            _ => None,
        }
    }

    /// A backend that holds nothing yet.
    ///
    /// # Errors
    /// [`backend::Error::Backend`] if the device is absent.
    pub fn backend(self) -> backend::Result<Box<dyn Backend>> {
        Ok(match self {
            Self::Cpu => Box::new(CpuBackend::new()),
            Self::Dfdx => Box::new(DfdxBackend::<f32>::new()),
            Self::Cuda(ordinal) => Box::new(CudaBackend::new(ordinal, Precision::Bf16)?),
        })
    }
}

/// The device a command asks for, as its record names it; `kinds` are those the command runs on.
///
/// # Errors
/// The device is absent: exit code 3, with what is missing and what to do.
pub fn find(asked: DeviceArg, kinds: &[&str], threads: usize) -> Result<record::Device, cli::Error> {
    let DeviceArg::Cuda(ordinal) = asked else { return cli::host_device(asked, kinds, threads) };
    let (name, cuda) = backend::cuda_device(ordinal).map_err(|e| match e {
        backend::Error::Backend { what, hint, .. } => cli::Error::device(what).hint(hint),
        other => cli::Error::device(other),
    })?;
    let driver = std::fs::read_to_string("/sys/module/nvidia/version").ok().map(|text| text.trim().to_string());
    Ok(record::Device { kind: "cuda".into(), name, threads, driver, cuda: Some(cuda) })
}

/// Whether that kind of device runs a model's tape; asks no device.
///
/// # Errors
/// The op that it does not run, with what to do.
pub fn runs_on(kind: &str, tape: &Tape) -> Result<(), cli::Error> {
    let supported = if kind == "cuda" { backend::supported_on_cuda(tape) } else { Ok(()) };
    supported.map_err(|e| match e {
        backend::Error::Backend { what, hint, .. } => cli::Error::config(what).hint(hint),
        other => cli::Error::config(other),
    })
}

/// The type of activations on a kind of device, and the hash of the kernels that run there.
pub fn arithmetic(device: &record::Device) -> (String, Option<String>) {
    if device.kind == "cuda" { ("bf16".into(), Some(backend::cuda_kernels_hash())) } else { ("f32".into(), None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_gpu_ends_with_3_and_a_hint() {
        let error = find(DeviceArg::Cuda(999), &Device::KINDS, 1).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.hint.is_some(), "{error:?}");
        assert_eq!(find(DeviceArg::Cpu, &Device::KINDS, 1).map(|device| device.kind), Ok("cpu".into()));
    }
}
