//! A step: everything that changes the world.

use std::{fmt, future::Future};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Cx, StepError};

/// A step's identity in the journal, `phase.verb_noun`; never renamed once released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct StepName(pub &'static str);

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// How a step's effect is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reversal {
    /// By [`Step::undo`].
    Undo,
    /// There is nothing to take back.
    Nothing,
    /// Not at all: journaled before `run`, and from there the plan only goes forward.
    PointOfNoReturn,
}

/// What a step's effect looks like in the real systems, right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed<T> {
    /// Nothing of it is there.
    Absent,
    /// Begun: `run` can finish it and `undo` can remove it. The text is for the operator.
    Partial(String),
    /// It holds. Running again would change nothing.
    Done(T),
}

/// One journaled unit of work on a world `W`: probed, run, and taken back.
pub trait Step<W: Sync>: Send + Sync {
    /// Goes to the journal; later steps read it back from there, by `NAME`, and from nowhere else.
    type Output: Serialize + DeserializeOwned + Send + Sync;

    /// Identity in the journal.
    const NAME: StepName;
    /// Raised when the meaning of `Output` or of the effect changes; checked on resume.
    const REVISION: u32;
    /// How the effect is taken back.
    const REVERSAL: Reversal;
    /// The effect must keep holding while later steps run (a server that must be up): it is probed again on resume
    /// and before a later step is retried, and run again where it is gone.
    const STANDING: bool = false;

    /// One imperative line. `plan`, the terminal and the journal all print this one.
    fn summary(&self) -> String;

    /// Looks, and changes nothing. Called before every attempt: the first, each retry, the first after a restart.
    fn probe(&self, cx: &Cx<'_, W>) -> impl Future<Output = Result<Observed<Self::Output>, StepError>> + Send;

    /// Makes the effect. Called only when `probe` did not say `Done`. May be killed at any await.
    fn run(&self, cx: &Cx<'_, W>) -> impl Future<Output = Result<Self::Output, StepError>> + Send;

    /// Converges on `Absent` from anywhere: done, half done, never begun, already undone.
    fn undo(&self, cx: &Cx<'_, W>) -> impl Future<Output = Result<(), StepError>> + Send;
}
