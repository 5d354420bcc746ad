//! The devices that need no driver: the host's CPU, driven by the embedded backend or by the reference.

use crate::{DeviceArg, Error};
use report::record::Device;

/// The host as the device asked for, if the experiment runs on that kind; `auto` is the first of `kinds`.
/// A kind that is not among them is absent (exit code 3).
pub fn host(asked: DeviceArg, kinds: &[&str], threads: usize) -> Result<Device, Error> {
    let kind = asked.kind().or(kinds.first().copied()).unwrap_or("cpu");
    if !kinds.contains(&kind) {
        let remedy = format!("this program runs on: {}; --recorded prints recorded values", kinds.join(", "));
        return Err(Error::device(format!("there is no {kind} device for this program")).hint(remedy));
    }
    Ok(Device { kind: kind.into(), name: cpu_name(), threads, driver: None, cuda: None })
}

/// The CPU's model, where the system tells.
fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let name = model.and_then(|rest| rest.split_once(':')).map(|(_, name)| name.trim().to_string());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("{} CPU", std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_present_or_named_as_absent() {
        let kind = |asked| host(asked, &["cpu", "dfdx"], 2).map(|device| device.kind);
        assert_eq!(kind(DeviceArg::Auto), Ok("cpu".into()));
        assert_eq!(kind(DeviceArg::Dfdx), Ok("dfdx".into()));
        let error = kind(DeviceArg::Cuda(crate::Gpus::one(0))).unwrap_err();
        assert_eq!((error.exit_code(), error.message.as_str()), (3, "there is no cuda device for this program"));
        assert!(error.hint.unwrap().contains("cpu, dfdx"));
    }
}
