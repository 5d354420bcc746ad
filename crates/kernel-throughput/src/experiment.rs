//! Table 2 as an experiment that a reproduce binary can run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cli::{Device as Found, DeviceArg, Error, Experiment, Facts, Metric, RowContext};
use kernels::cuda::{CudaError, Device};

use crate::case::Dtype;
use crate::check;
use crate::peer::peers;
use crate::row::Row;
use crate::timing::{self, Times};

/// The kernel benchmark: its plan is `reproduce/table-2/table-2.toml`. A row is compared with the f64 reference first; one
/// that is off is an error, not a time.
#[derive(Debug, Default)]
pub struct Table {
    /// The GPU, once it is open.
    gpu: Mutex<Option<Arc<Device>>>,
    /// Bytes per second of a copy on it, once it is measured.
    copy_rate: Mutex<Option<f64>>,
}

impl Table {
    fn copy_rate(&self, device: &Device) -> Result<f64, Error> {
        let mut known = self.copy_rate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = *known {
            return Ok(rate);
        }
        let rate = timing::gpu_copy_rate(device).map_err(broken)?;
        *known = Some(rate);
        Ok(rate)
    }

    fn on_gpu(&self, device: &Device, row: &Row) -> Result<(f64, Times, f64), Error> {
        let gate = row.gate(Dtype::Bf16);
        let outcome = if row.decode { check::check_decode(device, &gate, 0) } else { check::check(device, &gate, 0) };
        refuse(&outcome)?;
        let case = row.case(Dtype::Bf16);
        let time = if row.decode { timing::gpu_step } else { timing::gpu };
        let rate = self.copy_rate(device)?;
        Ok((outcome.worst(), time(device, &case, row.repetitions).map_err(broken)?, rate))
    }

    fn on_cpu(row: &Row, threads: usize) -> Result<(f64, Times, f64), Error> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(Error::config)?;
        pool.install(|| {
            let outcome = check::check_cpu(&row.gate(Dtype::F32), 0);
            refuse(&outcome)?;
            let case = row.case(Dtype::F32);
            // Of as much as x and y hold: what fits the caches is copied from them.
            let rate = timing::cpu_copy_rate(case.rows() * case.d);
            let times = timing::cpu(&case, row.repetitions).map_err(Error::config)?;
            Ok((outcome.worst(), times, rate))
        })
    }
}

/// An error of the GPU as the command's.
pub(crate) fn absent(e: CudaError) -> Error {
    let message = e.to_string();
    let (what, hint) = message.split_once("\nhint: ").unwrap_or((&message, "--device cpu runs on the host"));
    Error::device(what).hint(hint)
}

fn broken(e: CudaError) -> Error {
    let error = absent(e);
    Error { kind: cli::Kind::Config, ..error }
}

fn refuse(outcome: &check::Outcome) -> Result<(), Error> {
    if outcome.wrong.is_empty() {
        return Ok(());
    }
    let message = format!("{}: {}", outcome.case, outcome.wrong.join("; "));
    Err(Error::config(message).hint("no time is taken of a wrong result; kernel-throughput check shows more"))
}

impl Experiment for Table {
    fn item(&self) -> &str {
        "table-2"
    }

    fn plan(&self) -> &str {
        include_str!("../../../reproduce/table-2/table-2.toml")
    }

    fn check(&self, row: &toml::Table) -> Result<(), Error> {
        cli::parse::<Row>(row)?.check().map_err(Error::config)
    }

    fn seeded(&self) -> bool {
        false
    }

    fn facts(&self, device: &Found) -> Facts {
        let gpu = device.kind == "cuda";
        let dtype = if gpu { "bf16" } else { "f32" };
        Facts {
            dtype: dtype.into(),
            kernels_sha256: if gpu { kernels::cuda::short_conv::source_hashes() } else { BTreeMap::new() },
            ..Facts::default()
        }
    }

    fn peer(&self) -> Option<&str> {
        Some("Times of the official kernels on the same machine, written by kernels/peer_bench.py, to put beside ours")
    }

    fn device_kinds(&self) -> &[&str] {
        &["cpu", "cuda"]
    }

    fn device(&self, asked: DeviceArg, threads: usize) -> Result<Found, Error> {
        asked.single()?;
        let DeviceArg::Cuda(gpus) = asked else {
            return cli::host_device(asked, self.device_kinds(), threads);
        };
        let device = Device::new(gpus.first).map_err(absent)?;
        let driver = std::fs::read_to_string("/sys/module/nvidia/version").ok().map(|text| text.trim().to_string());
        let cuda = Some(device.cuda_version().map_err(absent)?);
        let found = Found { kind: "cuda".into(), name: device.name().into(), threads, driver, cuda };
        *self.gpu.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(device));
        Ok(found)
    }

    fn measure(&self, ctx: &RowContext) -> Result<Vec<Metric>, Error> {
        let row: Row = ctx.parse()?;
        let peers = ctx.peer.map(peers).transpose().map_err(Error::config)?.unwrap_or_default();
        let gpu = self.gpu.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (dtype, (error, times, rate)) = match &gpu {
            Some(device) => (Dtype::Bf16, self.on_gpu(device, &row)?),
            None if row.decode => {
                return Err(Error::config("a decode step is timed on a GPU only").hint("--device cuda"));
            }
            None => (Dtype::F32, Self::on_cpu(&row, ctx.threads)?),
        };
        let (bytes, both_bytes) = row.bytes(dtype);
        let limit = |bytes: u64| bytes as f64 / rate * 1e6;
        let forward = &times.forward;
        let mut values = vec![
            ("error", error),
            ("copy_tbs", rate / 1e12),
            ("fwd_us", forward.median),
            ("fwd_spread", 100.0 * forward.spread),
            ("limit_fwd_us", limit(bytes)),
            ("fwd_of_limit", forward.median / limit(bytes)),
        ];
        if let (Some(both), Some(bytes)) = (&times.both, both_bytes) {
            let rate = bytes as f64 / (both.median * 1e-6);
            values.extend([
                ("fwdbwd_us", both.median),
                ("fwdbwd_spread", 100.0 * both.spread),
                ("limit_fwdbwd_us", limit(bytes)),
                ("fwdbwd_of_limit", both.median / limit(bytes)),
                ("fwdbwd_mb", bytes as f64 / 1e6),
                ("copy_share", 100.0 * limit(bytes) / both.median),
            ]);
            values.extend(gpu.is_some().then_some(("bandwidth", rate / 1e12)));
        }
        if let Some((forward, both)) = &times.plain {
            values.extend([("fwd_bwd", both.median / 1e3), ("bwd", (both.median - forward.median) / 1e3)]);
        }
        if let (true, Some(peer)) = (gpu.is_some(), peers.iter().find(|peer| peer.case == ctx.row)) {
            values.extend([("peer_fwd_us", peer.forward), ("peer_fwdbwd_us", peer.both)]);
            values.push(("fwd_over_peer", peer.forward / forward.median));
            values.extend(times.both.as_ref().map(|both| ("fwdbwd_over_peer", peer.both / both.median)));
        }
        let [seed, ..] = ctx.seeds else { return Err(Error::config("no seed").hint("give the plan seeds = 1")) };
        Ok(values.into_iter().map(|(name, value)| ctx.metric(*seed, 0, name, value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_absent_is_said_with_a_remedy() {
        if kernels::cuda::driver_present() {
            return;
        }
        let error = Table::default().device(DeviceArg::Cuda(cli::Gpus::one(0)), 1).unwrap_err();
        assert!(error.exit_code() == 3 && error.hint.is_some_and(|hint| hint.contains("--device cpu")));
    }
}
