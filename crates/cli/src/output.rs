//! Stdout, and the files of a run.

use crate::Error;
use crate::state::Finished;
use report::measured::Measured;
use report::paper::Item;
use report::record::write_atomic;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Prints to stdout. A reader that has gone (`| head`) is no error.
pub(crate) fn print(stdout: &mut dyn Write, text: &str) -> Result<(), Error> {
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::config(format!("stdout: {e}"))),
        _ => Ok(()),
    }
}

/// Writes `<figure>.svg` and `<figure>.csv` of every figure that has a value.
pub(crate) fn figures(folder: &Path, item: &Item, measured: &Measured) -> Result<(), Error> {
    for spec in &item.figures {
        let figure = report::figure::build(item, spec, measured);
        if !figure.is_empty() {
            write_atomic(&folder.join(format!("{}.svg", figure.id)), figure.svg()?.as_bytes())?;
            write_atomic(&folder.join(format!("{}.csv", figure.id)), figure.csv().as_bytes())?;
        }
    }
    Ok(())
}

/// The values of finished rows.
pub(crate) fn measured<'a>(item: &Item, rows: impl Iterator<Item = &'a Finished>) -> Measured {
    Measured::of(item, rows.flat_map(|row| &row.metrics))
}
