//! What a step is given: the world, the outputs of earlier steps, and a voice.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    Event, EventKind, EventSink, Journal, RecordKind, Step, StepError, StepName, StopSignal,
    journal::{NewRecord, Recorded},
};

/// How far a step is; every part but the text is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// What is being done, for people.
    pub text: String,
    /// How much is done, in `unit`.
    pub done: Option<u64>,
    /// How much there is, in `unit`.
    pub total: Option<u64>,
    /// `bytes`, `tables`, …; empty without a count.
    pub unit: &'static str,
    /// Speed, in `unit` per second.
    pub rate_per_s: Option<f64>,
    /// Seconds left: at the soonest, at the latest.
    pub eta_s: Option<(f64, f64)>,
    /// How far replication is behind.
    pub lag_bytes: Option<u64>,
}

/// What a step sees of the run it is part of.
pub struct Cx<'a, W> {
    /// The systems the plan works on.
    pub world: &'a W,
    pub(crate) journal: &'a Journal,
    pub(crate) sink: EventSink,
    /// Id and step names of the plan; `None` outside plans.
    pub(crate) plan: Option<(&'a str, &'a HashSet<&'static str>)>,
    pub(crate) step: Option<StepName>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) stop: StopSignal,
}

impl<'a, W: Sync> Cx<'a, W> {
    /// Returns a context for work outside plans: it reads the outputs that the journal's plans left, and what it notes
    /// belongs to no plan.
    pub fn standalone(world: &'a W, journal: &'a Journal) -> Self {
        Self { world, journal, sink: EventSink::new(), plan: None, step: None, deadline: None, stop: StopSignal::new() }
    }

    /// Sends the events of a context made by [`Cx::standalone`] to `sink`.
    #[must_use]
    pub fn with_sink(mut self, sink: EventSink) -> Self {
        self.sink = sink;
        self
    }

    /// Lets a context made by [`Cx::standalone`] know of requests to stop.
    #[must_use]
    pub fn with_stop(mut self, stop: StopSignal) -> Self {
        self.stop = stop;
        self
    }

    /// Returns the output of step `S`: its newest success that was not undone.
    ///
    /// If this plan has such a step, only this plan counts: a switchover must not take the pause of the one before it
    /// for its own. Otherwise it is the newest other plan of the journal that has one.
    ///
    /// # Errors
    /// `Fatal` if there is none; `Blocked` if it was recorded in another revision, or the journal cannot be read.
    pub fn output<S: Step<W>>(&self) -> Result<S::Output, StepError> {
        self.try_output::<S>()?.ok_or_else(|| {
            StepError::fatal(
                format!("step `{}` has left no output in the journal", S::NAME),
                "it must succeed before the step that reads it",
            )
        })
    }

    /// Returns what [`Cx::output`] does, and `None` if there is none.
    ///
    /// # Errors
    /// As [`Cx::output`], but for the missing output.
    pub fn try_output<S: Step<W>>(&self) -> Result<Option<S::Output>, StepError> {
        match self.plan {
            Some((plan, steps)) if steps.contains(S::NAME.0) => decode::<W, S>(self.journal.output_in(plan, S::NAME.0)),
            _ => self.output_elsewhere::<S>(),
        }
    }

    /// Returns the output that step `S` left in the newest *other* plan: what a reverse switchover must know of the
    /// forward one, though it has a step of that name too.
    ///
    /// # Errors
    /// As [`Cx::try_output`].
    pub fn output_elsewhere<S: Step<W>>(&self) -> Result<Option<S::Output>, StepError> {
        decode::<W, S>(self.journal.output_elsewhere(self.plan_id(), S::NAME.0))
    }

    /// Adds a line to the story: event and journal.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        self.tell(RecordKind::Note, &text, EventKind::Noted { text: text.clone() });
    }

    /// Adds a warning to the story: something went wrong and was coped with.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        self.tell(RecordKind::Warning, &text, EventKind::Warned { text: text.clone() });
    }

    /// Tells how far the step is: an event, not journaled.
    pub fn progress(&self, progress: Progress) {
        self.emit(EventKind::StepProgressed(progress));
    }

    /// Records a value for a chart: event and journal. The name carries the unit: `lag_bytes`.
    pub fn sample(&self, name: &'static str, value: f64) {
        let written = match self.journal.is_read_only() {
            true => Ok(()),
            false => self.journal.append_sample(self.plan_id(), self.step.map(|s| s.0), name, value),
        };
        self.emit(EventKind::Sampled { name: name.into(), value });
        self.mention(written.err());
    }

    /// Keeps a value in the journal, beside its records; not in one that was opened to be read.
    ///
    /// # Errors
    /// [`crate::JournalError::Write`].
    pub fn keep(&self, key: &str, value: &str) -> Result<(), crate::JournalError> {
        if self.journal.is_read_only() { Ok(()) } else { self.journal.set_meta(key, value) }
    }

    /// Returns a value that is kept in the journal; none also if it cannot be read.
    pub fn kept(&self, key: &str) -> Option<String> {
        self.journal.meta(key).ok().flatten()
    }

    /// Returns when the section the step is in must be over; `None` outside sections, past the point of no return,
    /// and while unwinding: then nothing is cut short any more.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns whether a stop was requested: for blocking work that dropping the future does not end.
    pub fn stop_requested(&self) -> bool {
        self.stop.is_requested()
    }

    /// Waits until a stop is requested: a step that waits for somebody may then say so itself, and be taken back, where
    /// being cut short would leave its plan open.
    pub async fn stopped(&self) {
        self.stop.requested().await;
    }

    /// Returns the id of the plan that the step is in; empty outside plans.
    pub fn plan_id(&self) -> &str {
        self.plan.map_or("", |(id, _)| id)
    }

    fn tell(&self, kind: RecordKind, text: &str, event: EventKind) {
        // A journal opened only to read cannot take notes, and is no place for them.
        let written = match self.journal.is_read_only() {
            true => Ok(()),
            false => {
                let record = NewRecord::new(self.plan_id(), kind, serde_json::json!({ "text": text }));
                self.journal.append_relaxed(&record.step(self.step.map(|s| s.0)))
            }
        };
        self.emit(event);
        self.mention(written.err());
    }

    /// A lost note stops nothing: the next durable record meets the same disk, and does stop the run.
    fn mention(&self, error: Option<crate::JournalError>) {
        if let Some(error) = error {
            self.emit(EventKind::Warned { text: format!("a line of the story is missing in the journal: {error}") });
        }
    }

    fn emit(&self, kind: EventKind) {
        self.sink.emit(Event {
            at: Timestamp::now(),
            plan: self.plan_id().to_owned(),
            step: self.step.map(|s| s.0.to_owned()),
            kind,
        });
    }
}

fn decode<W: Sync, S: Step<W>>(
    found: Result<Option<Recorded>, crate::JournalError>,
) -> Result<Option<S::Output>, StepError> {
    let hint = "go on with the version of pgleap that began it";
    let found = found.map_err(|error| {
        StepError::blocked("cannot read the journal", "check the disk it is on, then resume").because(error.to_string())
    })?;
    let Some(Recorded { output, revision, plan }) = found else { return Ok(None) };
    if revision != S::REVISION {
        return Err(StepError::blocked(
            format!(
                "plan `{plan}` ran step `{}` in revision {revision}, this program reads revision {}",
                S::NAME,
                S::REVISION
            ),
            hint,
        ));
    }
    serde_json::from_value(output).map(Some).map_err(|error| {
        StepError::blocked(format!("cannot read the output of step `{}` in plan `{plan}`", S::NAME), hint)
            .because(error.to_string())
    })
}
