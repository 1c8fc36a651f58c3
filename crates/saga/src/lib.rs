//! The kernel: steps, plans, and the executor that journals them, retries them and takes them back.
//!
//! A [`Step`] says what it will do, looks whether it is done, does it, and takes it back. A [`Plan`] is a list of
//! steps; some share one deadline (a section: the write pause), one may be the point of no return. The [`Executor`]
//! runs a plan over a world `W` and writes every fact to the [`Journal`] before it relies on it, so that a process
//! may die at any instruction and the next one goes on from the journal.
//!
//! Knows nothing of PostgreSQL, HTTP or clouds: `W` is whatever the steps need.

mod cx;
mod error;
mod events;
mod executor;
pub mod fault;
#[cfg(feature = "harness")]
pub mod harness;
mod journal;
mod outcome;
mod plan;
mod retry;
mod state;
mod step;
mod stop;

pub use cx::{Cx, Progress};
pub use error::{Class, StepError};
pub use events::{Event, EventKind, EventSink};
pub use executor::Executor;
pub use journal::{Journal, JournalError, Record, RecordKind, Sample};
pub use outcome::{EngineError, Failure, Outcome, Release};
pub use plan::{Plan, Section, StepDescription};
pub use retry::RetryPolicy;
pub use state::{Direction, PlanState, SectionState, StepState, StepStatus};
pub use step::{Observed, Reversal, Step, StepName};
pub use stop::StopSignal;
