//! What runs the tapes of a training.

use backend::{Backend, CpuBackend};
use reference::DfdxBackend;

/// What runs the tapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Our kernels on the CPU.
    Cpu,
    /// dfdx in f32: the slow oracle.
    Dfdx,
}

impl Device {
    /// The kinds by name, as records and flags have them.
    pub const KINDS: [&str; 2] = ["cpu", "dfdx"];

    /// The device of that kind, if there is one.
    pub fn of_kind(kind: &str) -> Option<Self> {
        match kind {
            "cpu" => Some(Self::Cpu),
            "dfdx" => Some(Self::Dfdx),
            _ => None,
        }
    }

    /// A backend that holds nothing yet.
    pub fn backend(self) -> Box<dyn Backend> {
        match self {
            Self::Cpu => Box::new(CpuBackend::new()),
            Self::Dfdx => Box::new(DfdxBackend::<f32>::new()),
        }
    }
}
