//! What a report holds: the form of `report.json`.
//!
//! Fields are added, never renamed; `schema` is raised when one changes its meaning.

use jiff::Timestamp;
use pgleap_canary::Window;
use pgleap_saga::{Journal, PlanState, Record, RecordKind, StepStatus};
use pgleap_upgrade::{
    Standing,
    pg::Side,
    plan::history::Compared,
    provision::{prepare_databases::SourceFacts, start_target::Started},
    standing,
    verify::converge::Comparison,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{chapters::chapters, measured::Measured};
use crate::{
    commands::foretell,
    errors::CommandError,
    out::SCHEMA,
    site::{self},
};

/// Points of the lag chart: more than a screen has columns for.
const LAG_POINTS: usize = 400;

/// Everything that a report says.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this form.
    pub schema: u32,
    /// Four hexadecimal digits.
    pub upgrade_id: Option<String>,
    /// What was upgraded: host and port of the source.
    pub name: String,
    /// When the report was made.
    pub generated_at: Timestamp,
    /// `15.18`; none if the upgrade did not come so far as to ask.
    pub source_version: Option<String>,
    /// `18.1`, or the major version alone until the target runs.
    pub target_version: String,
    /// Where the upgrade stands.
    pub standing: Standing,
    /// Who serves.
    pub traffic: String,
    /// When the first plan was opened.
    pub begun_at: Option<Timestamp>,
    /// When the last record was written.
    pub ended_at: Option<Timestamp>,
    /// The longest write pause of all switchovers, from PAUSE sent to RESUME answered.
    pub write_pause_ms: Option<f64>,
    /// The longest that a client waited for one transaction, over the whole upgrade.
    pub longest_client_stall_ms: Option<f64>,
    /// The same for a bare PAUSE and RESUME under the same load.
    pub pause_floor_ms: Option<f64>,
    /// Transactions that clients were told are committed.
    pub transactions: Option<u64>,
    /// Attempts at a transaction that failed.
    pub failed_transactions: Option<u64>,
    /// Acknowledged writes that are not there.
    pub lost_writes: Option<u64>,
    /// Writes that are there more than once.
    pub duplicated_writes: Option<u64>,
    /// Chapter by chapter.
    pub phases: Vec<Phase>,
    /// Every move of writes, both ways.
    pub switchovers: Vec<Switchover>,
    /// The proof that copy and stream meet exactly.
    pub boundary: Option<Boundary>,
    /// Every comparison of rows.
    pub verifications: Vec<Verification>,
    /// The databases of the upgrade.
    pub databases: Vec<String>,
    /// What the run was foretold to take, and what it took.
    pub foretold: Vec<Compared>,
    /// How far the target was behind.
    pub lag: Vec<Lag>,
    /// What was not carried over, or could not be proven.
    pub left_out: Vec<String>,
    /// All that the canary measured.
    pub measured: Option<Measured>,
    /// Every step.
    pub steps: Vec<StepRow>,
}

/// A chapter: a part of a plan, or the time between two.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// `provision`, `switchover`, `soak`, …
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// The plan; none for the time between two.
    pub plan: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; the last record's time while it goes on.
    pub ended_at: Timestamp,
    /// The longest that a client waited for one transaction meanwhile.
    pub longest_client_stall_ms: Option<f64>,
    /// Attempts that failed meanwhile.
    pub failed_transactions: Option<u64>,
    /// What else is worth saying.
    pub remarks: Vec<String>,
}

/// A move of writes.
#[derive(Debug, Clone, Serialize)]
pub struct Switchover {
    /// Its plan.
    pub plan: String,
    /// The side that served.
    pub from: Side,
    /// Whether writes were moved; if not, they stayed.
    pub moved: bool,
    /// When clients began to wait, if they had to.
    pub paused_at: Option<Timestamp>,
    /// From PAUSE sent to RESUME answered; none if the process died in between.
    pub write_pause_ms: Option<f64>,
    /// The most it might have taken.
    pub budget_ms: Option<u64>,
    /// How the fence was proven: `silence`, or `decoded`.
    pub fence_proven_by: Option<String>,
    /// Sequences whose positions were set in the pause.
    pub sequences: Option<u64>,
    /// Which attempt it was, and of how many; the next one is a switchover of its own.
    pub attempt: (u64, u64),
    /// Why it was taken back, if it was.
    pub taken_back: Option<String>,
    /// What clients' transactions took in the minute before the pause; none if no canary ran.
    pub before: Option<Window>,
    /// In the minute after it.
    pub after: Option<Window>,
    /// What was done while clients waited, and how long each part took.
    pub pause_steps: Vec<PauseStep>,
}

/// A step of the write pause.
#[derive(Debug, Clone, Serialize)]
pub struct PauseStep {
    /// Its name.
    pub name: String,
    /// Milliseconds from the beginning of the pause.
    pub from_ms: f64,
    /// How long it took.
    pub ms: f64,
}

/// The proof of the boundary.
#[derive(Debug, Clone, Serialize)]
pub struct Boundary {
    /// Up to here the copy, from here the stream.
    pub lsn: String,
    /// Transactions before it that were shown to be on the copy.
    pub before: u64,
    /// Transactions after it that were shown not to be.
    pub after: u64,
    /// It was shown again after pg_upgrade.
    pub proven_on_target: bool,
}

/// A comparison of rows.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The plan it was part of.
    pub plan: String,
    /// When it ended.
    pub at: Timestamp,
    /// In two snapshots of one moment, rather than while writes went on.
    pub exact: bool,
    /// How many tables.
    pub tables: usize,
    /// How many rows.
    pub rows: i64,
    /// Tables that hold the same on both sides.
    pub equal: usize,
    /// Tables that were written to faster than they could be compared.
    pub moving: usize,
    /// Tables that differ.
    pub different: Vec<String>,
}

/// A sample of the lag.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Lag {
    /// When.
    pub at: Timestamp,
    /// In bytes of WAL.
    pub lag_bytes: f64,
}

/// A step.
#[derive(Debug, Clone, Serialize)]
pub struct StepRow {
    /// Its plan.
    pub plan: String,
    /// Its name.
    pub name: String,
    /// What it does.
    pub summary: String,
    /// Where it stands.
    pub status: StepStatus,
    /// Attempts.
    pub attempts: u32,
    /// How long the newest attempt took.
    pub seconds: Option<f64>,
}

impl Report {
    /// Reads a journal. `measured` is what clients saw; without it, what a run kept in the journal.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn of(
        journal: &Journal,
        name: &str,
        target_major: u16,
        measured: Option<Measured>,
    ) -> Result<Self, CommandError> {
        let records = journal.records(0)?;
        let mut plans = journal.plans()?;
        // a remedy is no part of the upgrade
        plans.retain(|plan| plan.kind != pgleap_upgrade::fix::KIND);
        let measured = match measured {
            Some(measured) => Some(measured.around(&plans)),
            None => Measured::kept(journal)?,
        };
        let facts: Option<SourceFacts> = newest(&records, "provision.prepare_databases");
        let target: Option<Started> = newest(&records, "provision.start_target");
        let standing = standing::standing(&plans);
        let switchovers: Vec<_> = plans
            .iter()
            .filter(|plan| plan.kind == "switchover")
            .map(|plan| switchover(plan, &records, measured.as_ref()))
            .collect();
        let ended_at = records.last().map(|record| record.at);
        let verifications = verifications(&records);
        Ok(Self {
            schema: SCHEMA,
            upgrade_id: site::known_id(journal)?,
            name: name.to_owned(),
            generated_at: Timestamp::now(),
            source_version: facts.as_ref().map(|facts| short(&facts.version)),
            target_version: target.map_or_else(|| target_major.to_string(), |target| short(&target.version)),
            traffic: standing.traffic(),
            standing,
            begun_at: plans.first().map(|plan| plan.opened_at),
            ended_at,
            write_pause_ms: switchovers.iter().filter_map(|s| s.write_pause_ms).reduce(f64::max),
            longest_client_stall_ms: measured.as_ref().map(|m| m.longest_client_stall_ms),
            pause_floor_ms: measured.as_ref().and_then(|m| m.pause_floor_ms),
            transactions: measured.as_ref().map(|m| m.transactions),
            failed_transactions: measured.as_ref().map(|m| m.failed_transactions),
            lost_writes: measured.as_ref().and_then(|m| m.lost_writes),
            duplicated_writes: measured.as_ref().and_then(|m| m.duplicated_writes),
            phases: chapters(&plans, &records, measured.as_ref(), ended_at),
            boundary: boundary(&records),
            left_out: left_out(&records, &verifications),
            switchovers,
            verifications,
            databases: facts.map(|facts| facts.names()).unwrap_or_default(),
            foretold: foretold(journal, &plans),
            lag: lag(journal)?,
            steps: plans.iter().flat_map(steps).collect(),
            measured,
        })
    }
}

/// Compares what was foretold when the newest run began with what its steps took.
fn foretold(journal: &Journal, plans: &[PlanState]) -> Vec<Compared> {
    let newest = plans.iter().rfind(|plan| plan.kind == "upgrade");
    let prediction = foretell::kept(journal).zip(newest);
    prediction.map_or_else(Vec::new, |(prediction, plan)| {
        let mut took = foretell::took(plan);
        // the proof of the first switchover is foretold, too
        let first = plans.iter().find(|plan| plan.kind == "switchover").map(foretell::took).unwrap_or_default();
        took.extend(first);
        prediction.against(&took)
    })
}

fn short(version: &str) -> String {
    version.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Returns the output of a step's newest success in one plan.
pub(super) fn output<'a>(records: &'a [Record], plan: &str, step: &str) -> Option<&'a Value> {
    let wanted = |record: &&Record| {
        record.plan == plan && record.step.as_deref() == Some(step) && record.kind == RecordKind::Succeeded
    };
    records.iter().rfind(wanted)?.body.get("output")
}

fn newest<T: DeserializeOwned>(records: &[Record], step: &str) -> Option<T> {
    let wanted = |record: &&Record| record.step.as_deref() == Some(step) && record.kind == RecordKind::Succeeded;
    serde_json::from_value(records.iter().rfind(wanted)?.body.get("output")?.clone()).ok()
}

/// Returns the side that a switchover leads writes away from.
pub(super) fn from_of(plan: &PlanState) -> Side {
    plan.params.get("from").cloned().and_then(|from| serde_json::from_value(from).ok()).unwrap_or(Side::Source)
}

fn switchover(plan: &PlanState, records: &[Record], measured: Option<&Measured>) -> Switchover {
    let around = measured.and_then(|measured| measured.around.iter().find(|around| around.plan == plan.id));
    let number = |name: &str| plan.params.get(name).and_then(Value::as_u64).unwrap_or(1);
    let out = |step: &str| output(records, &plan.id, step);
    let carried = |what: &str| out("switchover.carry_over").and_then(|carried| carried.get(what));
    let section = plan.sections.first();
    let pause_steps = section.map(|section| {
        let of = plan.steps.iter().filter(|step| step.section.as_deref() == Some(section.name.as_str()));
        let row = |step: &pgleap_saga::StepState| {
            let (from, to) = (step.started_at?, step.ended_at?);
            Some(PauseStep {
                name: step.name.clone(),
                from_ms: from.duration_since(section.started_at).as_secs_f64() * 1000.0,
                ms: to.duration_since(from).as_secs_f64() * 1000.0,
            })
        };
        of.filter(|step| step.status == StepStatus::Done).filter_map(row).collect()
    });
    Switchover {
        plan: plan.id.clone(),
        from: from_of(plan),
        moved: plan.past_point_of_no_return,
        paused_at: section.map(|section| section.started_at),
        write_pause_ms: out("switchover.move_clients").and_then(|moved| moved.get("write_pause_ms")?.as_f64()),
        budget_ms: section.map(|section| section.budget_ms),
        fence_proven_by: carried("audit").and_then(Value::as_str).map(str::to_owned),
        sequences: carried("sequences").and_then(Value::as_u64),
        attempt: (number("attempt"), number("attempts")),
        taken_back: plan.cause.as_ref().filter(|_| !plan.past_point_of_no_return).map(ToString::to_string),
        before: around.and_then(|around| around.before),
        after: around.and_then(|around| around.after),
        pause_steps: pause_steps.unwrap_or_default(),
    }
}

fn boundary(records: &[Record]) -> Option<Boundary> {
    let find = |step: &str| {
        let wanted = |r: &&Record| r.step.as_deref() == Some(step) && r.kind == RecordKind::Succeeded;
        records.iter().rfind(wanted)
    };
    let proof = find("provision.prove_copy")?;
    let proofs = proof.body.get("output")?.as_array()?;
    let sum = |name: &str| proofs.iter().filter_map(|proof| proof.get(name)?.as_u64()).sum();
    let lsn = output(records, &proof.plan, "provision.fix_boundary")?.get("lsn")?.as_str()?.to_owned();
    let proven_on_target = find("provision.prove_target").is_some_and(|again| again.n > proof.n);
    Some(Boundary { lsn, before: sum("before"), after: sum("after"), proven_on_target })
}

fn verifications(records: &[Record]) -> Vec<Verification> {
    let read = |record: &Record| {
        let output = record.body.get("output").filter(|_| record.kind == RecordKind::Succeeded)?;
        let (exact, value) = match record.step.as_deref()? {
            "verify.compare_tables" => (false, output),
            "switchover.prove_equal" => (true, output.get("comparison").filter(|value| !value.is_null())?),
            _ => return None,
        };
        let comparison: Comparison = serde_json::from_value(value.clone()).ok()?;
        let (equal, moving) = comparison.counts();
        let name = |t: &pgleap_upgrade::verify::compare::TableResult| format!("{}.{}", t.database, t.table);
        Some(Verification {
            plan: record.plan.clone(),
            at: record.at,
            exact,
            tables: comparison.tables.len(),
            rows: comparison.rows(),
            equal,
            moving,
            different: comparison.different().into_iter().map(name).collect(),
        })
    };
    records.iter().filter_map(read).collect()
}

/// What a person must know was not done: settings not carried over, warnings, tables that never stood still.
fn left_out(records: &[Record], verifications: &[Verification]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for record in records {
        let text = record.body.get("text").and_then(Value::as_str).unwrap_or_default();
        let wanted = match record.kind {
            RecordKind::Warning => true,
            RecordKind::Note => text.contains("not carried over"),
            _ => false,
        };
        if wanted && !lines.iter().any(|line| line == text) {
            lines.push(text.to_owned());
        }
    }
    // A table that moved too fast before is proven by the exact comparison after it.
    if let Some(last) = verifications.last().filter(|last| last.moving > 0) {
        lines.push(format!("{} tables were written to faster than they could be compared", last.moving));
    }
    lines
}

fn lag(journal: &Journal) -> Result<Vec<Lag>, CommandError> {
    let samples = journal.samples()?.into_iter().filter(|sample| sample.name == "lag_bytes");
    let all: Vec<Lag> = samples.map(|sample| Lag { at: sample.at, lag_bytes: sample.value }).collect();
    // Of each stretch the highest point: what a chart hides must be what is harmless.
    let stretch = all.len().div_ceil(LAG_POINTS).max(1);
    let highest = |lags: &[Lag]| lags.iter().copied().reduce(|a, b| if b.lag_bytes > a.lag_bytes { b } else { a });
    Ok(all.chunks(stretch).filter_map(highest).collect())
}

fn steps(plan: &PlanState) -> Vec<StepRow> {
    let row = |step: &pgleap_saga::StepState| StepRow {
        plan: plan.id.clone(),
        name: step.name.clone(),
        summary: step.summary.clone(),
        status: step.status,
        attempts: step.attempts,
        seconds: match (step.started_at, step.ended_at) {
            (Some(from), Some(to)) => Some(to.duration_since(from).as_secs_f64()),
            _ => None,
        },
    };
    plan.steps.iter().map(row).collect()
}
