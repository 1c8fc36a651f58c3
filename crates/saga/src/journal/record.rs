//! What the journal holds: numbered facts, each with a small JSON body.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// What a record says. Stored by its snake_case name, never renamed once released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A plan began: `{kind, params, steps}`.
    PlanOpened,
    /// An attempt at a step began, and its effect may exist from here.
    Started,
    /// A step's effect holds: `{output, adopted, ms}`; adopted means it was found, not made.
    Succeeded,
    /// An attempt failed: `{error}`.
    Failed,
    /// From forward to unwinding: `{cause}`.
    DirectionChanged,
    /// A step's undo began.
    UndoStarted,
    /// A step was taken back.
    Undone,
    /// A step's undo failed: `{error}`.
    UndoFailed,
    /// From here the plan only goes forward.
    PointOfNoReturn,
    /// The clock of a section runs: `{name, budget_ms}`.
    SectionStarted,
    /// The run was stopped on request, at this step: `{reason}`.
    Stopped,
    /// The plan reached its end or was taken back whole: `{outcome}`.
    PlanClosed,
    /// A line of the story: `{text}`.
    Note,
    /// A problem that was coped with: `{text}`.
    Warning,
    /// Somebody's word that something may begin.
    Approved,
}

impl RecordKind {
    pub(crate) const ALL: [Self; 15] = [
        Self::PlanOpened,
        Self::Started,
        Self::Succeeded,
        Self::Failed,
        Self::DirectionChanged,
        Self::UndoStarted,
        Self::Undone,
        Self::UndoFailed,
        Self::PointOfNoReturn,
        Self::SectionStarted,
        Self::Stopped,
        Self::PlanClosed,
        Self::Note,
        Self::Warning,
        Self::Approved,
    ];

    /// Returns the name it is stored by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlanOpened => "plan_opened",
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::DirectionChanged => "direction_changed",
            Self::UndoStarted => "undo_started",
            Self::Undone => "undone",
            Self::UndoFailed => "undo_failed",
            Self::PointOfNoReturn => "point_of_no_return",
            Self::SectionStarted => "section_started",
            Self::Stopped => "stopped",
            Self::PlanClosed => "plan_closed",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Approved => "approved",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One fact of the journal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Number, rising in the order of writing; never reused.
    pub n: i64,
    /// When it was written.
    pub at: Timestamp,
    /// The plan's id; empty outside plans.
    pub plan: String,
    /// The step's name, for what belongs to one.
    pub step: Option<String>,
    /// What it says.
    pub kind: RecordKind,
    /// The attempt at the step, from 1; 0 where that means nothing.
    pub attempt: u32,
    /// The step's revision, where it matters.
    pub revision: Option<u32>,
    /// The rest.
    pub body: Value,
}

/// One value of a chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// The plan's id; empty outside plans.
    pub plan: String,
    /// The step that measured it.
    pub step: Option<String>,
    /// The series, with its unit: `lag_bytes`.
    pub name: String,
    /// The value.
    pub value: f64,
}

/// A record that has no number yet.
#[derive(Debug, Clone)]
pub(crate) struct NewRecord {
    pub(crate) plan: String,
    pub(crate) step: Option<&'static str>,
    pub(crate) kind: RecordKind,
    pub(crate) attempt: u32,
    pub(crate) revision: Option<u32>,
    pub(crate) body: Value,
}

impl NewRecord {
    pub(crate) fn new(plan: &str, kind: RecordKind, body: Value) -> Self {
        Self { plan: plan.into(), step: None, kind, attempt: 0, revision: None, body }
    }

    pub(crate) fn step(mut self, step: Option<&'static str>) -> Self {
        self.step = step;
        self
    }

    pub(crate) fn numbered(&self, n: i64, at: Timestamp) -> Record {
        Record {
            n,
            at,
            plan: self.plan.clone(),
            step: self.step.map(Into::into),
            kind: self.kind,
            attempt: self.attempt,
            revision: self.revision,
            body: self.body.clone(),
        }
    }
}

/// The output of a step, as it was recorded.
pub(crate) struct Recorded {
    pub(crate) output: Value,
    pub(crate) revision: u32,
    pub(crate) plan: String,
}
