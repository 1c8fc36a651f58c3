//! Everything that a plan says: the form of `pgleap plan --format json`.
//!
//! Fields are added, never renamed; `schema` is raised when one changes its meaning.

use std::time::Duration;

use jiff::Timestamp;
use pgleap_saga::{PlanState, StepDescription};
use pgleap_upgrade::{
    Config,
    approvals::Gate,
    chain::upgrade_plan,
    config::RouteKind,
    finalize,
    pg::Side,
    plan::{self, Basis, Choice, Decision, Facts, Grounds, Measured, Method, Prices, Rates, SavedFinding, settings},
    rehearse::{Prediction, Rehearsal},
    route::Capabilities,
    switchover,
};
use serde::Serialize;

use crate::{display::text, out::SCHEMA};

/// A part of a plan: what a command does.
#[derive(Debug, Serialize)]
pub struct Part {
    /// The command.
    pub command: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
    /// The way back while it is under way, and after it.
    pub back: &'static str,
    /// Its steps.
    pub steps: Vec<StepDescription>,
}

/// A setting to change on the source, with how to.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// What.
    #[serde(flatten)]
    pub change: settings::Change,
    /// The statement, or what the parameter group needs.
    pub how: String,
}

/// An approval that is asked for.
#[derive(Debug, Serialize)]
pub struct Approval {
    /// Before what.
    pub before: Gate,
    /// By how many people.
    pub count: usize,
    /// By whom; anybody if it is empty.
    pub by: Vec<String>,
}

/// What leads clients to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// PgBouncers.
    Poolers,
    /// The operator's own program.
    Program,
    /// Nothing: clients know both servers.
    Nothing,
}

/// Everything that a plan says.
#[derive(Debug, Serialize)]
pub struct Dossier {
    /// The version of this form.
    pub schema: u32,
    /// When it was made.
    pub made_at: Timestamp,
    /// `host:port` of the source.
    pub source: String,
    /// `host:port` of the target.
    pub target: String,
    /// The major version that is wanted.
    pub target_version: u16,
    /// What the route can do, and what clients see because of it.
    pub route: Capabilities,
    /// What the cluster is; none if only the steps were asked for, or it could not be asked.
    pub facts: Option<Facts>,
    /// What is in the way.
    pub findings: Vec<SavedFinding>,
    /// Which method, and why.
    pub decision: Option<Decision>,
    /// What has to be changed on the source.
    pub settings: Vec<Setting>,
    /// The longest that clients may wait at the switchover.
    pub write_pause_ms: u64,
    /// For how long clients see of it what they see: foretold where it was rehearsed, and the write budget as the bound.
    pub lasts: String,
    /// What must hold for a switchover to begin.
    pub gates: Vec<String>,
    /// Whose word is needed.
    pub approvals: Vec<Approval>,
    /// What the newest rehearsal foretells, if there was one.
    pub foretold: Option<String>,
    /// How long the target follows and the way back is kept, in seconds.
    pub waits_s: [u64; 2],
    /// What each command would do, step by step.
    pub plans: Vec<Part>,
    /// What was done already.
    #[serde(skip)]
    pub journal: Vec<PlanState>,
    /// What leads clients.
    #[serde(skip)]
    pub lead: Lead,
}

/// What was read for it.
pub struct Inputs<'a> {
    /// What the operator wants.
    pub config: &'a Config,
    /// What the cluster is, and what is in the way.
    pub facts: Option<(Facts, Vec<SavedFinding>)>,
    /// What earlier upgrades took.
    pub history: &'a [Measured],
    /// What things cost.
    pub prices: &'a Prices,
    /// The newest rehearsal, and what it foretells in a line.
    pub rehearsal: Option<(Rehearsal, String)>,
    /// The method that was asked for.
    pub pinned: Option<Method>,
    /// What was done already.
    pub journal: Vec<PlanState>,
}

impl Dossier {
    /// Makes a plan. Asks nobody.
    pub fn of(inputs: Inputs<'_>) -> Self {
        let Inputs { config, facts, history, prices, rehearsal, pinned, journal } = inputs;
        let rates = Rates::default().sharpened(history);
        let (facts, findings) = facts.map_or((None, Vec::new()), |(facts, findings)| (Some(facts), findings));
        let decision = facts.as_ref().map(|facts| {
            plan::decide(Grounds {
                basis: basis(config, facts, &rates),
                findings: &findings,
                prices,
                write_pause_s: config.budgets.write_pause.as_secs_f64(),
                rehearsed: rehearsal.as_ref().map(|(r, _)| (r.predicted.p50_ms, r.predicted.p99_ms)),
                pinned: pinned.or(config.plan.method),
            })
        });
        let changes = facts.as_ref().map(|facts| {
            let setting = |change: settings::Change| Setting { how: change.how(facts.engine), change };
            settings::changes(facts).into_iter().map(setting).collect()
        });
        let approvals = &config.approvals;
        let approval = |gate: &Gate| Approval { before: *gate, count: approvals.count, by: approvals.by.clone() };
        Self {
            schema: SCHEMA,
            made_at: Timestamp::now(),
            source: format!("{}:{}", config.source.host, config.source.port),
            target: format!("{}:{}", config.target.host, config.target.port),
            target_version: config.target.version,
            route: config.route.capabilities(),
            decision,
            settings: changes.unwrap_or_default(),
            write_pause_ms: u64::try_from(config.budgets.write_pause.as_millis()).unwrap_or(u64::MAX),
            lasts: lasts(rehearsal.as_ref().map(|(r, _)| r), config.budgets.write_pause),
            gates: switchover::check_gates::gates(config),
            approvals: approvals.before.iter().map(approval).collect(),
            foretold: rehearsal.map(|(_, line)| line),
            waits_s: [config.plan.follow.as_secs(), config.plan.soak.as_secs()],
            plans: parts(config),
            facts,
            findings,
            journal,
            lead: match config.route.kind {
                RouteKind::PgBouncer { .. } => Lead::Poolers,
                RouteKind::Command(_) => Lead::Program,
                RouteKind::MultiHost => Lead::Nothing,
            },
        }
    }
}

impl Dossier {
    /// Returns the findings of one severity that are about a method, or all where there is none.
    pub fn about(&self, severity: &'static str, choice: Option<&Choice>) -> impl Iterator<Item = &SavedFinding> {
        let of = choice.zip(self.facts.as_ref()).map(|(choice, facts)| (choice.method, facts.engine));
        self.findings.iter().filter(move |finding| {
            finding.severity == severity && of.is_none_or(|(method, engine)| plan::concerns(finding, method, engine))
        })
    }
}

/// Returns for how long clients see what they see of a switchover: the write budget is the bound, a rehearsal the prediction.
fn lasts(rehearsal: Option<&Rehearsal>, budget: Duration) -> String {
    let budget = text::millis(budget.as_secs_f64() * 1000.0);
    match rehearsal.map(|rehearsal| rehearsal.predicted) {
        Some(Prediction { p50_ms, p99_ms, .. }) => {
            let (p50, p99) = (text::millis(p50_ms), text::millis(p99_ms));
            format!("about {p50} (p50) to {p99} (p99), at most {budget}: the write budget")
        }
        None => format!("at most {budget}: the write budget, as nothing was rehearsed"),
    }
}

/// Returns what the stages of a method are computed from.
pub fn basis<'a>(config: &'a Config, facts: &'a Facts, rates: &'a Rates) -> Basis<'a> {
    Basis {
        facts,
        wishes: &config.plan,
        rates,
        transfer: config.provider.transfer,
        has_standby: config.provider.standby.is_some(),
        verify_jobs: config.budgets.verify_jobs,
    }
}

fn parts(config: &Config) -> Vec<Part> {
    vec![
        Part {
            command: "pgleap run",
            what: "make the target and bring it in sync; the source serves throughout",
            back: "`pgleap unwind`, at any time until the switchover: the source is left as it was found",
            steps: upgrade_plan("upgrade-1".into(), config).describe(),
        },
        Part {
            command: "pgleap switchover",
            what: "move writes to the target; `pgleap rollback` is the same with the sides exchanged",
            back: "before the point of no return by itself, clients go on at the source; after it `pgleap rollback`, with every write",
            steps: switchover::plan("switchover-1".into(), Side::Source, config).describe(),
        },
        Part {
            command: "pgleap finalize",
            what: "give up the way back, and remove everything of pgleap's",
            back: "none: the old cluster no longer follows",
            steps: finalize::plan("finalize-1".into()).describe(),
        },
    ]
}
