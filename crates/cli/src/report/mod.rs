//! The report: what was done, what it cost whom, and what was proven, from the journal alone.
//!
//! Clients' own numbers come from a canary, if one ran; without it they are `null`, never 0.

mod chapters;
mod chart;
mod html;
mod measured;
mod model;
pub mod table;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use measured::Measured;
pub use model::Report;

use crate::{errors::CommandError, exit::Exit};

/// Where a report was written.
pub struct Written {
    /// For people.
    pub html: PathBuf,
    /// For programs.
    pub json: PathBuf,
}

/// Writes `report.html` and `report.json` into a directory, which is made if it is not there.
///
/// # Errors
/// If the files cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<Written, CommandError> {
    let failed = |error: io::Error| {
        CommandError::new(Exit::Unexpected, format!("cannot write the report into `{}`", directory.display()))
            .because(error.to_string())
            .hint("name another directory by `--report-dir`")
    };
    let text = serde_json::to_string_pretty(report).map_err(|error| failed(error.into()))?;
    std::fs::create_dir_all(directory).map_err(failed)?;
    let written = Written { html: directory.join("report.html"), json: directory.join("report.json") };
    std::fs::write(&written.json, text + "\n").map_err(failed)?;
    std::fs::write(&written.html, html::page(report).into_string()).map_err(failed)?;
    Ok(written)
}
