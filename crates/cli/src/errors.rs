//! An error as a person reads it: what was refused, why, who serves traffic, and what to type next.

use std::{error::Error, fmt};

use pgleap_canary::CanaryError;
use pgleap_saga::{EngineError, JournalError, StepError};
use pgleap_upgrade::{chain::ChainError, config::ConfigErrors, world::WorldError};
use serde::Serialize;

use crate::{exit::Exit, out::Paint};

/// Why a command ended without doing what was asked.
#[derive(Debug, Clone, Serialize)]
pub struct CommandError {
    /// What was refused: lowercase, no final period.
    pub message: String,
    /// Why, from the outside in; a line each.
    pub cause: Vec<String>,
    /// Who serves traffic now.
    pub state: Option<String>,
    /// What to type or change next.
    pub hint: Option<String>,
    /// What the exit code says.
    #[serde(skip)]
    pub exit: Exit,
}

impl CommandError {
    /// Returns an error that only has a message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { message: message.into(), cause: Vec::new(), state: None, hint: None, exit }
    }

    /// Returns an error in the words of `error`, with its sources as the cause.
    pub fn of(exit: Exit, error: &dyn Error) -> Self {
        Self { cause: sources(error), ..Self::new(exit, error.to_string()) }
    }

    /// Adds a line to the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause.push(cause.into());
        self
    }

    /// Says who serves traffic.
    #[must_use]
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the lines for a terminal.
    pub fn render(&self, paint: Paint) -> String {
        let mut text = format!("{} {}", paint.red("error:"), indented(&self.message));
        for (nth, cause) in self.cause.iter().enumerate() {
            let label = if nth == 0 { paint.bold("cause:") } else { "      ".to_owned() };
            text.push_str(&format!("\n  {label} {}", indented(cause)));
        }
        if let Some(state) = &self.state {
            text.push_str(&format!("\n  {} {}", paint.bold("state:"), indented(state)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n  {}  {}", paint.bold("hint:"), indented(hint)));
        }
        text
    }
}

/// Lines after the first begin below the first one's text.
fn indented(text: &str) -> String {
    text.replace('\n', "\n         ")
}

fn sources(error: &dyn Error) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inner = error.source();
    while let Some(cause) = inner {
        lines.push(cause.to_string());
        inner = cause.source();
    }
    lines
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Paint::plain()))
    }
}

impl From<ConfigErrors> for CommandError {
    fn from(errors: ConfigErrors) -> Self {
        Self { cause: errors.problems.clone(), ..Self::new(Exit::Usage, headline(&errors.to_string())) }
            .state("nothing was contacted, nothing was changed")
            .hint("correct the configuration, then run the same command again")
    }
}

fn headline(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl From<Vec<WorldError>> for CommandError {
    fn from(errors: Vec<WorldError>) -> Self {
        let lines = errors.iter().map(|error| {
            let mut line = error.to_string();
            sources(error).iter().for_each(|cause| line.push_str(&format!(": {cause}")));
            line
        });
        Self { cause: lines.collect(), ..Self::new(Exit::Usage, "the configuration cannot be used on this host") }
            .state("nothing was contacted, nothing was changed")
            .hint("correct what is named, then run the same command again")
    }
}

impl From<JournalError> for CommandError {
    fn from(error: JournalError) -> Self {
        match &error {
            JournalError::Locked { .. } => Self::new(Exit::Locked, error.to_string())
                .hint("`pgleap watch` shows what it does; it ends safely on Ctrl-C or SIGTERM"),
            _ => Self::of(Exit::Unexpected, &error)
                .hint("check the directory of the journal: its disk, its owner, and that only pgleap writes there"),
        }
    }
}

impl From<EngineError> for CommandError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Journal(JournalError::Locked { pid }) => JournalError::Locked { pid }.into(),
            EngineError::JournalInSection { .. } => Self::of(Exit::Stopped, &error)
                .hint("check the disk that the journal is on, then `pgleap resume`: it ends what was begun"),
            EngineError::PastPointOfNoReturn { .. } => Self::of(Exit::Usage, &error)
                .hint("`pgleap resume` finishes it; `pgleap rollback` then moves writes back"),
            _ => Self::of(Exit::Unexpected, &error).hint("`pgleap status` says where the upgrade stands"),
        }
    }
}

impl From<ChainError> for CommandError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::NotNow { hint, .. } => Self::new(Exit::Usage, error.to_string()).hint(hint),
            ChainError::NotBegun(error) => error.into(),
            ChainError::NotApproved(state) => crate::commands::approve::missing(&state),
            ChainError::Engine(error) => error.into(),
            ChainError::Journal(error) => error.into(),
        }
    }
}

impl From<StepError> for CommandError {
    fn from(error: StepError) -> Self {
        Self { cause: error.cause.into_iter().collect(), hint: error.hint, ..Self::new(Exit::Stopped, error.message) }
    }
}

impl From<CanaryError> for CommandError {
    fn from(error: CanaryError) -> Self {
        let exit = match error {
            CanaryError::Config { .. } | CanaryError::LedgerLine { .. } | CanaryError::LedgerFile { .. } => Exit::Usage,
            _ => Exit::Unexpected,
        };
        Self::of(exit, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_four_lines_in_order() {
        let error = CommandError::new(Exit::Stopped, "switchover held")
            .because("replication lag is 48 MiB, limit is 16 MiB")
            .because("pid 12 is in a transaction")
            .state("nothing was changed; the source serves reads and writes")
            .hint("wait until `pgleap watch` shows less");
        assert_eq!(
            error.to_string(),
            "error: switchover held\n  \
               cause: replication lag is 48 MiB, limit is 16 MiB\n         \
                      pid 12 is in a transaction\n  \
               state: nothing was changed; the source serves reads and writes\n  \
               hint:  wait until `pgleap watch` shows less"
        );
    }

    #[test]
    fn every_problem_of_a_configuration_is_a_line_of_the_cause() {
        let errors = ConfigErrors { path: "pgleap.toml".into(), problems: vec!["one".into(), "two".into()] };
        let error = CommandError::from(errors);
        assert_eq!((error.exit, error.message.as_str()), (Exit::Usage, "`pgleap.toml` has 2 problems"));
        assert_eq!(error.cause, ["one", "two"]);
    }

    #[test]
    fn a_lock_held_by_another_process_has_an_exit_code_of_its_own() {
        assert_eq!(CommandError::from(JournalError::Locked { pid: 7 }).exit as u8, 75);
        let wrapped = ChainError::Engine(EngineError::Journal(JournalError::Locked { pid: 7 }));
        assert_eq!(CommandError::from(wrapped).exit, Exit::Locked);
    }
}
