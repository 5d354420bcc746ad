//! What stops a run, the exit code it ends with, and the hint that goes with it.

/// The sort of an error, which fixes the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Usage, configuration, or a file that cannot be read or written: exit code 2.
    Config,
    /// The device asked for is absent: exit code 3.
    Device,
    /// Stopped by the time budget: exit code 4.
    Stopped,
    /// Finished but for rows that the device does not run: exit code 4.
    Skipped,
}

/// An error with the remedy that is printed after it as `hint:`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Its sort.
    pub kind: Kind,
    /// What is wrong, in lower case, with the values.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Error {
    /// A usage, configuration or file error.
    pub fn config(message: impl ToString) -> Error {
        Error { kind: Kind::Config, message: message.to_string(), hint: None }
    }

    /// An absent device.
    pub fn device(message: impl ToString) -> Error {
        Error { kind: Kind::Device, message: message.to_string(), hint: None }
    }

    /// What a measurement returns when [`crate::RowContext::out_of_time`] told it to stop, its own state saved.
    pub fn stopped() -> Error {
        Error { kind: Kind::Stopped, message: "stopped by --time-budget".into(), hint: None }
    }

    /// Rows that the device does not run.
    pub(crate) fn skipped(rows: &[&str], kind: &str) -> Error {
        let (plural, them) = if rows.len() == 1 { ("row is", "it") } else { ("rows are", "them") };
        let message = format!("{} {plural} skipped: not on {kind}", rows.len());
        // In a folder of their own: a record is of one device.
        let hint = format!("--device cpu --rows {} --out FOLDER runs {them}", rows.join(","));
        Error { kind: Kind::Skipped, message, hint: Some(hint) }
    }

    /// The same error with a remedy.
    pub fn hint(mut self, hint: impl ToString) -> Error {
        self.hint = Some(hint.to_string());
        self
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Config => 2,
            Kind::Device => 3,
            Kind::Stopped | Kind::Skipped => 4,
        }
    }

    /// `error: ...` and, if there is one, `hint: ...`, each on its own line.
    pub fn text(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        format!("error: {}\n{hint}", self.message)
    }
}

impl From<report::record::Error> for Error {
    fn from(e: report::record::Error) -> Error {
        Error::config(e)
    }
}

impl From<report::paper::Error> for Error {
    fn from(e: report::paper::Error) -> Error {
        Error::config(e)
    }
}

impl From<report::plan::Error> for Error {
    fn from(e: report::plan::Error) -> Error {
        Error::config(e).hint("--list shows the scales and rows")
    }
}

impl From<report::figure::Error> for Error {
    fn from(e: report::figure::Error) -> Error {
        Error::config(e)
    }
}
