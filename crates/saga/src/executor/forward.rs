//! Forward: the first step that is not done, again and again, until there is none or one ends the run.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Durability, Run,
    race::{Cut, Zone},
};
use crate::{
    Class, EngineError, EventKind, Failure, Observed, Outcome, RecordKind, Reversal, StepError, fault_point,
    plan::millis, retry::Tries,
};

/// How an attempt at a step ended.
enum Attempt {
    Succeeded { output: Value, adopted: bool, took: Duration },
    Failed(StepError),
    Cut(Cut),
}

impl<W: Sync> Run<'_, W> {
    /// Goes on with a plan that an earlier process began.
    pub(super) async fn resume(&mut self) -> Result<Outcome, EngineError> {
        if let Some(section) = self.state.open_section()
            && !self.state.past_point_of_no_return
        {
            let interrupted = StepError::fatal(
                format!("interrupted inside `{}`", section.name),
                "find out why the process ended, then start again",
            );
            self.turn(interrupted);
            return self.backward().await;
        }
        self.front = self.done.iter().position(|done| !done).unwrap_or(0);
        match self.look_at_standing(self.done.len()).await {
            Some(cut) => self.cut(self.front, cut, None).await,
            None => self.forward().await,
        }
    }

    pub(super) async fn forward(&mut self) -> Result<Outcome, EngineError> {
        loop {
            let Some(k) = self.done.iter().position(|done| !done) else {
                return self.close(Outcome::Done).await;
            };
            self.front = self.front.max(k);
            if self.zone() == Zone::Free && self.stop.is_requested() {
                return self.stopped(k).await;
            }
            match self.attempt(k).await? {
                Attempt::Succeeded { output, adopted, took } => {
                    (self.done[k], self.tries[k]) = (true, Tries::default());
                    let body = json!({ "output": output, "adopted": adopted, "ms": millis(took) });
                    let event = EventKind::StepSucceeded { seconds: took.as_secs_f64() };
                    // Written together with the start of the next step: one sync for both.
                    self.push(Some(k), RecordKind::Succeeded, body, event);
                }
                Attempt::Failed(error) => {
                    if let Some(outcome) = self.failed(k, error).await? {
                        return Ok(outcome);
                    }
                }
                Attempt::Cut(cut) => return self.cut(k, cut, None).await,
            }
        }
    }

    /// Who waits, judged by the furthest step: an earlier one that runs again does not end the section.
    fn zone(&self) -> Zone {
        let Some(section) = self.plan.entries.get(self.front).and_then(|entry| entry.section) else {
            return Zone::Free;
        };
        let name = self.plan.sections[section].name;
        match self.state.sections.iter().any(|begun| begun.name == name) {
            false => Zone::Free,
            true if self.state.past_point_of_no_return => Zone::Committed,
            // Without a clock the section was begun by another process, and `resume` has turned back.
            true => Zone::Guarded(self.deadline.unwrap_or_else(Instant::now)),
        }
    }

    /// Queues the start of the step's section, if it is not begun.
    fn enter_section(&mut self, k: usize) -> Result<(), EngineError> {
        let Some(section) = self.plan.entries[k].section.map(|s| &self.plan.sections[s]) else { return Ok(()) };
        if self.state.sections.iter().any(|begun| begun.name == section.name) {
            return Ok(());
        }
        self.journal.hold_checkpoints(true)?;
        self.deadline = Some(Instant::now() + section.budget);
        let (name, budget_ms) = (section.name.to_owned(), millis(section.budget));
        let body = json!({ "name": name, "budget_ms": budget_ms });
        self.push(None, RecordKind::SectionStarted, body, EventKind::SectionStarted { name, budget_ms });
        Ok(())
    }

    async fn attempt(&mut self, k: usize) -> Result<Attempt, EngineError> {
        let step = &self.plan.entries[k].step;
        self.enter_section(k)?;
        let event = EventKind::StepStarted { attempt: self.state.steps[k].attempts + 1, summary: step.summary() };
        self.push(Some(k), RecordKind::Started, json!({}), event);
        // That the step may have an effect is on disk since its first attempt.
        let again = self.tries[k].failed > 0 && self.queue.len() == 1;
        self.flush(if again { Durability::Relaxed } else { Durability::Synced }).await?;

        let began = Instant::now();
        self.tries[k].begin();
        let zone = self.zone();
        if let Some(cut) = zone.cut_now(self.stop) {
            return Ok(Attempt::Cut(cut));
        }
        let cx = self.cx(k, zone);
        let observed = match zone.race(self.stop, step.probe(&cx)).await {
            Ok(Ok(observed)) => observed,
            Ok(Err(error)) => return Ok(Attempt::Failed(error)),
            Err(cut) => return Ok(Attempt::Cut(cut)),
        };
        if step.reversal() == Reversal::PointOfNoReturn && !self.state.past_point_of_no_return {
            // The last moment for either.
            if let Some(cut) = zone.cut_now(self.stop) {
                return Ok(Attempt::Cut(cut));
            }
            self.push(Some(k), RecordKind::PointOfNoReturn, json!({}), EventKind::PointOfNoReturnPassed);
            self.flush(Durability::Synced).await?;
        }
        if let Observed::Done(output) = observed {
            return Ok(Attempt::Succeeded { output, adopted: true, took: began.elapsed() });
        }
        let zone = self.zone();
        let cx = self.cx(k, zone);
        Ok(match zone.race(self.stop, step.run(&cx)).await {
            Ok(Ok(output)) => {
                fault_point!(format!("{}.after_run", step.name()));
                Attempt::Succeeded { output, adopted: false, took: began.elapsed() }
            }
            Ok(Err(error)) => Attempt::Failed(error),
            Err(cut) => Attempt::Cut(cut),
        })
    }

    /// Judges a failed attempt: `None` to try again, after a wait.
    async fn failed(&mut self, k: usize, mut error: StepError) -> Result<Option<Outcome>, EngineError> {
        self.tries[k].failed += 1;
        let tries = self.tries[k];
        let zone = self.zone();
        let past = self.state.past_point_of_no_return;
        let delay = match (error.class, zone) {
            (Class::Transient, Zone::Guarded(deadline)) => {
                let delay = self.retry.in_section;
                (Instant::now() + delay < deadline).then_some(delay)
            }
            (Class::Transient, Zone::Committed) => self.retry.urgent_delay(tries.failed, tries.waited),
            (Class::Transient, Zone::Free) => self.retry.delay(tries.failed),
            (Class::Blocked | Class::Fatal, _) => None,
        };
        if delay.is_none() && error.class == Class::Transient && !matches!(zone, Zone::Guarded(_)) {
            tries.give_up(&mut error, self.retry);
        }
        let failure = Failure { step: self.state.steps[k].name.clone(), error: error.clone() };
        let event = EventKind::StepFailed { error: error.clone() };
        self.push(Some(k), RecordKind::Failed, json!({ "error": error }), event);
        let Some(delay) = delay else {
            let (class, guarded) = (error.class, matches!(zone, Zone::Guarded(_)));
            if guarded && class == Class::Transient {
                return self.cut(k, Cut::OverBudget, Some(error)).await.map(Some);
            }
            // In a section nobody may be left waiting for a person, so whatever it is, it turns the plan back.
            if guarded || (class == Class::Fatal && !past) {
                self.turn(error);
                return self.backward().await.map(Some);
            }
            self.flush(Durability::Synced).await?;
            return Ok(Some(match class {
                Class::Fatal => Outcome::NeedsOperator(failure),
                Class::Blocked | Class::Transient => Outcome::Blocked(failure),
            }));
        };
        self.flush(Durability::Relaxed).await?;
        let name = Some(failure.step);
        let attempt = self.state.steps[k].attempts + 1;
        self.emit(jiff::Timestamp::now(), name, EventKind::StepRetrying { in_ms: millis(delay), attempt });
        if let Err(cut) = zone.race(self.stop, tokio::time::sleep(delay)).await {
            return self.cut(k, cut, Some(error)).await.map(Some);
        }
        self.tries[k].waited += delay;
        if !matches!(zone, Zone::Guarded(_))
            && let Some(cut) = self.look_at_standing(k).await
        {
            return self.cut(k, cut, Some(error)).await.map(Some);
        }
        Ok(None)
    }

    /// Ends the run, or turns it back, because the step `k` was cut short.
    async fn cut(&mut self, k: usize, cut: Cut, last: Option<StepError>) -> Result<Outcome, EngineError> {
        if self.zone() == Zone::Free {
            return self.stopped(k).await;
        }
        let step = &self.state.steps[k].name;
        let section = self.plan.entries[self.front].section.map(|s| &self.plan.sections[s]);
        let (section, budget) = section.map_or(("", Duration::ZERO), |s| (s.name, s.budget));
        let mut error = match cut {
            Cut::OverBudget => StepError::fatal(
                format!("`{section}` ran over its budget of {budget:?} in step `{step}`"),
                "see what the step waited for, then start again",
            ),
            Cut::Stopped => StepError::fatal(
                format!("stopped on request inside `{section}`, in step `{step}`"),
                "start again when ready",
            ),
        };
        error.cause = last.map(|last| last.to_string());
        if self.queue.is_empty() {
            let event = EventKind::StepFailed { error: error.clone() };
            self.push(Some(k), RecordKind::Failed, json!({ "error": error }), event);
        }
        self.turn(error);
        self.backward().await
    }

    /// Looks whether the standing steps before `k` still hold; those that do not will run again.
    ///
    /// A probe that fails counts as gone: the attempt that follows probes again, and treats the failure as its own.
    async fn look_at_standing(&mut self, k: usize) -> Option<Cut> {
        for i in 0..k {
            let step = &self.plan.entries[i].step;
            if !step.standing() || !self.done[i] {
                continue;
            }
            let zone = self.zone();
            let cx = self.cx(i, zone);
            match zone.race(self.stop, step.probe(&cx)).await {
                Ok(Ok(Observed::Done(_))) => {}
                Ok(_) => {
                    cx.warn(format!("step `{}` no longer holds, running it again", step.name()));
                    self.done[i] = false;
                }
                Err(cut) => return Some(cut),
            }
        }
        None
    }
}
