//! Claims of `paper/<item>.toml` and their verdicts.
//!
//! | kind | holds when |
//! |---|---|
//! | exact | every value equals the paper's at the digits it printed |
//! | within | the interval lies within a width of the paper's number, or the row equals another row within it |
//! | ratio | the interval of the quotient of two rows lies within a width of the paper's quotient |
//! | ordering | each side beats the next, by the metric's direction |
//! | bound | the interval lies on the right side of a limit |
//!
//! Each row under test has its own part of the verdict ([`Judged::by_row`]), which tables show beside it.
//!
//! A verdict is `ok`, `off` or `skip(reason)`. What was not run is `skip`, never `ok`; a value that is not finite is
//! `off`, whatever else is missing. Metrics that vary with the seed need [`MIN_SEEDS`] seeds, and then the *interval*
//! decides (see [`stats`]): against a number, the rank interval of the median; between two rows, the one-sided
//! sign-flip test on differences paired by seed, at level [`LEVEL`].
//!
//! Recall is bimodal over seeds, so an ordering asks for three things at once: a greater median, at least as great a
//! share of solved seeds (where the metric defines solved), and a sign-flip test that excludes the reverse. With a
//! `margin` an ordering reads "not worse by more than the margin". A side of several rows is their mean, seed by seed.

mod judge;
mod number;
mod pairs;
pub mod stats;

pub use judge::{Judged, Verdict, judge, judge_all};
use serde::Deserialize;

/// The fewest seeds on which a claim over seeds is judged.
pub const MIN_SEEDS: usize = 3;

/// The level of the one-sided sign-flip test: 1/8, the smallest that three seeds can reach.
pub const LEVEL: f64 = 0.125;

/// As the row of a `*_paper` limit: the paper's number of the very row under test.
pub const SAME: &str = "same";

/// A statement about an item's rows, with the scales and devices where it means something.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Unique within its item.
    pub id: String,
    /// The claim in words.
    pub says: String,
    /// The metric it is about.
    pub metric: String,
    /// The scales at which it is judged; elsewhere it is skipped.
    pub scales: Vec<String>,
    /// The device kinds (`cpu`, `dfdx`, `cuda`) on which it is judged.
    pub devices: Vec<String>,
    /// Whether the bar is ours and not a statement of the paper.
    #[serde(default)]
    pub ours: bool,
    /// What is tested.
    pub test: Test,
}

/// What a claim tests. Rows are named by id.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Test {
    /// Each row equals the paper's number to its printed digits.
    Exact {
        /// The rows, all of which must hold.
        rows: Vec<String>,
    },
    /// Each row lies within `abs`, or within `rel` times the target, of its target.
    Within {
        /// The rows, all of which must hold.
        rows: Vec<String>,
        /// The target: this row of the same run; without it, the paper's number.
        of: Option<String>,
        /// Relative width.
        rel: Option<f64>,
        /// Absolute width.
        abs: Option<f64>,
    },
    /// The quotient of two rows lies within `rel` of the paper's quotient.
    Ratio {
        /// The numerator.
        of: String,
        /// The denominator.
        to: String,
        /// Relative width.
        rel: f64,
    },
    /// Each side beats the next one.
    Ordering {
        /// The sides, best first; each a list of rows whose mean counts.
        sides: Vec<Vec<String>>,
        /// How much worse a side may be than the next and still hold; 0 asks for a strict order.
        #[serde(default)]
        margin: f64,
    },
    /// Each row respects a limit: a number, or the paper's number of a row ([`SAME`] for the row itself).
    Bound {
        /// The rows, all of which must hold.
        rows: Vec<String>,
        /// At least this number.
        at_least: Option<f64>,
        /// At most this number.
        at_most: Option<f64>,
        /// At least the paper's number of this row.
        at_least_paper: Option<String>,
        /// At most the paper's number of this row.
        at_most_paper: Option<String>,
    },
}

impl Test {
    /// `exact`, `within`, `ratio`, `ordering` or `bound`.
    pub fn kind(&self) -> &'static str {
        match self {
            Test::Exact { .. } => "exact",
            Test::Within { .. } => "within",
            Test::Ratio { .. } => "ratio",
            Test::Ordering { .. } => "ordering",
            Test::Bound { .. } => "bound",
        }
    }

    /// The rows that it is about, which have a part of its verdict: those under test, of a ratio the numerator, of an
    /// ordering every side that should beat a next one.
    pub fn subjects(&self) -> Vec<&str> {
        let named: Vec<&String> = match self {
            Test::Exact { rows } | Test::Within { rows, .. } | Test::Bound { rows, .. } => rows.iter().collect(),
            Test::Ratio { of, .. } => vec![of],
            Test::Ordering { sides, .. } => sides.iter().rev().skip(1).rev().flatten().collect(),
        };
        named.into_iter().map(String::as_str).collect()
    }

    /// Every row that it names.
    pub fn rows(&self) -> Vec<&str> {
        let named: Vec<&String> = match self {
            Test::Exact { rows } => rows.iter().collect(),
            Test::Within { rows, of, .. } => rows.iter().chain(of).collect(),
            Test::Ratio { of, to, .. } => vec![of, to],
            Test::Ordering { sides, .. } => sides.iter().flatten().collect(),
            Test::Bound { rows, at_least_paper, at_most_paper, .. } => {
                let limits = at_least_paper.iter().chain(at_most_paper).filter(|row| *row != SAME);
                rows.iter().chain(limits).collect()
            }
        };
        named.into_iter().map(String::as_str).collect()
    }
}
