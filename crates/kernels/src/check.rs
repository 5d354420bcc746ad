//! Argument checks shared by the ops.

use crate::{Error, Result};

/// `found` elements must be the product of the named dimensions.
pub(crate) fn size(op: &'static str, name: &'static str, found: usize, dims: &[(&str, usize)]) -> Result<()> {
    let expected = dims.iter().map(|d| d.1).product();
    if found == expected {
        return Ok(());
    }
    let shape = dims.iter().map(|(n, d)| format!("{n}={d}")).collect::<Vec<_>>().join(", ");
    Err(Error::Size { op, name, found, expected, shape: format!("[{shape}]") })
}

/// As [`size`], of several arguments of one shape.
pub(crate) fn sizes(op: &'static str, found: &[(&'static str, usize)], dims: &[(&str, usize)]) -> Result<()> {
    found.iter().try_for_each(|&(name, len)| size(op, name, len, dims))
}

/// A dimension must be at least 1.
pub(crate) fn positive(op: &'static str, name: &'static str, found: usize) -> Result<()> {
    if found > 0 {
        return Ok(());
    }
    Err(Error::Range { op, name, found, range: "1..".into(), remedy: "give every dimension at least one element" })
}

/// A dimension must be from 1 to `max`.
pub(crate) fn range(
    op: &'static str,
    name: &'static str,
    found: usize,
    max: usize,
    remedy: &'static str,
) -> Result<()> {
    if (1..=max).contains(&found) {
        return Ok(());
    }
    let range = if max == usize::MAX { "1 and up".into() } else { format!("1 to {max}") };
    Err(Error::Range { op, name, found, range, remedy })
}

/// `divisor` must divide `found`.
pub(crate) fn divides(
    op: &'static str,
    (name, found): (&'static str, usize),
    (divisor_name, divisor): (&'static str, usize),
    remedy: &'static str,
) -> Result<()> {
    if divisor > 0 && found.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(Error::Divides { op, name, found, divisor_name, divisor, remedy })
}
