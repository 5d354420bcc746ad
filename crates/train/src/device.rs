//! What runs the tapes of a training.

use std::collections::BTreeMap;

use backend::{Backend, CpuBackend, CudaBackend, Precision, Tape};
use cli::{DeviceArg, Gpus};
use reference::DfdxBackend;
use report::record;

/// What runs the tapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Our kernels on the CPU.
    Cpu,
    /// dfdx in f32: the slow oracle.
    Dfdx,
    /// Our kernels on these GPUs, activations in bf16; a training has one of them.
    Cuda(Gpus),
}

impl Device {
    /// The kinds by name, as records and flags have them.
    pub const KINDS: [&str; 3] = ["cpu", "dfdx", "cuda"];

    /// The device of that kind, if there is such; `gpus`: which, if it is one.
    pub fn of_kind(kind: &str, gpus: Gpus) -> Option<Self> {
        match kind {
            "cpu" => Some(Self::Cpu),
            "dfdx" => Some(Self::Dfdx),
            "cuda" => Some(Self::Cuda(gpus)),
            _ => None,
        }
    }

    /// A backend that holds nothing yet, for the training at a place among those that run side by side.
    ///
    /// # Errors
    /// [`backend::Error::Backend`] if the device is absent.
    pub fn backend(self, place: usize) -> backend::Result<Box<dyn Backend>> {
        Ok(match self {
            Self::Cpu => Box::new(CpuBackend::new()),
            Self::Dfdx => Box::new(DfdxBackend::<f32>::new()),
            Self::Cuda(gpus) => Box::new(CudaBackend::new(gpus.of(place), Precision::Bf16)?),
        })
    }
}

/// The device a command asks for, as its record names it; `kinds` are those the command runs on.
///
/// # Errors
/// The device is absent: exit code 3, with what is missing and what to do. Several GPUs of different names are refused.
pub fn find(asked: DeviceArg, kinds: &[&str], threads: usize) -> Result<record::Device, cli::Error> {
    let DeviceArg::Cuda(gpus) = asked else { return cli::host_device(asked, kinds, threads) };
    let open = |ordinal| {
        backend::cuda_device(ordinal).map_err(|e| match e {
            backend::Error::Backend { what, hint, .. } => cli::Error::device(what).hint(hint),
            other => cli::Error::device(other),
        })
    };
    let (mut name, cuda) = open(gpus.first)?;
    for ordinal in gpus.first + 1..gpus.first + gpus.count {
        let (other, _) = open(ordinal)?;
        if other != name {
            let what = format!("GPU {} is {name}, GPU {ordinal} is {other}", gpus.first);
            return Err(cli::Error::device(what).hint("name GPUs of one kind, for whose name the results are kept"));
        }
    }
    if gpus.count > 1 {
        name = format!("{} x {name}", gpus.count);
    }
    let driver = std::fs::read_to_string("/sys/module/nvidia/version").ok().map(|text| text.trim().to_string());
    Ok(record::Device { kind: "cuda".into(), name, threads, driver, cuda: Some(cuda) })
}

/// Whether that kind of device runs a model's tape; asks no device.
///
/// # Errors
/// A size that its kernels do not take, with what to do.
pub fn runs_on(kind: &str, tape: &Tape) -> Result<(), cli::Error> {
    if kind == "cuda" { backend::supported_on_cuda(tape).map_err(cli::Error::config) } else { Ok(()) }
}

/// The type of activations on a kind of device, and the hashes of the kernels that run there, by file.
pub fn arithmetic(device: &record::Device) -> (String, BTreeMap<String, String>) {
    if device.kind == "cuda" { ("bf16".into(), backend::cuda_kernels()) } else { ("f32".into(), BTreeMap::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_gpu_ends_with_3_and_a_hint() {
        let error = find(DeviceArg::Cuda(Gpus::one(999)), &Device::KINDS, 1).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.hint.is_some(), "{error:?}");
        assert_eq!(find(DeviceArg::Cpu, &Device::KINDS, 1).map(|device| device.kind), Ok("cpu".into()));
    }
}
