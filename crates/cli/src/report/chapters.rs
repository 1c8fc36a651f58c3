//! From plans to chapters: the stretches of time that a person would name.

use jiff::Timestamp;
use pgleap_saga::{Outcome, PlanState, Record, RecordKind, StepState, StepStatus};
use pgleap_upgrade::{pg::Side, replicate::catch_up::CaughtUp, verify::converge::Comparison};
use serde_json::Value;

use super::{
    measured::{Around, Measured},
    model::{Phase, from_of, output},
};
use crate::display::text;

/// Returns the chapters of all plans, in order of time.
pub(super) fn chapters(
    plans: &[PlanState],
    records: &[Record],
    measured: Option<&Measured>,
    last: Option<Timestamp>,
) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    let mut soaking_since: Option<Timestamp> = None;
    for plan in plans {
        if let Some(since) = soaking_since.take() {
            phases.push(phase("soak", None, since, plan.opened_at, Vec::new()));
        }
        let end = plan.closed_at.or(last).unwrap_or(plan.opened_at);
        let unwound = matches!(plan.outcome, Some(Outcome::Unwound { .. }));
        if plan.kind == "upgrade" && !unwound {
            phases.extend(parts(plan, records, end));
        } else {
            let name = match (plan.kind.as_str(), from_of(plan)) {
                ("switchover", Side::Target) => "rollback",
                (kind, _) => kind,
            };
            let number = |name: &str| plan.params.get(name).and_then(Value::as_u64).unwrap_or(1);
            let name = match (number("attempt"), number("attempts")) {
                (_, 1) => name.to_owned(),
                (attempt, attempts) => format!("{name}, attempt {attempt} of {attempts}"),
            };
            let name = if unwound { format!("{name}, taken back") } else { name };
            phases.push(phase(&name, Some(plan), plan.opened_at, end, remarks(plan, records, |_| true)));
        }
        let target_serves =
            plan.kind == "switchover" && plan.outcome == Some(Outcome::Done) && from_of(plan) == Side::Source
                || plan.kind == "switchover" && unwound && from_of(plan) == Side::Target
                || plan.kind == "finalize" && unwound;
        soaking_since = plan.closed_at.filter(|_| target_serves);
    }
    if let Some((since, last)) = soaking_since.zip(last) {
        phases.push(phase("soak", None, since, last, Vec::new()));
    }
    for phase in &mut phases {
        let seen = measured.and_then(|measured| measured.between(phase.started_at, phase.ended_at));
        (phase.longest_client_stall_ms, phase.failed_transactions) = (seen.map(|s| s.0), seen.map(|s| s.1));
        let around =
            measured.iter().flat_map(|measured| &measured.around).find(|a| Some(&a.plan) == phase.plan.as_ref());
        phase.remarks.extend(around.and_then(Around::in_words));
    }
    phases
}

fn phase(name: &str, plan: Option<&PlanState>, from: Timestamp, to: Timestamp, remarks: Vec<String>) -> Phase {
    Phase {
        name: name.to_owned(),
        seconds: to.duration_since(from).as_secs_f64().max(0.0),
        plan: plan.map(|plan| plan.id.clone()),
        started_at: from,
        ended_at: to,
        longest_client_stall_ms: None,
        failed_transactions: None,
        remarks,
    }
}

/// Divides a plan into its phases. A step between two of another phase belongs to that: the slots come before the copy, and
/// a reader wants one chapter, not three.
fn parts(plan: &PlanState, records: &[Record], end: Timestamp) -> Vec<Phase> {
    let own = |step: &StepState| step.name.split('.').next().unwrap_or_default().to_owned();
    let mut order: Vec<(String, usize)> = Vec::new();
    for (at, step) in plan.steps.iter().enumerate() {
        match order.iter_mut().find(|(name, _)| *name == own(step)) {
            Some((_, last)) => *last = at,
            None => order.push((own(step), at)),
        }
    }
    let chapter = |at: usize| order.iter().find(|(_, last)| *last >= at).map_or("", |(name, _)| name.as_str());
    let begun = plan.steps.iter().enumerate().filter(|(_, step)| step.started_at.is_some());
    let begun: Vec<(&str, &StepState)> = begun.map(|(at, step)| (chapter(at), step)).collect();
    let mut phases: Vec<Phase> = Vec::new();
    for group in begun.chunk_by(|a, b| a.0 == b.0) {
        let from = phases.last().map_or(plan.opened_at, |earlier| earlier.ended_at);
        let over = group.iter().all(|(_, step)| step.status == StepStatus::Done);
        let to = group.iter().filter_map(|(_, step)| step.ended_at).max().filter(|_| over).unwrap_or(end);
        let within = |step: &str| group.iter().any(|(_, member)| member.name == step);
        phases.push(phase(group[0].0, Some(plan), from, to.max(from), remarks(plan, records, within)));
    }
    phases
}

/// Returns what is worth saying of some steps of a plan.
fn remarks(plan: &PlanState, records: &[Record], within: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    let out = |step: &str| if within(step) { output(records, &plan.id, step) } else { None };
    if let Some(ms) = out("switchover.move_clients").and_then(|moved| moved.get("write_pause_ms")?.as_f64()) {
        lines.push(format!("write pause {}", text::millis(ms)));
    }
    if let Some(proofs) = out("provision.prove_copy").and_then(Value::as_array) {
        let sum = |name: &str| proofs.iter().filter_map(|proof| proof.get(name)?.as_u64()).sum::<u64>();
        lines.push(format!("boundary exact: {} transactions before it, {} after", sum("before"), sum("after")));
    }
    if let Some(caught_up) = parse::<CaughtUp>(out("replicate.catch_up")) {
        lines.push(format!("caught up in {}", text::seconds(caught_up.seconds)));
    }
    let exact = out("switchover.prove_equal").and_then(|proven| proven.get("comparison"));
    for (comparison, words) in
        [(parse::<Comparison>(out("verify.compare_tables")), "equal"), (parse(exact), "proven equal at that moment")]
    {
        let Some(comparison) = comparison else { continue };
        let rows = text::count(u64::try_from(comparison.rows()).unwrap_or(0));
        let (equal, moving) = comparison.counts();
        let moving = if moving > 0 { format!(", {moving} still moving") } else { String::new() };
        lines.push(format!("{}, {rows} rows {words}{moving}", text::plural(equal, "table")));
    }
    if let Some(Outcome::Unwound { cause }) = &plan.outcome {
        lines.push(cause.to_string());
    }
    let again: u32 =
        plan.steps.iter().filter(|step| within(&step.name)).map(|step| step.attempts.saturating_sub(1)).sum();
    if again > 0 {
        lines.push(text::plural(again as usize, "further attempt"));
    }
    let warned = |record: &&Record| {
        record.kind == RecordKind::Warning && record.plan == plan.id && record.step.as_deref().is_some_and(&within)
    };
    let warnings = records.iter().filter(warned).count();
    if warnings > 0 {
        lines.push(text::plural(warnings, "warning"));
    }
    lines
}

fn parse<T: serde::de::DeserializeOwned>(value: Option<&Value>) -> Option<T> {
    serde_json::from_value(value?.clone()).ok()
}
