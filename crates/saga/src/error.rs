//! Why a step could not do its work, and what the executor is to make of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the executor does about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Passes by itself: retried with backoff, a bounded number of times, then treated as `Blocked`.
    Transient,
    /// Needs a person; nothing is undone, and `resume` goes on from here.
    Blocked,
    /// Cannot succeed: the plan is unwound.
    Fatal,
}

/// A step's failure, in the words that the operator will read.
///
/// `message` says what was refused, with its numbers; `cause` why, if known; `hint` what to do next. None of them may
/// hold a password or a connection string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    /// What the executor does about it.
    pub class: Class,
    /// What was refused: lowercase, no final period.
    pub message: String,
    /// Why, as far as it is known.
    pub cause: Option<String>,
    /// What to type or change next.
    pub hint: Option<String>,
}

impl StepError {
    /// Returns a failure that passes by itself.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { class: Class::Transient, message: message.into(), cause: None, hint: None }
    }

    /// Returns a failure that a person must lift.
    pub fn blocked(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { class: Class::Blocked, message: message.into(), cause: None, hint: Some(hint.into()) }
    }

    /// Returns a failure after which the plan cannot succeed.
    pub fn fatal(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { class: Class::Fatal, message: message.into(), cause: None, hint: Some(hint.into()) }
    }

    /// Adds what caused the failure.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StepError {}
