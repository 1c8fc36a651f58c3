//! The story of a run while it happens: one stream, read alike by the terminal, JSON lines and the report.
//!
//! Survives slow readers: the stream is bounded, and a reader that falls behind loses the oldest events and is told
//! how many. Whoever needs every fact reads the journal.

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::{Outcome, Progress, StepDescription, StepError};

/// Events a reader may be behind before it loses the oldest.
const CAPACITY: usize = 2048;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The plan's id; empty outside plans.
    pub plan: String,
    /// The step's name, for what belongs to one.
    pub step: Option<String>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. Emitted after the journal holds it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A run of a plan began, for the first time or again.
    PlanOpened {
        /// The plan's kind.
        kind: String,
        /// All its steps, in order.
        steps: Vec<StepDescription>,
    },
    /// An attempt at a step began.
    StepStarted {
        /// Counted from 1 over the whole life of the plan.
        attempt: u32,
        /// The step in one line.
        summary: String,
    },
    /// A step told how far it is.
    StepProgressed(Progress),
    /// A value for a chart.
    Sampled {
        /// The series, with its unit: `lag_bytes`.
        name: String,
        /// The value.
        value: f64,
    },
    /// A line of the story.
    Noted {
        /// The line.
        text: String,
    },
    /// Something went wrong and was coped with.
    Warned {
        /// The line.
        text: String,
    },
    /// A step's effect holds.
    StepSucceeded {
        /// How long the attempt took.
        seconds: f64,
    },
    /// An attempt failed.
    StepFailed {
        /// What it said.
        error: StepError,
    },
    /// A failed attempt will be followed by another one.
    StepRetrying {
        /// When.
        in_ms: u64,
        /// The next attempt's number.
        attempt: u32,
    },
    /// The plan turned back.
    UnwindStarted {
        /// Why.
        cause: StepError,
    },
    /// A step's undo began.
    StepUndoStarted,
    /// A step was taken back.
    StepUndone,
    /// A step's undo failed for good.
    StepUndoFailed {
        /// What it said.
        error: StepError,
    },
    /// From here the plan only goes forward.
    PointOfNoReturnPassed,
    /// The clock of a section runs.
    SectionStarted {
        /// The section: `write pause`.
        name: String,
        /// The most it may take before the point of no return.
        budget_ms: u64,
    },
    /// A section is over: its last step succeeded, or its first was taken back.
    SectionEnded {
        /// The section.
        name: String,
        /// How long it took.
        ms: u64,
    },
    /// The plan reached its end, or was taken back whole.
    PlanClosed {
        /// Which of the two.
        outcome: Outcome,
    },
    /// A plan that was taken back will be followed by another one, to the same end.
    PlanRetrying {
        /// When.
        in_ms: u64,
        /// The next plan's number among those.
        attempt: u32,
        /// How many there may be.
        attempts: u32,
    },
    /// The run ended and the plan stays open: blocked, stopped, or in need of an operator.
    RunEnded {
        /// Which of the three.
        outcome: Outcome,
    },
}

/// Where events go; cloneable, and never a reason to wait.
#[derive(Debug, Clone)]
pub struct EventSink {
    readers: broadcast::Sender<Event>,
}

impl EventSink {
    /// Returns a sink without readers.
    pub fn new() -> Self {
        Self { readers: broadcast::Sender::new(CAPACITY) }
    }

    /// Returns a reader of every event from now on. A slow one gets `Lagged` with the number it lost.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.readers.subscribe()
    }

    /// Hands an event to every reader.
    pub fn emit(&self, event: Event) {
        // Fails only without readers, and then nobody misses it.
        let _ = self.readers.send(event);
    }
}

impl Default for EventSink {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(n: usize) -> Event {
        Event {
            at: Timestamp::UNIX_EPOCH,
            plan: "p".into(),
            step: None,
            kind: EventKind::Noted { text: n.to_string() },
        }
    }

    #[test]
    fn a_reader_that_does_not_read_never_blocks_the_sink_and_learns_what_it_lost() {
        let sink = EventSink::new();
        let mut slow = sink.subscribe();
        (0..CAPACITY + 10).for_each(|n| sink.emit(noted(n)));
        assert!(matches!(slow.try_recv(), Err(broadcast::error::TryRecvError::Lagged(10))));
        assert_eq!(slow.try_recv().unwrap(), noted(10));
    }

    #[test]
    fn an_event_is_one_flat_json_object() {
        let json = |kind| {
            serde_json::to_string(&Event {
                at: Timestamp::UNIX_EPOCH,
                plan: "p".into(),
                step: Some("a.b".into()),
                kind,
            })
            .unwrap()
        };
        assert_eq!(
            json(EventKind::StepRetrying { in_ms: 5, attempt: 2 }),
            r#"{"at":"1970-01-01T00:00:00Z","plan":"p","step":"a.b","event":"step_retrying","in_ms":5,"attempt":2}"#
        );
        let closed = json(EventKind::PlanClosed { outcome: Outcome::Done });
        assert!(closed.ends_with(r#""event":"plan_closed","outcome":{"outcome":"done"}}"#), "{closed}");
        assert!(json(EventKind::StepProgressed(Progress::default())).contains("step_progressed"));
    }
}
