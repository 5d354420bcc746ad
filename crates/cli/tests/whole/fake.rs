//! An experiment that measures what its plan says.

use cli::{Device, Error, Experiment, Facts, Metric, RowContext};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The data that this process has read: a file a row.
static READ: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// The kernels that would run: one file, of this hash.
fn kernels() -> BTreeMap<String, String> {
    std::env::var("FAKE_KERNELS").into_iter().map(|hash| ("a.cu".into(), hash)).collect()
}

pub(crate) struct Fake {
    pub(crate) plan: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Accuracy at the last step; each seed adds a thousandth.
    value: f64,
    /// How long measuring takes.
    #[serde(default)]
    wait_s: f64,
    /// Operations of measuring it for one seed; without them nothing is trained.
    flops: Option<f64>,
    /// An op that its device lacks.
    op: Option<String>,
    /// `nan`, `error`, `metric`, `seed` or `twice`: what goes wrong.
    fail: Option<String>,
}

/// Every claim about variable keys at scale smoke holds.
pub(crate) const GOOD: &str = r#"
[base]
seeds = 3
[scale.smoke]
[scale.small]
[[row]]
id = "varkey.none"
set = { value = 0.1 }
[[row]]
id = "varkey.static"
set = { value = 0.4 }
[[row]]
id = "varkey.headwise"
set = { value = 0.95 }
[[row]]
id = "varkey.lowrank"
set = { value = 0.96 }
"#;

/// The good plan with keys added to the third row.
pub(crate) fn with(set: &str) -> String {
    GOOD.replace("value = 0.95", &format!("value = 0.95, {set}"))
}

impl Experiment for Fake {
    fn item(&self) -> &str {
        "figure-recall"
    }

    fn plan(&self) -> &str {
        &self.plan
    }

    fn check(&self, row: &toml::Table) -> Result<(), Error> {
        let config: Config = cli::parse(row)?;
        if config.value > 1.0 {
            return Err(Error::config(format!("value = {} is above 1", config.value)).hint("it is an accuracy"));
        }
        Ok(())
    }

    fn flops(&self, row: &toml::Table, _: Option<&Path>) -> Option<f64> {
        cli::parse::<Config>(row).ok()?.flops
    }

    fn runs_on(&self, row: &toml::Table, _: &Device) -> Result<(), Error> {
        match cli::parse::<Config>(row)?.op {
            Some(op) => {
                Err(Error::config(format!("op 3, {op}, is not on cpu yet")).hint("run it with --device abacus"))
            }
            None => Ok(()),
        }
    }

    fn seeded(&self) -> bool {
        std::env::var_os("FAKE_UNSEEDED").is_none()
    }

    fn peer(&self) -> Option<&str> {
        std::env::var_os("FAKE_PEER").map(|_| "Times of another")
    }

    fn reads_data(&self, _: &toml::Table) -> bool {
        std::env::var_os("FAKE_READS").is_some()
    }

    fn facts(&self, _: &Device) -> Facts {
        let data_sha256 = READ.lock().unwrap().clone();
        Facts { dtype: "f32".into(), kernels_sha256: kernels(), data_sha256 }
    }

    fn measure(&self, ctx: &RowContext) -> Result<Vec<Metric>, Error> {
        let config: Config = ctx.parse()?;
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open("measured.log").unwrap();
        writeln!(log, "{}", ctx.row).unwrap();
        READ.lock().unwrap().insert(format!("{}.tok", ctx.row), "ff".into());
        if let Ok(hash) = std::env::var("FAKE_TEXT") {
            READ.lock().unwrap().insert("text.tok".into(), hash);
        }
        // Beside the configuration: how long the machine takes.
        let slow = std::env::var("FAKE_WAIT_S").map_or(0.0, |seconds| seconds.parse().unwrap());
        if let Some(peer) = ctx.peer {
            std::fs::read(peer).map_err(|e| Error::config(format!("{}: {e}", peer.display())))?;
        }
        let began = Instant::now();
        ctx.progress.expect(2 * ctx.seeds.len() as u64);
        while began.elapsed() < Duration::from_secs_f64(config.wait_s + slow) {
            if ctx.out_of_time() {
                return Err(Error::stopped());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut points = Vec::new();
        for &seed in ctx.seeds {
            points.push(ctx.metric(seed, 1, "accuracy", 0.0));
            let value = config.value + seed as f64 / 1000.0;
            points.push(match config.fail.as_deref() {
                Some("error") => return Err(Error::config("the disk is full").hint("make room")),
                Some("nan") => ctx.metric(seed, 2, "accuracy", f64::NAN),
                Some("metric") => ctx.metric(seed, 2, "speed", value),
                Some("twice") => ctx.metric(seed, 1, "accuracy", value),
                Some("seed") => ctx.metric(seed + 100, 2, "accuracy", value),
                _ => ctx.metric(seed, 2, "accuracy", value),
            });
            ctx.progress.advance(2, "");
        }
        Ok(points)
    }
}
