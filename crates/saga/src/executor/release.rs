//! Off: the journal is lost, and clients wait in a section. Its steps are taken back without a record, and they go on.
//!
//! The journal then tells of steps that hold no more. That misleads nobody: a process that finds it inside a section
//! turns back, and an undo converges from anywhere, also from already undone. Only a record of the point of no return
//! would send that process forward, past steps that are gone. So nothing is taken back unless that record is ruled out:
//! not by the failure of its write alone, since a commit may fail and be found on disk later.

use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Run, race::Zone};
use crate::{Class, EngineError, EventKind, Failure, JournalError, RecordKind, Release, Reversal, StepError};

impl<W: Sync> Run<'_, W> {
    /// Makes the error of a run that lost its journal, after letting go whoever waits.
    pub(super) async fn break_off(&mut self, lost: JournalError) -> EngineError {
        let section = match self.state.open_section() {
            Some(section) if !self.state.past_point_of_no_return => section.name.clone(),
            _ => return lost.into(),
        };
        self.warn(None, format!("the journal failed inside `{section}`: {lost}"));
        let release = match self.ruled_out() {
            true => self.release(&section).await,
            false => Release::Withheld,
        };
        EngineError::JournalInSection { section, release, source: lost.into() }
    }

    /// Whether no process will ever find a record of the point of no return.
    fn ruled_out(&self) -> bool {
        let mut returns = self.plan.entries.iter().filter(|entry| entry.step.reversal() == Reversal::PointOfNoReturn);
        returns.all(|entry| {
            let found = self.journal.may_hold(&self.plan.id, entry.step.name().0, RecordKind::PointOfNoReturn);
            !found.unwrap_or(self.may_be_past)
        })
    }

    /// Takes back what was begun of the section, newest first, until a step refuses: those before it may need it gone.
    async fn release(&self, section: &str) -> Release {
        let deadline = Instant::now() + self.retry.patience();
        let mut undone = Vec::new();
        for (k, (entry, state)) in self.plan.entries.iter().zip(&self.state.steps).enumerate().rev() {
            let begun = state.section.as_deref() == Some(section) && state.may_have_effect();
            if !begun || entry.step.reversal() != Reversal::Undo {
                continue;
            }
            let step = state.name.clone();
            if let Err(error) = self.undo_unrecorded(k, deadline).await {
                return Release::Partial { undone, failure: Failure { step, error }.into() };
            }
            self.warn(Some(step.clone()), "taken back, which the journal does not know".to_owned());
            undone.push(step);
        }
        Release::Whole { undone }
    }

    async fn undo_unrecorded(&self, k: usize, deadline: Instant) -> Result<(), StepError> {
        let step = &self.plan.entries[k].step;
        let cx = self.cx(k, Zone::Committed);
        let (began, mut failures, mut last) = (Instant::now(), 0, None);
        let undo = async {
            loop {
                let Err(error) = step.undo(&cx).await else { return Ok(()) };
                failures += 1;
                let delay = self.retry.urgent_delay(failures, began.elapsed());
                match delay.filter(|_| error.class == Class::Transient) {
                    Some(delay) => {
                        last = Some(error.to_string());
                        sleep(delay).await;
                    }
                    None => return Err(error),
                }
            }
        };
        timeout_at(deadline, undo).await.unwrap_or_else(|_| {
            let late =
                StepError::transient(format!("`{}` was not taken back in {:?}", step.name(), self.retry.patience()));
            Err(StepError { cause: last, ..late })
        })
    }

    fn warn(&self, step: Option<String>, text: String) {
        self.emit(Timestamp::now(), step, EventKind::Warned { text });
    }
}
