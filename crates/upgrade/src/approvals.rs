//! Words of people that a plan waits for: who may say them, which are there, and which are used up.
//!
//! An approval is a record of the journal. It is a record of responsibility, not a lock: whoever may write the journal may
//! write one, and the account that did is written beside the name. It counts for one attempt that clients feel: a
//! switchover that was held by its gates leaves it, one that began to pause uses it up. The way back is never held up.

use std::{collections::BTreeSet, fmt, time::Duration};

use jiff::Timestamp;
use pgleap_saga::{Journal, JournalError, Record, RecordKind};
use serde::{Deserialize, Serialize};

use crate::switchover::WRITE_PAUSE;

/// What may wait for approval. Not the way back, and not what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Making the target.
    Run,
    /// Moving writes to it.
    Switchover,
    /// Giving up the way back.
    Finalize,
}

impl Gate {
    /// Every gate.
    pub const ALL: [Self; 3] = [Self::Run, Self::Switchover, Self::Finalize];

    /// Returns its name, which is the command that waits.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Switchover => "switchover",
            Self::Finalize => "finalize",
        }
    }

    /// Finds a gate by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gate| gate.name() == name)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `[approvals]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approvals {
    /// What waits for approval.
    pub before: Vec<Gate>,
    /// How many people have to give it.
    pub count: usize,
    /// Who may; anybody if it is empty.
    pub by: Vec<String>,
    /// How long one counts.
    pub valid_for: Duration,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { before: Vec::new(), count: 1, by: Vec::new(), valid_for: Duration::from_secs(86_400) }
    }
}

/// Somebody's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// For what.
    pub gate: Gate,
    /// Who gave it, as they called themselves.
    pub by: String,
    /// The account of the operating system that wrote it.
    pub account: String,
    /// What for: a ticket, a reason.
    #[serde(rename = "for")]
    pub what_for: Option<String>,
}

/// An approval, and when it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Given {
    /// When.
    pub at: Timestamp,
    /// What was said.
    #[serde(flatten)]
    pub approval: Approval,
}

/// How a gate stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// Which.
    pub gate: Gate,
    /// How many people are needed.
    pub needed: usize,
    /// Who may; anybody if it is empty.
    pub by: Vec<String>,
    /// Whose word counts now.
    pub given: Vec<Given>,
}

impl State {
    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.given.len() >= self.needed
    }
}

impl Approvals {
    /// Returns how a gate stands; `None` if nothing waits there.
    pub fn state(&self, gate: Gate, records: &[Record], now: Timestamp) -> Option<State> {
        if !self.before.contains(&gate) {
            return None;
        }
        let used_until = records.iter().rfind(|record| uses_up(gate, record, records)).map_or(0, |record| record.n);
        let mut people = BTreeSet::new();
        let given = records.iter().filter(|record| record.n > used_until).filter_map(read);
        let given = given.filter(|given| {
            let fresh = now.duration_since(given.at).as_secs_f64() <= self.valid_for.as_secs_f64();
            let may = self.by.is_empty() || self.by.contains(&given.approval.by);
            given.approval.gate == gate && fresh && may && people.insert(given.approval.by.clone())
        });
        Some(State { gate, needed: self.count, by: self.by.clone(), given: given.collect() })
    }

    /// Returns how every gate stands at which something waits.
    pub fn states(&self, records: &[Record], now: Timestamp) -> Vec<State> {
        Gate::ALL.into_iter().filter_map(|gate| self.state(gate, records, now)).collect()
    }

    /// Returns the state of a gate that is closed.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn closed(&self, gate: Gate, journal: &Journal) -> Result<Option<State>, JournalError> {
        Ok(self.state(gate, &journal.records(0)?, Timestamp::now()).filter(|state| !state.is_open()))
    }
}

fn read(record: &Record) -> Option<Given> {
    if record.kind != RecordKind::Approved {
        return None;
    }
    Some(Given { at: record.at, approval: serde_json::from_value(record.body.clone()).ok()? })
}

/// Whether a record is of an attempt that was felt: a plan begun, or for a switchover its write pause.
fn uses_up(gate: Gate, record: &Record, records: &[Record]) -> bool {
    let opened = |record: &Record, kind: &str| {
        record.kind == RecordKind::PlanOpened && record.body.get("kind").is_some_and(|of| of == kind)
    };
    match gate {
        Gate::Run => opened(record, "upgrade"),
        Gate::Finalize => opened(record, "finalize"),
        Gate::Switchover => {
            record.kind == RecordKind::SectionStarted
                && record.body.get("name").is_some_and(|name| name == WRITE_PAUSE)
                && records.iter().any(|plan| {
                    let from = plan.body.get("params").and_then(|params| params.get("from"));
                    plan.plan == record.plan && opened(plan, "switchover") && from.is_some_and(|from| from == "source")
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(n: i64, kind: RecordKind, plan: &str, body: serde_json::Value) -> Record {
        let at = Timestamp::from_second(1_000_000 + n).unwrap();
        Record { n, at, plan: plan.into(), step: None, kind, attempt: 0, revision: None, body }
    }

    fn approved(n: i64, gate: Gate, by: &str) -> Record {
        let approval = Approval { gate, by: by.into(), account: "root".into(), what_for: Some("CHG-1".into()) };
        record(n, RecordKind::Approved, "", json!(approval))
    }

    fn opened(n: i64, plan: &str, kind: &str, from: &str) -> Record {
        record(n, RecordKind::PlanOpened, plan, json!({ "kind": kind, "params": { "from": from }, "steps": [] }))
    }

    fn paused(n: i64, plan: &str) -> Record {
        record(n, RecordKind::SectionStarted, plan, json!({ "name": WRITE_PAUSE, "budget_ms": 2000 }))
    }

    fn wanted(count: usize, by: &[&str]) -> Approvals {
        let by = by.iter().map(|name| (*name).to_owned()).collect();
        Approvals { before: Gate::ALL.to_vec(), count, by, ..Approvals::default() }
    }

    const SOON: i64 = 1_000_060;

    fn open(approvals: &Approvals, gate: Gate, records: &[Record]) -> bool {
        approvals.state(gate, records, Timestamp::from_second(SOON).unwrap()).is_none_or(|state| state.is_open())
    }

    #[test]
    fn gate_that_nobody_asked_for_is_open() {
        let none = Approvals::default();
        assert!(Gate::ALL.into_iter().all(|gate| open(&none, gate, &[])));
    }

    #[test]
    fn gate_opens_when_enough_different_people_have_approved() {
        let two = wanted(2, &[]);
        let once = [approved(1, Gate::Switchover, "ana")];
        assert!(!open(&two, Gate::Switchover, &once));
        let twice = [once[0].clone(), approved(2, Gate::Switchover, "ana")];
        assert!(!open(&two, Gate::Switchover, &twice), "one person is one voice");
        let both = [once[0].clone(), approved(2, Gate::Switchover, "ben")];
        assert!(open(&two, Gate::Switchover, &both));
        assert!(!open(&two, Gate::Finalize, &both), "for another gate it says nothing");
    }

    #[test]
    fn only_those_named_may_approve() {
        let named = wanted(1, &["ana"]);
        assert!(!open(&named, Gate::Run, &[approved(1, Gate::Run, "eve")]));
        assert!(open(&named, Gate::Run, &[approved(1, Gate::Run, "ana")]));
    }

    #[test]
    fn approval_of_a_switchover_is_used_up_by_its_pause_and_not_by_a_gate_that_held_it() {
        let one = wanted(1, &[]);
        let held = [approved(1, Gate::Switchover, "ana"), opened(2, "switchover-1", "switchover", "source")];
        assert!(open(&one, Gate::Switchover, &held), "held by its gates: nothing was felt");
        let felt = [&held[..], &[paused(3, "switchover-1")]].concat();
        assert!(!open(&one, Gate::Switchover, &felt));
        let again = [&felt[..], &[approved(4, Gate::Switchover, "ana")]].concat();
        assert!(open(&one, Gate::Switchover, &again));
        let back =
            [&again[..], &[opened(5, "switchover-2", "switchover", "target"), paused(6, "switchover-2")]].concat();
        assert!(open(&one, Gate::Switchover, &back), "a rollback uses up nobody's word");
    }

    #[test]
    fn approval_of_a_run_is_used_up_when_it_begins() {
        let one = wanted(1, &[]);
        let given = [approved(1, Gate::Run, "ana")];
        assert!(open(&one, Gate::Run, &given));
        assert!(!open(&one, Gate::Run, &[given[0].clone(), opened(2, "upgrade-1", "upgrade", "")]));
    }

    #[test]
    fn approval_does_not_count_for_longer_than_it_is_valid() {
        let brief = Approvals { valid_for: Duration::from_secs(30), ..wanted(1, &[]) };
        assert!(!open(&brief, Gate::Run, &[approved(1, Gate::Run, "ana")]), "59 s old");
        assert!(open(&brief, Gate::Run, &[approved(40, Gate::Run, "ana")]), "20 s old");
    }
}
