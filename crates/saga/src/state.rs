//! Where a plan stands: what its records add up to.
//!
//! The one reading of the journal: the executor resumes from it, status and report print it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{JournalError, Outcome, Record, RecordKind, StepDescription, StepError};

/// Which way a plan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Towards its end.
    Forward,
    /// Taking back what it did.
    Unwinding,
}

/// Where one step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Never begun.
    Pending,
    /// Begun; or the process died in it.
    Running,
    /// Its effect holds.
    Done,
    /// Its last attempt failed.
    Failed,
    /// Its undo was begun.
    Undoing,
    /// Taken back.
    Undone,
    /// Its last undo failed.
    UndoFailed,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepState {
    /// Its name.
    pub name: String,
    /// What it does, in one line.
    pub summary: String,
    /// The section it is in.
    pub section: Option<String>,
    /// Where it stands.
    pub status: StepStatus,
    /// Attempts so far.
    pub attempts: u32,
    /// Start of the newest attempt, or of the undo.
    pub started_at: Option<Timestamp>,
    /// End of that attempt or undo.
    pub ended_at: Option<Timestamp>,
    /// The newest failure, if nothing succeeded since.
    pub error: Option<StepError>,
    /// Revision of the newest attempt.
    pub revision: Option<u32>,
}

impl StepState {
    /// Returns whether something of it may exist: begun, and not taken back.
    pub fn may_have_effect(&self) -> bool {
        !matches!(self.status, StepStatus::Pending | StepStatus::Undone)
    }
}

/// One section of a plan that was begun.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SectionState {
    /// Its name.
    pub name: String,
    /// Its budget.
    pub budget_ms: u64,
    /// Start of its clock.
    pub started_at: Timestamp,
    /// When its last step succeeded or its first one was taken back.
    pub ended_at: Option<Timestamp>,
}

/// Where a plan stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanState {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// What is needed to build it again.
    pub params: Value,
    /// Which way it goes.
    pub direction: Direction,
    /// Why it turned back, if it did.
    pub cause: Option<StepError>,
    /// Whether it can only go forward.
    pub past_point_of_no_return: bool,
    /// [`Outcome::Done`] or [`Outcome::Unwound`], once closed.
    pub outcome: Option<Outcome>,
    /// Whether the newest run was stopped on request.
    pub stopped: bool,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// The sections begun so far.
    pub sections: Vec<SectionState>,
    /// Its steps, in order.
    pub steps: Vec<StepState>,
}

impl PlanState {
    /// Returns the state of every plan that the records open, in that order.
    pub(crate) fn fold(records: &[Record]) -> Result<Vec<Self>, JournalError> {
        let mut plans: Vec<Self> = Vec::new();
        for record in records {
            if record.kind == RecordKind::PlanOpened {
                plans.push(Self::opened(record)?);
            } else if let Some(plan) = plans.iter_mut().find(|plan| plan.id == record.plan) {
                plan.apply(record)?;
            }
        }
        Ok(plans)
    }

    pub(crate) fn opened(record: &Record) -> Result<Self, JournalError> {
        let steps: Vec<StepDescription> = part(record, "steps")?;
        let step = |description: StepDescription| StepState {
            name: description.name,
            summary: description.summary,
            section: description.section,
            status: StepStatus::Pending,
            attempts: 0,
            started_at: None,
            ended_at: None,
            error: None,
            revision: None,
        };
        Ok(Self {
            id: record.plan.clone(),
            kind: part(record, "kind")?,
            params: record.body.get("params").cloned().unwrap_or_default(),
            direction: Direction::Forward,
            cause: None,
            past_point_of_no_return: false,
            outcome: None,
            stopped: false,
            opened_at: record.at,
            closed_at: None,
            sections: Vec::new(),
            steps: steps.into_iter().map(step).collect(),
        })
    }

    /// Takes in one more record of this plan.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), JournalError> {
        use RecordKind as Kind;
        let at = record.at;
        match record.kind {
            Kind::PlanOpened | Kind::Note | Kind::Warning | Kind::Approved => return Ok(()),
            Kind::Started => {
                let step = self.step(record)?;
                (step.status, step.attempts, step.revision) = (StepStatus::Running, record.attempt, record.revision);
                (step.started_at, step.ended_at) = (Some(at), None);
            }
            Kind::Succeeded => {
                self.ended(record, StepStatus::Done)?.error = None;
                self.close_section(record, true);
            }
            Kind::Failed => {
                let error = part(record, "error")?;
                self.ended(record, StepStatus::Failed)?.error = Some(error);
            }
            Kind::DirectionChanged => {
                self.direction = Direction::Unwinding;
                self.cause = Some(part(record, "cause")?);
                // A plan that was done may be taken back later.
                (self.outcome, self.closed_at) = (None, None);
            }
            Kind::UndoStarted => {
                let step = self.step(record)?;
                (step.status, step.started_at, step.ended_at) = (StepStatus::Undoing, Some(at), None);
            }
            Kind::Undone => {
                self.ended(record, StepStatus::Undone)?.error = None;
                self.close_section(record, false);
            }
            Kind::UndoFailed => {
                let error = part(record, "error")?;
                self.ended(record, StepStatus::UndoFailed)?.error = Some(error);
            }
            Kind::PointOfNoReturn => self.past_point_of_no_return = true,
            Kind::SectionStarted => {
                let (name, budget_ms) = (part(record, "name")?, part(record, "budget_ms")?);
                self.sections.push(SectionState { name, budget_ms, started_at: at, ended_at: None });
            }
            Kind::Stopped => {}
            Kind::PlanClosed => {
                self.outcome = Some(part(record, "outcome")?);
                self.closed_at = Some(at);
            }
        }
        self.stopped = record.kind == Kind::Stopped;
        Ok(())
    }

    /// Returns the section that was begun and has not ended.
    pub fn open_section(&self) -> Option<&SectionState> {
        self.sections.iter().find(|section| section.ended_at.is_none())
    }

    fn step(&mut self, record: &Record) -> Result<&mut StepState, JournalError> {
        let found = self.steps.iter_mut().find(|step| Some(&step.name) == record.step.as_ref());
        found
            .ok_or_else(|| JournalError::Corrupt { n: record.n, what: "it names a step its plan does not have".into() })
    }

    fn ended(&mut self, record: &Record, status: StepStatus) -> Result<&mut StepState, JournalError> {
        let step = self.step(record)?;
        (step.status, step.ended_at) = (status, Some(record.at));
        // What is adopted or taken back without a start has no other time.
        step.started_at.get_or_insert(record.at);
        Ok(step)
    }

    /// Ends the section of the record's step if the step is the last of it (or the first, on the way back).
    fn close_section(&mut self, record: &Record, forward: bool) {
        let Some(index) = self.steps.iter().position(|step| Some(&step.name) == record.step.as_ref()) else { return };
        let section = self.steps[index].section.clone();
        let beyond = if forward { self.steps.get(index + 1) } else { index.checked_sub(1).map(|i| &self.steps[i]) };
        if beyond.is_some_and(|step| step.section == section) {
            return;
        }
        if let Some(open) = self.sections.iter_mut().find(|s| Some(&s.name) == section.as_ref()) {
            open.ended_at.get_or_insert(record.at);
        }
    }
}

fn part<T: DeserializeOwned>(record: &Record, name: &str) -> Result<T, JournalError> {
    let value = record.body.get(name).cloned().unwrap_or_default();
    serde_json::from_value(value)
        .map_err(|error| JournalError::Corrupt { n: record.n, what: format!("its `{name}`: {error}") })
}
