//! The flags that every reproduce binary has.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

use crate::Error;

/// The flags, parsed.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(max_term_width = 100, after_help = AFTER)]
pub struct Args {
    /// Which settings to run: smoke (CPU, under a minute), small (one GPU) or paper [default: smoke; with --recorded,
    /// the largest recorded]
    #[arg(long, value_name = "SCALE")]
    pub scale: Option<String>,
    /// Where to run: auto (the CPU), cpu, dfdx (the reference backend), cuda, cuda:N or several GPUs, cuda:N-M, which share the
    /// seeds
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = DeviceArg::parse)]
    pub device: DeviceArg,
    /// The seeds, as a count (5 is 0 to 4) or a list (0,3,7); a list of one ends with a comma (3,) [default: the plan's]
    #[arg(long, value_name = "SEEDS", value_parser = parse_seeds)]
    pub seeds: Option<Seeds>,
    /// Run these rows only, separated by commas
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    pub rows: Option<Vec<String>>,
    /// Run nothing: print the recorded values of golden/records
    #[arg(long, conflicts_with_all = ["resume", "time_budget", "print_config"])]
    pub recorded: bool,
    /// How the table is printed: text, markdown, json or csv
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub format: Format,
    /// The folder of the run's files [default: out/ITEM.SCALE]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// The folder of prepared texts, for rows that read any [default: the environment's DYNCONV_DATA]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Keep the rows already finished in the --out folder and go on
    #[arg(long)]
    pub resume: bool,
    /// Keep the last checkpoint of every run in the --out folder, for `generate`
    #[arg(long)]
    pub keep_checkpoints: bool,
    /// Stop in time, with exit code 4: 90s, 9m or 1.5h
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub time_budget: Option<Duration>,
    /// CPU threads; as many seeds train side by side, on a GPU too [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Print the resolved configuration of every row and stop
    #[arg(long)]
    pub print_config: bool,
    /// Print the scales, rows and records and stop
    #[arg(long)]
    pub list: bool,
    /// Say nothing but errors on stderr
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

const AFTER: &str = "\
The table goes to stdout, all else to stderr.
Exit codes: 0 ok; 1 a claim is off; 2 usage, configuration or files; 3 device absent;
4 incomplete: stopped by --time-budget, go on with --resume; or some rows do not run on the device.";

/// A list of seeds.
pub type Seeds = Vec<u64>;

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceArg {
    /// The first kind that the experiment runs on: the CPU.
    Auto,
    /// The embedded CPU backend.
    Cpu,
    /// The reference backend.
    Dfdx,
    /// CUDA devices.
    Cuda(Gpus),
}

/// CUDA devices by ordinal: `count` of them, from `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpus {
    /// The first's ordinal.
    pub first: usize,
    /// How many; at least 1.
    pub count: usize,
}

impl Gpus {
    /// The device of that ordinal.
    pub fn one(ordinal: usize) -> Self {
        Self { first: ordinal, count: 1 }
    }

    /// The ordinal of the device that takes the job at a place: in turn.
    pub fn of(self, place: usize) -> usize {
        self.first + place % self.count
    }
}

impl DeviceArg {
    /// Reads the flag's value.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<DeviceArg, String> {
        match text {
            "auto" => Ok(DeviceArg::Auto),
            "cpu" => Ok(DeviceArg::Cpu),
            "dfdx" => Ok(DeviceArg::Dfdx),
            "cuda" => Ok(DeviceArg::Cuda(Gpus::one(0))),
            _ => {
                let gpus = text.strip_prefix("cuda:").and_then(|text| {
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    let (first, last) = (first.parse::<u16>().ok()?.into(), last.parse::<u16>().ok()?.into());
                    (first <= last).then(|| Gpus { first, count: last - first + 1 })
                });
                gpus.map(DeviceArg::Cuda).ok_or_else(|| "use auto, cpu, dfdx, cuda, cuda:N or cuda:N-M".into())
            }
        }
    }

    /// The kind that records and claims name; none for [`DeviceArg::Auto`].
    pub fn kind(self) -> Option<&'static str> {
        match self {
            DeviceArg::Auto => None,
            DeviceArg::Cpu => Some("cpu"),
            DeviceArg::Dfdx => Some("dfdx"),
            DeviceArg::Cuda(_) => Some("cuda"),
        }
    }

    /// Which of the GPUs; the first where none is asked for.
    pub fn gpus(self) -> Gpus {
        if let DeviceArg::Cuda(gpus) = self { gpus } else { Gpus::one(0) }
    }

    /// The one GPU asked for, for programs that know the CPU and GPUs; none for the CPU.
    ///
    /// # Errors
    /// With exit code 2 for several GPUs and for the reference backend.
    pub fn gpu(self) -> Result<Option<usize>, Error> {
        self.single()?;
        match self {
            DeviceArg::Auto | DeviceArg::Cpu => Ok(None),
            DeviceArg::Cuda(gpus) => Ok(Some(gpus.first)),
            DeviceArg::Dfdx => Err(Error::config("--device dfdx: this runs on the CPU or a GPU: use cpu or cuda")),
        }
    }

    /// Refuses several GPUs.
    ///
    /// # Errors
    /// With exit code 2.
    pub fn single(self) -> Result<(), Error> {
        let Gpus { first, count } = self.gpus();
        if count == 1 {
            return Ok(());
        }
        let last = first + count - 1;
        Err(Error::config(format!("--device cuda:{first}-{last}: this runs on one GPU, such as cuda:{first}")))
    }
}

/// What `--format` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a terminal.
    Text,
    /// For a README.
    Markdown,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
}

impl From<Format> for report::table::Format {
    fn from(format: Format) -> report::table::Format {
        match format {
            Format::Text => report::table::Format::Text,
            Format::Markdown => report::table::Format::Markdown,
            Format::Json => report::table::Format::Json,
            Format::Csv => report::table::Format::Csv,
        }
    }
}

fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let number = |part: &str| part.trim().parse::<u64>().map_err(|_| format!("`{part}` is not a seed"));
    if !text.contains(',') {
        return match number(text)? {
            0 => Err("at least one seed; for seed 0 alone write 0,".into()),
            count if count > 1000 => Err("more than 1000 seeds; for one large seed write it with a comma after".into()),
            count => Ok((0..count).collect()),
        };
    }
    let list: Vec<u64> =
        text.split(',').filter(|part| !part.trim().is_empty()).map(number).collect::<Result<_, _>>()?;
    let mut sorted = list.clone();
    sorted.sort_unstable();
    sorted.dedup();
    match list.len() {
        0 => Err("at least one seed".into()),
        n if n != sorted.len() => Err("a seed stands twice".into()),
        _ => Ok(list),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok().filter(|n| *n >= 0.0).map(|n| n * unit);
    let duration = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    duration.ok_or_else(|| "use seconds or a number with s, m or h, such as 90s, 9m or 1.5h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(flags: &[&str]) -> Result<Args, String> {
        Args::try_parse_from(std::iter::once(&"reproduce-x").chain(flags)).map_err(|e| e.to_string())
    }

    #[test]
    fn without_flags_all_is_default() {
        let args = parsed(&[]).unwrap();
        assert_eq!((args.scale, args.device, args.seeds, args.rows), (None, DeviceArg::Auto, None, None));
        assert_eq!((args.format, args.out, args.time_budget, args.threads), (Format::Text, None, None, None));
        assert_eq!(args.data, None);
        assert!(
            !(args.recorded
                || args.resume
                || args.keep_checkpoints
                || args.print_config
                || args.list
                || args.quiet
                || args.verbose)
        );
    }

    #[test]
    fn every_flag_parses() {
        let flags = "--scale small --device cuda:1 --seeds 3 --rows a,b --format json --out o --data d --resume \
                     --time-budget 1.5h --threads 2 -v";
        let args = parsed(&flags.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(args.scale.as_deref(), Some("small"));
        assert_eq!((args.device, args.seeds), (DeviceArg::Cuda(Gpus::one(1)), Some(vec![0, 1, 2])));
        assert_eq!(args.rows, Some(vec!["a".to_string(), "b".to_string()]));
        assert_eq!((args.format, args.time_budget), (Format::Json, Some(Duration::from_secs(5400))));
        assert_eq!(args.data, Some("d".into()));
        assert!(args.resume && args.verbose && args.threads == Some(2));
        for flags in [["--recorded", "-q"], ["--print-config", "--list"]] {
            assert!(parsed(&flags).is_ok());
        }
    }

    #[test]
    fn gpus_are_one_or_a_range_and_take_jobs_in_turn() {
        let device = |text| parsed(&["--device", text]).unwrap().device;
        assert_eq!(device("cuda"), DeviceArg::Cuda(Gpus::one(0)));
        let three = Gpus { first: 1, count: 3 };
        assert_eq!(device("cuda:1-3"), DeviceArg::Cuda(three));
        assert_eq!((0..5).map(|place| three.of(place)).collect::<Vec<_>>(), [1, 2, 3, 1, 2]);
        assert_eq!(device("cuda:2").gpu(), Ok(Some(2)));
        assert_eq!(device("cpu").gpu(), Ok(None));
        assert!(device("cuda:1-3").gpu().unwrap_err().message.contains("one GPU, such as cuda:1"));
        assert!(device("dfdx").gpu().unwrap_err().message.contains("use cpu or cuda"));
    }

    #[test]
    fn seeds_are_a_count_or_a_list() {
        for (text, seeds) in [("1", vec![0]), ("3,", vec![3]), ("0, 7,2", vec![0, 7, 2])] {
            assert_eq!(parse_seeds(text), Ok(seeds), "{text}");
        }
        for text in ["", "0", ",", "a", "1,1", "-1", "1.5", "4000"] {
            assert!(parse_seeds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("9m", 540), ("0", 0)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "-1s", "1d", "é", "inf", "1e40h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_is_allowed() {
        for (flags, part) in [
            (vec!["--device", "tpu"], "use auto, cpu, dfdx, cuda, cuda:N or cuda:N-M"),
            (vec!["--device", "cuda:x"], "use auto, cpu, dfdx, cuda, cuda:N or cuda:N-M"),
            (vec!["--device", "cuda:3-1"], "use auto, cpu, dfdx, cuda, cuda:N or cuda:N-M"),
            (vec!["--format", "html"], "[possible values: text, markdown, json, csv]"),
            (vec!["--threads", "0"], "0 is not in 1.."),
            (vec!["--recorded", "--resume"], "cannot be used with"),
            (vec!["-q", "-v"], "cannot be used with"),
            (vec!["--sclae", "small"], "a similar argument exists: '--scale'"),
            (vec!["small"], "unexpected argument"),
        ] {
            let message = parsed(&flags).unwrap_err();
            assert!(message.contains(part), "{flags:?}: {message}");
        }
    }
}
