//! `pgleap status`: where the upgrade stands, from the journal alone.

use std::collections::HashMap;

use jiff::Timestamp;
use pgleap_saga::{Direction, PlanState, Record, RecordKind, Reversal, StepDescription, StepState, StepStatus};
use pgleap_upgrade::{
    Standing,
    approvals::{Gate, State},
    fix,
    provision::prepare_databases::SourceFacts,
    standing,
    timing::{Waiting, waiting},
};
use serde::Serialize;

use super::{approve, drive::next};
use crate::{
    display::text,
    errors::CommandError,
    exit::Exit,
    out::{Out, Paint, SCHEMA},
    site::{self, Site},
};

/// The chapters of an upgrade, in order.
const PHASES: [&str; 7] = ["preflight", "provision", "replicate", "verify", "switchover", "soak", "finalize"];
/// Done steps that are shown before the present one.
const SHOWN_BEFORE: usize = 2;
/// Steps that are shown after the next one.
const SHOWN_AFTER: usize = 3;

/// Where an upgrade stands, as `status` and `watch` show it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct View {
    pub schema: u32,
    pub upgrade_id: Option<String>,
    pub source: String,
    pub source_version: Option<String>,
    pub target_version: u16,
    pub standing: Standing,
    /// Who serves.
    pub traffic: String,
    pub next: &'static str,
    pub phase: &'static str,
    /// What waits for somebody's word, as far as it comes next.
    pub approvals: Vec<State>,
    /// The process that works on it.
    pub process: Option<u32>,
    /// What that process waits for, if it has begun nothing yet.
    pub waiting: Option<Waiting>,
    pub begun_at: Option<Timestamp>,
    /// The open plan, or the newest.
    pub plan: Option<PlanState>,
    /// Findings whose remedies pgleap applied to the source, oldest first.
    pub fixes: Vec<String>,
    #[serde(skip)]
    returns: HashMap<String, Reversal>,
    /// The newest note of a step, to be shown beside it.
    #[serde(skip)]
    notes: HashMap<String, String>,
}

impl View {
    /// Brings together what a journal holds.
    pub(super) fn of(
        site: &Site,
        id: Option<String>,
        plans: &[PlanState],
        records: &[Record],
        waiting: Option<Waiting>,
    ) -> Self {
        let standing = standing::standing(plans);
        let fixes = fix::applied(plans).into_iter().filter_map(fix::remedy).map(|remedy| remedy.finding).collect();
        let interrupted = fix::open(plans).is_some();
        // where the upgrade stands is said by its own plans
        let plans: Vec<&PlanState> = plans.iter().filter(|plan| plan.kind != fix::KIND).collect();
        let plan = site::current(&plans).cloned();
        let (mut returns, mut notes, mut source_version) = (HashMap::new(), HashMap::new(), None);
        for record in records {
            let (Some(plan), step) = (&plan, record.step.as_deref().unwrap_or_default()) else { break };
            if step == "provision.prepare_databases" && record.kind == RecordKind::Succeeded {
                let facts = record.body.get("output").cloned().unwrap_or_default();
                source_version = serde_json::from_value::<SourceFacts>(facts).ok().map(|facts| short(&facts.version));
            }
            if record.plan != plan.id {
                continue;
            }
            match record.kind {
                RecordKind::PlanOpened => {
                    let steps = record.body.get("steps").cloned().unwrap_or_default();
                    let steps: Vec<StepDescription> = serde_json::from_value(steps).unwrap_or_default();
                    returns.extend(steps.into_iter().map(|step| (step.name, step.reversal)));
                }
                RecordKind::Note => {
                    let text = record.body.get("text").and_then(|text| text.as_str()).unwrap_or_default();
                    notes.insert(step.to_owned(), text.to_owned());
                }
                _ => {}
            }
        }
        Self {
            schema: SCHEMA,
            upgrade_id: id,
            source: format!("{}:{}", site.config.source.host, site.config.source.port),
            source_version,
            target_version: site.config.target.version,
            traffic: standing.traffic(),
            next: if interrupted && !matches!(standing, Standing::Open { .. }) {
                "`pgleap resume` ends the change of the source that was interrupted"
            } else {
                next(&standing)
            },
            fixes,
            phase: phase(&standing, plan.as_ref()),
            approvals: awaited(&standing, site.config.approvals.states(records, Timestamp::now())),
            process: site.writer(),
            waiting,
            begun_at: plans.first().map(|plan| plan.opened_at),
            standing,
            plan,
            returns,
            notes,
        }
    }

    /// Returns whether a plan is open.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.standing, Standing::Open { .. })
    }

    /// Returns the lines of `status`.
    pub(super) fn render(&self, paint: Paint, now: Timestamp) -> String {
        let mut lines = vec![self.headline(paint, now)];
        if let Some(plan) = self.plan.as_ref().filter(|_| self.is_open()) {
            lines.extend(self.steps(plan, paint, now));
        }
        if let Some(waiting) = &self.waiting {
            let (cyan, since) = (paint.cyan("waiting"), text::seconds(at_to(waiting.since, now)));
            lines.push(format!("  {cyan}  {}, for {since} (process {})", waiting.what, waiting.process));
        }
        lines.push(format!("{} {}", paint.bold("traffic:"), self.traffic));
        if !self.fixes.is_empty() && !matches!(self.standing, Standing::Finalized) {
            let names: Vec<_> = self.fixes.iter().map(|name| format!("`{name}`")).collect();
            let back = "`pgleap unwind` takes them back";
            lines.push(format!("{}   applied to the source: {}; {back}", paint.bold("fixes:"), names.join(", ")));
        }
        lines.extend(
            self.approvals.iter().map(|state| format!("{}    {}", paint.bold("gate:"), approve::render(state))),
        );
        if (self.is_open() || self.waiting.is_some()) && self.process.is_some() {
            lines.push(format!("{}    `pgleap watch` follows it", paint.bold("next:")));
        } else {
            lines.push(format!("{}    {}", paint.bold("next:"), self.next));
        }
        lines.join("\n")
    }

    fn headline(&self, paint: Paint, now: Timestamp) -> String {
        let from = self.source_version.clone().unwrap_or_else(|| "?".to_owned());
        let mut parts = vec![paint.bold(&self.source), format!("{from} → {}", self.target_version)];
        parts.extend(self.upgrade_id.as_ref().map(|id| format!("upgrade {id}")));
        let number = PHASES.iter().position(|phase| *phase == self.phase).map_or(0, |n| n + 1);
        let where_now = match &self.standing {
            Standing::Nothing => "nothing is begun".to_owned(),
            Standing::InSync => paint.green("in sync"),
            Standing::Finalized => paint.green("finished"),
            _ => format!("phase {} ({number} of {})", self.phase, PHASES.len()),
        };
        parts.push(where_now);
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        let since = |at: Timestamp| text::seconds((now.as_second() - at.as_second()).max(0) as f64);
        match (&self.standing, self.process, self.begun_at) {
            (Standing::Nothing | Standing::Finalized, ..) | (_, _, None) => {}
            (Standing::Open { .. }, Some(pid), Some(at)) => {
                parts.push(format!("running {} (process {pid})", since(at)))
            }
            (Standing::Open { .. }, None, Some(_)) => {
                let stopped = self.plan.as_ref().is_some_and(|plan| plan.stopped);
                parts.push(paint.yellow(if stopped { "stopped" } else { "interrupted" }));
            }
            (_, _, Some(at)) => parts.push(format!("begun {} ago", since(at))),
        }
        parts.join("  ")
    }

    fn steps(&self, plan: &PlanState, paint: Paint, now: Timestamp) -> Vec<String> {
        let back = plan.direction == Direction::Unwinding;
        // On the way back the list is read from its end.
        let steps: Vec<&StepState> = if back { plan.steps.iter().rev().collect() } else { plan.steps.iter().collect() };
        let over = |step: &StepState| match back {
            true => matches!(step.status, StepStatus::Undone | StepStatus::Pending),
            false => step.status == StepStatus::Done,
        };
        let at = steps.iter().position(|step| !over(step)).unwrap_or(steps.len());
        let width = plan.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let mut lines = Vec::new();
        if let Some(cause) = plan.cause.as_ref().filter(|_| back) {
            lines.push(format!("  {} {cause}", paint.yellow("taking back what was done:")));
        }
        let before = steps.iter().take(at).filter(|step| step.status != StepStatus::Pending).collect::<Vec<_>>();
        for step in before.iter().skip(before.len().saturating_sub(SHOWN_BEFORE)) {
            let word = if back { paint.yellow("undone ") } else { paint.green("done   ") };
            lines.push(self.line(&word, step, width, &self.result(step)));
        }
        let Some(step) = steps.get(at) else { return lines };
        lines.push(self.present(plan, step, width, paint, now));
        let later: Vec<_> = steps.iter().skip(at + 1).filter(|step| !back || step.may_have_effect()).collect();
        for (nth, step) in later.iter().take(1 + SHOWN_AFTER).enumerate() {
            let word = if nth == 0 { "next   " } else { "then   " };
            lines.push(self.line(&paint.dim(word), step, width, ""));
        }
        if later.len() > 1 + SHOWN_AFTER {
            let more = text::plural(later.len() - 1 - SHOWN_AFTER, "more step");
            lines.push(format!("  {}  {}", paint.dim("       "), paint.dim(&format!("… {more}"))));
        }
        lines
    }

    fn present(&self, plan: &PlanState, step: &StepState, width: usize, paint: Paint, now: Timestamp) -> String {
        let took = step.started_at.map(|at| text::seconds(at_to(at, now))).unwrap_or_default();
        let (word, mut detail) = match (step.status, self.process) {
            (StepStatus::Pending, Some(_)) => (paint.cyan("running"), String::new()),
            (StepStatus::Pending, None) => (paint.dim("next   "), String::new()),
            (StepStatus::Failed | StepStatus::UndoFailed, _) => {
                let error = step.error.as_ref().map(ToString::to_string).unwrap_or_default();
                (paint.red("failed "), error)
            }
            (_, Some(_)) => (paint.cyan("running"), format!("{took}; {}", step.summary)),
            (_, None) if plan.stopped => (paint.yellow("stopped"), "on request".to_owned()),
            (_, None) => (paint.yellow("broken "), "its process ended in the middle".to_owned()),
        };
        if let Some(open) = plan.open_section().filter(|_| self.process.is_some()) {
            #[expect(clippy::cast_precision_loss, reason = "a budget for people")]
            let budget = text::millis(open.budget_ms as f64);
            detail.push_str(&format!("; {} {} of {budget}", open.name, text::seconds(at_to(open.started_at, now))));
        }
        let mut line = self.line(&word, step, width, &detail);
        if let Some(hint) = step.error.as_ref().and_then(|error| error.hint.as_ref()) {
            line.push_str(&format!("\n           {:width$}  {hint}", paint.bold("hint:")));
        }
        line
    }

    fn line(&self, word: &str, step: &StepState, width: usize, detail: &str) -> String {
        let mut text = format!("  {word}  {:width$}  {detail}", step.name);
        if self.returns.get(&step.name) == Some(&Reversal::PointOfNoReturn) {
            text = format!("{}  point of no return", text.trim_end());
        }
        text.trim_end().to_owned()
    }

    fn result(&self, step: &StepState) -> String {
        let took = match (step.started_at, step.ended_at) {
            (Some(from), Some(to)) => text::seconds(at_to(from, to)),
            _ => String::new(),
        };
        match self.notes.get(&step.name) {
            Some(note) => format!("{took}; {note}"),
            None => took,
        }
    }
}

/// Returns the gates that come next: what is over, or far ahead, waits for nobody.
fn awaited(standing: &Standing, states: Vec<State>) -> Vec<State> {
    let next = match standing {
        Standing::Nothing => Some(Gate::Run),
        Standing::InSync => Some(Gate::Switchover),
        Standing::SwitchedOver => Some(Gate::Finalize),
        Standing::Open { .. } | Standing::Finalized => None,
    };
    states.into_iter().filter(|state| Some(state.gate) == next).collect()
}

fn at_to(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

/// `15.18 (Debian 15.18-1)` is `15.18` to a reader.
pub(super) fn short(version: &str) -> String {
    version.split_whitespace().next().unwrap_or_default().to_owned()
}

fn phase(standing: &Standing, plan: Option<&PlanState>) -> &'static str {
    let known = |name: &str| PHASES.iter().find(|phase| **phase == name).copied();
    match standing {
        Standing::Nothing => "preflight",
        Standing::InSync => "verify",
        Standing::SwitchedOver => "soak",
        Standing::Finalized => "finalize",
        Standing::Open { .. } => {
            let steps = plan.map(|plan| plan.steps.as_slice()).unwrap_or_default();
            let at = steps.iter().find(|step| step.status != StepStatus::Done).or(steps.last());
            at.and_then(|step| known(step.name.split('.').next().unwrap_or_default())).unwrap_or("preflight")
        }
    }
}

pub(super) fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    let (id, plans, records, waiting) = match site.read()? {
        Some(journal) => {
            let waiting = waiting(&journal, site.writer());
            (site::known_id(&journal)?, journal.plans()?, journal.records(0)?, waiting)
        }
        None => (None, Vec::new(), Vec::new(), None),
    };
    let view = View::of(site, id, &plans, &records, waiting);
    if out.is_json() {
        out.json(&view);
        return Ok(Exit::Done);
    }
    if plans.is_empty() {
        let gates = view.approvals.iter().map(|state| format!("gate:    {}\n", approve::render(state)));
        let gates: String = gates.collect();
        out.data(&format!("nothing was begun here\ntraffic: {}\n{gates}next:    {}", view.traffic, view.next));
    } else {
        out.data(&view.render(out.data_paint(), Timestamp::now()));
    }
    Ok(Exit::Done)
}
