//! How a run ends, and why the engine may refuse to run at all.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{JournalError, StepError};

/// The step a run ended at, and its failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step's name.
    pub step: String,
    /// What it said.
    pub error: StepError,
}

/// How a run of a plan ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Every step succeeded; the plan is closed.
    Done,
    /// Every step was taken back; the plan is closed.
    Unwound {
        /// Why it turned back.
        cause: StepError,
    },
    /// A person must lift what is in the way; executing the plan again goes on from there.
    Blocked(Failure),
    /// Stopped on request; executing the plan again goes on from there.
    Stopped,
    /// The plan can neither go on nor back by itself: a fatal failure past the point of no return, or a failed undo.
    /// Executing the plan again tries the same step again, in the same direction.
    NeedsOperator(Failure),
}

/// What became of a section that was open, and had a way back, when the journal failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// These steps were taken back, newest first and without a record: nothing of the section is left.
    Whole {
        /// Their names.
        undone: Vec<String>,
    },
    /// One step could not be taken back: it still holds, and those before it.
    Partial {
        /// The names of those that were, newest first.
        undone: Vec<String>,
        /// The one that was not.
        failure: Box<Failure>,
    },
    /// Nothing was taken back: the point of no return may be recorded, and then the plan goes on from where it is.
    Withheld,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |steps: &[String]| match steps {
            [] => "nothing".to_owned(),
            steps => steps.iter().map(|step| format!("`{step}`")).collect::<Vec<_>>().join(" and "),
        };
        match self {
            Self::Whole { undone } => write!(f, "{} taken back, so that nobody waits", names(undone)),
            Self::Partial { undone, failure } => {
                write!(f, "{} taken back, but not `{}`: {}", names(undone), failure.step, failure.error)
            }
            Self::Withheld => f.write_str("nothing taken back, as the point of no return may be recorded"),
        }
    }
}

/// Why the engine did not run a plan, or had to break off.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The journal could not be read or written: nothing may happen that it does not know of.
    #[error("the journal failed, so the run was broken off")]
    Journal(#[from] JournalError),
    /// As [`EngineError::Journal`], but before the point of no return of a section, where somebody waits.
    #[error("the journal failed inside `{section}`, so the run was broken off: {release}")]
    JournalInSection {
        /// The section's name.
        section: String,
        /// What was done for those who wait.
        release: Release,
        /// The journal's failure.
        #[source]
        source: Box<JournalError>,
    },
    /// A plan names a step twice; the journal tells steps apart by name.
    #[error("plan `{plan}` has step `{step}` twice")]
    DuplicateStep {
        /// The plan's id.
        plan: String,
        /// The step's name.
        step: String,
    },
    /// A plan names a section twice.
    #[error("plan `{plan}` has section `{section}` twice")]
    DuplicateSection {
        /// The plan's id.
        plan: String,
        /// The section's name.
        section: String,
    },
    /// The journal holds another plan under this id.
    #[error(
        "plan `{plan}` differs from the one in the journal: step {number} is `{given}` here and `{recorded}` there; \
         go on with the version of pgleap that began it"
    )]
    PlanChanged {
        /// The plan's id.
        plan: String,
        /// First place that differs, counted from 1.
        number: usize,
        /// The step there in the journal, or `nothing`.
        recorded: String,
        /// The step there in the plan given, or `nothing`.
        given: String,
    },
    /// A step succeeded in a revision that this program does not continue.
    #[error(
        "step `{step}` was run in revision {recorded}, this program has revision {known}; \
         go on with the version of pgleap that began it"
    )]
    RevisionChanged {
        /// The step's name.
        step: String,
        /// Revision in the journal.
        recorded: u32,
        /// Revision of the step given.
        known: u32,
    },
    /// There is no way back inside the plan any more.
    #[error("plan `{plan}` is past its point of no return: execute it to its end, then switch over in reverse")]
    PastPointOfNoReturn {
        /// The plan's id.
        plan: String,
    },
    /// Nothing to unwind: the journal has no such plan.
    #[error("the journal has no plan `{plan}`")]
    UnknownPlan {
        /// The plan's id.
        plan: String,
    },
}
