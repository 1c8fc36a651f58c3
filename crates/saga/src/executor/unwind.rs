//! Back: every step that was begun, newest first, until nothing of the plan is left.

use serde_json::json;
use tokio::time::Instant;

use super::{Durability, Run, race::Zone};
use crate::{
    Class, EngineError, EventKind, Failure, Outcome, RecordKind, Reversal, StepError, fault_point, plan::millis,
    retry::Tries,
};

/// How an undo ended that did not succeed.
enum Ended {
    Stopped,
    Failed(StepError),
}

impl<W: Sync> Run<'_, W> {
    pub(super) async fn backward(&mut self) -> Result<Outcome, EngineError> {
        // The turn itself, if it was just decided, before anything is undone.
        if !self.queue.is_empty() {
            self.flush(Durability::Synced).await?;
        }
        for k in (0..self.plan.entries.len()).rev() {
            if !self.state.steps[k].may_have_effect() {
                continue;
            }
            if self.may_stop(k) && self.stop.count() > self.stops_seen {
                return self.stopped(k).await;
            }
            let step = &self.plan.entries[k].step;
            // A step that is the point of no return never ran if its plan unwinds.
            if step.reversal() == Reversal::Undo {
                fault_point!(format!("{}.before_undo", step.name()));
                self.push(Some(k), RecordKind::UndoStarted, json!({}), EventKind::StepUndoStarted);
                // Carries the `undone` of the step after this one: one sync for both.
                self.flush(Durability::Synced).await?;
                match self.undo(k).await? {
                    Ok(()) => fault_point!(format!("{}.after_undo", step.name())),
                    Err(Ended::Stopped) => return self.stopped(k).await,
                    Err(Ended::Failed(error)) => {
                        let event = EventKind::StepUndoFailed { error: error.clone() };
                        self.push(Some(k), RecordKind::UndoFailed, json!({ "error": error }), event);
                        self.flush(Durability::Synced).await?;
                        return Ok(Outcome::NeedsOperator(Failure { step: step.name().0.into(), error }));
                    }
                }
            }
            self.push(Some(k), RecordKind::Undone, json!({}), EventKind::StepUndone);
        }
        let cause = self.state.cause.clone();
        let cause = cause.unwrap_or_else(|| StepError::fatal("unwound", "start again when ready"));
        self.close(Outcome::Unwound { cause }).await
    }

    /// A stop is heeded between undos once no section has anything left to take back: then nobody waits.
    fn may_stop(&self, k: usize) -> bool {
        let steps = self.plan.entries.iter().zip(&self.state.steps);
        !steps.take(k + 1).any(|(entry, state)| entry.section.is_some() && state.may_have_effect())
    }

    async fn undo(&mut self, k: usize) -> Result<Result<(), Ended>, EngineError> {
        let step = &self.plan.entries[k].step;
        let cx = self.cx(k, Zone::Committed);
        let mut tries = Tries::default();
        tries.begin();
        let waits_since = Instant::now();
        loop {
            let Err(mut error) = step.undo(&cx).await else { return Ok(Ok(())) };
            tries.failed += 1;
            let delay = match error.class {
                Class::Transient if self.may_stop(k) => self.retry.delay(tries.failed),
                // clients wait for this undo: as long as the process lives it goes on
                Class::Transient => {
                    let urgent = self.retry.urgent_delay(tries.failed, waits_since.elapsed());
                    Some(urgent.unwrap_or(self.retry.most_urgent()))
                }
                Class::Blocked | Class::Fatal => None,
            };
            let Some(delay) = delay else {
                if error.class == Class::Transient {
                    tries.give_up(&mut error, self.retry);
                }
                return Ok(Err(Ended::Failed(error)));
            };
            let event = EventKind::StepFailed { error: error.clone() };
            self.push(Some(k), RecordKind::UndoFailed, json!({ "error": error }), event);
            self.flush(Durability::Relaxed).await?;
            let (in_ms, attempt) = (millis(delay), tries.failed + 1);
            let name = Some(step.name().0.to_owned());
            self.emit(jiff::Timestamp::now(), name, EventKind::StepRetrying { in_ms, attempt });
            if self.may_stop(k) {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = self.stop.beyond(self.stops_seen) => return Ok(Err(Ended::Stopped)),
                }
            } else {
                tokio::time::sleep(delay).await;
            }
        }
    }
}
