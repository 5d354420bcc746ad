//! The refusals that the tasks share.

use crate::{Error, Result};

/// Each of these counts is at least 1.
pub(crate) fn positive(task: &'static str, counts: &[(&'static str, u32)]) -> Result<()> {
    match counts.iter().find(|&&(_, count)| count == 0) {
        Some(&(field, _)) => Err(Error::Zero { task, field }),
        None => Ok(()),
    }
}

/// There are as many different ones as an example needs.
pub(crate) fn enough(task: &'static str, what: &'static str, need: u64, have: u64, remedy: &'static str) -> Result<()> {
    if have < need { Err(Error::TooFew { task, what, need, have, remedy }) } else { Ok(()) }
}

/// The longest example fits.
pub(crate) fn fits(
    task: &'static str,
    len: u32,
    need: u64,
    what: impl FnOnce() -> String,
    remedy: &'static str,
) -> Result<()> {
    if u64::from(len) < need { Err(Error::TooShort { task, len, what: what(), need, remedy }) } else { Ok(()) }
}

/// A sequence of slots of two tokens has an even length.
pub(crate) fn even(task: &'static str, len: u32) -> Result<()> {
    if len % 2 == 1 { Err(Error::OddLength { task, len }) } else { Ok(()) }
}

/// The exponent of the gap law is in 0..=1.
pub(crate) fn power(task: &'static str, power: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&power) {
        return Err(Error::Range { task, field: "power", value: power, range: "from 0 to 1" });
    }
    Ok(())
}
