//! Runs a plan, forward or back, and writes every fact to the journal before it relies on it.
//!
//! Survives death at any instruction: executing the plan again goes on in the direction that the journal remembers.
//! `started` is durable before a step is probed or run, its success before the next step starts (both in one
//! transaction: inside the write pause every sync counts), the point of no return before its step runs. A process that
//! dies inside a section before the point of no return has left clients waiting, so its successor unwinds at once.
//!
//! Does not survive: a journal that cannot be written. The run breaks off, as nothing may happen that it does not hold;
//! but for one thing: whoever waits in a section that has a way back is let go first (`release.rs`).

mod forward;
mod race;
mod release;
mod unwind;

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    Cx, Direction, EngineError, Event, EventKind, EventSink, Journal, Outcome, Plan, PlanState, Record, RecordKind,
    RetryPolicy, StepError, StepStatus, StopSignal, fault_point, journal::NewRecord, retry::Tries,
};
use race::Zone;

/// Runs plans against one journal.
pub struct Executor<'j> {
    journal: &'j Journal,
    sink: EventSink,
    retry: RetryPolicy,
    stop: StopSignal,
}

impl<'j> Executor<'j> {
    /// Returns an executor that writes to `journal`, tells its story to `sink`, and stops when `stop` says so.
    pub fn new(journal: &'j Journal, sink: EventSink, retry: RetryPolicy, stop: StopSignal) -> Self {
        Self { journal, sink, retry, stop }
    }

    /// Runs the plan: from its beginning, or from where the journal says it stands, in the direction it had. A plan
    /// that is closed is left alone, and its outcome returned.
    ///
    /// # Errors
    /// [`EngineError`]: the journal failed, or the plan is not the one that was begun. A step's failure is an
    /// [`Outcome`].
    pub async fn execute<W: Sync>(&self, plan: &Plan<W>, world: &W) -> Result<Outcome, EngineError> {
        let known = self.find(plan)?;
        if let Some(outcome) = known.as_ref().and_then(|state| state.outcome.clone()) {
            return Ok(outcome);
        }
        let resumed = known.is_some();
        let mut run = Run::open(self, plan, world, known).await?;
        let ended = run.go_on(resumed).await;
        run.conclude(ended).await
    }

    /// Turns the plan back, for `cause`, and takes back every step that was begun; also a plan that is done, as long
    /// as it did not pass a point of no return.
    ///
    /// # Errors
    /// [`EngineError::PastPointOfNoReturn`], [`EngineError::UnknownPlan`], and those of [`Executor::execute`].
    pub async fn unwind<W: Sync>(&self, plan: &Plan<W>, world: &W, cause: StepError) -> Result<Outcome, EngineError> {
        let known = self.find(plan)?;
        match &known {
            None => return Err(EngineError::UnknownPlan { plan: plan.id.clone() }),
            Some(state) if state.past_point_of_no_return => {
                return Err(EngineError::PastPointOfNoReturn { plan: plan.id.clone() });
            }
            Some(PlanState { outcome: Some(outcome @ Outcome::Unwound { .. }), .. }) => return Ok(outcome.clone()),
            Some(_) => {}
        }
        let mut run = Run::open(self, plan, world, known).await?;
        let ended = run.turn_back(cause).await;
        run.conclude(ended).await
    }

    /// Finds the plan in the journal, and refuses one that cannot go on as the plan given.
    fn find<W: Sync>(&self, plan: &Plan<W>) -> Result<Option<PlanState>, EngineError> {
        let mut seen = HashSet::new();
        if let Some(twice) = plan.entries.iter().find(|entry| !seen.insert(entry.step.name())) {
            return Err(EngineError::DuplicateStep { plan: plan.id.clone(), step: twice.step.name().0.into() });
        }
        let mut seen = HashSet::new();
        if let Some(twice) = plan.sections.iter().find(|section| !seen.insert(section.name)) {
            return Err(EngineError::DuplicateSection { plan: plan.id.clone(), section: twice.name.into() });
        }
        let Some(state) = self.journal.plans()?.into_iter().find(|state| state.id == plan.id) else {
            return Ok(None);
        };
        let place = |name: &str, section: Option<&str>| match section {
            Some(section) => format!("{name} (in {section})"),
            None => name.to_owned(),
        };
        for index in 0..plan.entries.len().max(state.steps.len()) {
            let given = plan.entries.get(index).map_or_else(
                || "nothing".into(),
                |entry| place(entry.step.name().0, entry.section.map(|s| plan.sections[s].name)),
            );
            let recorded = state
                .steps
                .get(index)
                .map_or_else(|| "nothing".into(), |step| place(&step.name, step.section.as_deref()));
            if given != recorded {
                return Err(EngineError::PlanChanged { plan: plan.id.clone(), number: index + 1, recorded, given });
            }
        }
        for (entry, step) in plan.entries.iter().zip(&state.steps) {
            let known = entry.step.revision();
            match step.revision {
                Some(recorded) if recorded != known && step.may_have_effect() => {
                    return Err(EngineError::RevisionChanged { step: step.name.clone(), recorded, known });
                }
                _ => {}
            }
        }
        Ok(Some(state))
    }
}

/// One run of one plan, in one process.
struct Run<'r, W> {
    journal: &'r Journal,
    sink: &'r EventSink,
    retry: &'r RetryPolicy,
    stop: &'r StopSignal,
    plan: &'r Plan<W>,
    world: &'r W,
    /// What the journal says.
    state: PlanState,
    /// What it will say next, and the event that follows.
    queue: Vec<(NewRecord, EventKind)>,
    /// Steps that need not run now: succeeded, and not seen to have lost their effect.
    done: Vec<bool>,
    /// Failed attempts at each step since its last success, in this run.
    tries: Vec<Tries>,
    /// The furthest step reached: it says whether clients wait, also while an earlier one runs again.
    front: usize,
    /// End of the section begun last, if it was begun in this run.
    deadline: Option<Instant>,
    /// The point of no return was given to the journal, by this process or perhaps by an earlier one, whatever came of it.
    may_be_past: bool,
    /// Stop requests that unwinding takes no notice of: those it started with.
    stops_seen: u64,
}

impl<'r, W: Sync> Run<'r, W> {
    async fn open(
        executor: &'r Executor<'_>,
        plan: &'r Plan<W>,
        world: &'r W,
        known: Option<PlanState>,
    ) -> Result<Self, EngineError> {
        let journal = executor.journal;
        let steps = plan.describe();
        let is_new = known.is_none();
        let state = match known {
            Some(state) => state,
            None => {
                fault_point!("plan.before_plan_opened");
                let body = json!({ "kind": plan.kind, "params": plan.params, "steps": steps });
                let mut opened = journal.append(&[NewRecord::new(&plan.id, RecordKind::PlanOpened, body)])?;
                PlanState::opened(&opened.remove(0))?
            }
        };
        let run = Self {
            journal,
            sink: &executor.sink,
            retry: &executor.retry,
            stop: &executor.stop,
            plan,
            world,
            queue: Vec::new(),
            done: state.steps.iter().map(|step| step.status == StepStatus::Done).collect(),
            tries: vec![Tries::default(); steps.len()],
            front: 0,
            deadline: None,
            may_be_past: !is_new,
            stops_seen: executor.stop.count(),
            state,
        };
        run.emit(Timestamp::now(), None, EventKind::PlanOpened { kind: plan.kind.into(), steps });
        if is_new {
            fault_point!("plan.after_plan_opened");
        }
        Ok(run)
    }

    async fn go_on(&mut self, resumed: bool) -> Result<Outcome, EngineError> {
        if resumed {
            self.note_resumed()?;
        }
        match self.state.direction {
            Direction::Unwinding => self.backward().await,
            Direction::Forward if resumed => self.resume().await,
            Direction::Forward => self.forward().await,
        }
    }

    async fn turn_back(&mut self, cause: StepError) -> Result<Outcome, EngineError> {
        self.note_resumed()?;
        if self.state.direction == Direction::Forward {
            self.turn(cause);
        }
        self.backward().await
    }

    fn note_resumed(&self) -> Result<(), EngineError> {
        Ok(self.journal.append_note(&self.plan.id, &format!("resumed by process {}", std::process::id()))?)
    }

    /// Queues the turn from forward to back.
    fn turn(&mut self, cause: StepError) {
        self.stops_seen = self.stop.count();
        self.push(None, RecordKind::DirectionChanged, json!({ "cause": cause }), EventKind::UnwindStarted { cause });
    }

    async fn conclude(&mut self, ended: Result<Outcome, EngineError>) -> Result<Outcome, EngineError> {
        let outcome = match ended {
            Err(EngineError::Journal(lost)) => return Err(self.break_off(lost).await),
            ended => ended?,
        };
        self.journal.hold_checkpoints(false)?;
        if !matches!(outcome, Outcome::Done | Outcome::Unwound { .. }) {
            self.emit(Timestamp::now(), None, EventKind::RunEnded { outcome: outcome.clone() });
        }
        Ok(outcome)
    }

    /// Queues the end of the plan, and writes the queue.
    async fn close(&mut self, outcome: Outcome) -> Result<Outcome, EngineError> {
        let event = EventKind::PlanClosed { outcome: outcome.clone() };
        self.push(None, RecordKind::PlanClosed, json!({ "outcome": outcome }), event);
        self.flush(Durability::Synced).await?;
        Ok(outcome)
    }

    /// Ends the run at the step `k`, or before it.
    async fn stopped(&mut self, k: usize) -> Result<Outcome, EngineError> {
        let back = self.state.direction == Direction::Unwinding;
        let place = match self.state.steps[k].status {
            StepStatus::Pending | StepStatus::Undone => "before it began",
            StepStatus::Undoing | StepStatus::UndoFailed => "while it was taken back",
            _ if back => "before it was taken back",
            StepStatus::Running => "in the middle of it",
            StepStatus::Failed => "before it was tried again",
            StepStatus::Done => "after it",
        };
        let reason = format!("on request, {place}");
        let event = EventKind::Noted { text: format!("stopped {reason}") };
        self.push(Some(k), RecordKind::Stopped, json!({ "reason": reason }), event);
        self.flush(Durability::Synced).await?;
        Ok(Outcome::Stopped)
    }

    /// Queues a record, of a step or of the plan, and the event that follows it.
    fn push(&mut self, step: Option<usize>, kind: RecordKind, body: serde_json::Value, event: EventKind) {
        let mut record = NewRecord::new(&self.plan.id, kind, body);
        if let Some(k) = step {
            let entry = &self.plan.entries[k];
            let attempts = self.state.steps[k].attempts;
            record.step = Some(entry.step.name().0);
            record.revision = Some(entry.step.revision());
            record.attempt = if kind == RecordKind::Started { attempts + 1 } else { attempts };
        }
        self.queue.push((record, event));
    }

    /// Writes the queue in one transaction, then tells of it.
    async fn flush(&mut self, durability: Durability) -> Result<(), EngineError> {
        let (records, events): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue).into_iter().unzip();
        for record in &records {
            fault_point!(format!("{}.before_{}", record.step.unwrap_or("plan"), record.kind.as_str()));
        }
        self.may_be_past |= records.iter().any(|record| record.kind == RecordKind::PointOfNoReturn);
        let written = match durability {
            Durability::Synced => self.journal.append(&records)?,
            Durability::Relaxed => self.journal.append_all_relaxed(&records)?,
        };
        for (record, event) in written.iter().zip(events) {
            self.tell(record, event)?;
        }
        for record in &written {
            fault_point!(format!("{}.after_{}", record.step.as_deref().unwrap_or("plan"), record.kind.as_str()));
        }
        Ok(())
    }

    fn tell(&mut self, record: &Record, event: EventKind) -> Result<(), EngineError> {
        let open = self.state.open_section().cloned();
        self.state.apply(record)?;
        self.emit(record.at, record.step.clone(), event);
        if let Some(section) = open
            && self.state.open_section().is_none()
        {
            let ms = record.at.as_millisecond() - section.started_at.as_millisecond();
            let ms = u64::try_from(ms).unwrap_or_default();
            self.emit(record.at, None, EventKind::SectionEnded { name: section.name, ms });
            self.journal.hold_checkpoints(false)?;
        }
        Ok(())
    }

    fn emit(&self, at: Timestamp, step: Option<String>, kind: EventKind) {
        self.sink.emit(Event { at, plan: self.plan.id.clone(), step, kind });
    }

    fn cx(&self, k: usize, zone: Zone) -> Cx<'r, W> {
        Cx {
            world: self.world,
            journal: self.journal,
            sink: self.sink.clone(),
            plan: Some((&self.plan.id, &self.plan.names)),
            step: Some(self.plan.entries[k].step.name()),
            deadline: zone.deadline(),
            stop: self.stop.clone(),
        }
    }
}

#[derive(Clone, Copy)]
enum Durability {
    Synced,
    /// History that no resume depends on: the failures of attempts that are retried.
    Relaxed,
}
