//! A number of the paper and how sure we are of it.

use serde::Deserialize;

/// How sure we are that a number is the paper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum Grade {
    /// Read in the authors' released code or its README.
    C,
    /// Transcribed from the paper twice, independently, or once and exact under our arithmetic.
    V2,
    /// Transcribed once.
    V,
    /// Inferred by us; never printed as the paper's.
    I,
    /// Unknown: the value is empty.
    U,
}

impl Grade {
    /// The grade's letters.
    pub fn name(self) -> &'static str {
        match self {
            Grade::C => "C",
            Grade::V2 => "V2",
            Grade::V => "V",
            Grade::I => "I",
            Grade::U => "U",
        }
    }

    /// What the grade means, for a legend.
    pub fn meaning(self) -> &'static str {
        match self {
            Grade::C => "released code",
            Grade::V2 => "transcribed twice or confirmed by arithmetic",
            Grade::V => "transcribed once",
            Grade::I => "inferred by us, not the paper's",
            Grade::U => "the paper's value is unknown",
        }
    }
}

/// One number of the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// The row's id.
    pub row: String,
    /// The metric's id.
    pub metric: String,
    /// The value; `None` exactly when the grade is [`Grade::U`].
    pub value: Option<f64>,
    /// The value with the digits that the paper printed.
    pub text: String,
    /// The unit, equal to the metric's.
    pub unit: String,
    /// How sure we are.
    pub grade: Grade,
    /// Where it was read.
    pub source: String,
    /// A doubt or remark; empty if none.
    pub note: String,
}

impl Number {
    /// The value with its grade: `18.10 V2`, `~317.9 I` where inferred, `U` where unknown.
    pub fn shown(&self) -> String {
        match self.grade {
            Grade::U => "U".into(),
            Grade::I => format!("~{} I", self.text),
            grade => format!("{} {}", self.text, grade.name()),
        }
    }

    /// Digits after the decimal point as printed.
    pub fn decimals(&self) -> usize {
        self.text.split_once('.').map_or(0, |(_, digits)| digits.len())
    }
}
