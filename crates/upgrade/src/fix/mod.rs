//! `check --fix`: remedies of findings, applied to the source as plans of the journal, and taken back.
//!
//! A plan for each finding: what the source has is written down first, then changed. What pgleap found and changed it puts
//! back; what somebody else changed since is left to them, with a word. Survives being killed at any instruction. Does not
//! restart a server: a setting that takes a restart is written, and takes effect with the operator's.

mod apply;
mod identity;
mod save_present;
pub(crate) mod setting;
mod trigger;

use std::collections::HashMap;

use pgleap_saga::{Outcome, Plan, PlanState, StepError};
use serde::{Deserialize, Serialize};

pub use apply::Apply;
pub use save_present::{Present, SavePresent};

use crate::{
    pg::Session,
    preflight::Fix,
    world::{Cx, World},
};

/// The kind of these plans in the journal.
pub const KIND: &str = "fix";

/// A finding and the changes that remove its cause: what such a plan is rebuilt from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// The finding's id.
    pub finding: String,
    /// In the order in which they are applied.
    pub fixes: Vec<Fix>,
}

/// Returns the plan that applies a remedy.
pub fn plan(id: String, remedy: &Remedy) -> Plan<World> {
    let params = serde_json::to_value(remedy).unwrap_or_default();
    let (finding, fixes) = (remedy.finding.clone(), remedy.fixes.clone());
    Plan::new(id, KIND, params).then(SavePresent { fixes: fixes.clone() }).then(Apply { finding, fixes })
}

/// Returns the remedy of such a plan.
pub fn remedy(plan: &PlanState) -> Option<Remedy> {
    (plan.kind == KIND).then(|| serde_json::from_value(plan.params.clone()).ok()).flatten()
}

/// Returns the plans whose effect is on the source now, oldest first: done, and not taken back.
pub fn applied(plans: &[PlanState]) -> Vec<&PlanState> {
    plans.iter().filter(|plan| plan.kind == KIND && plan.outcome == Some(Outcome::Done)).collect()
}

/// Returns the plan that was interrupted, either way.
pub fn open(plans: &[PlanState]) -> Option<&PlanState> {
    plans.iter().find(|plan| plan.kind == KIND && plan.outcome.is_none())
}

/// How long a change waits for a table: meanwhile everybody else waits behind it, so it is short, and tried again.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '300ms'";

/// Sessions of the source, one for each database that is changed.
struct Sessions<'a> {
    world: &'a World,
    open: HashMap<String, Session>,
}

impl<'a> Sessions<'a> {
    fn new(cx: &Cx<'a>) -> Self {
        Self { world: cx.world, open: HashMap::new() }
    }

    /// Returns the session of a database, or that of `source.dsn` for what the whole cluster has.
    async fn of(&mut self, fix: &Fix) -> Result<&Session, StepError> {
        let name = fix.database().unwrap_or(&self.world.config.source.database).to_owned();
        if !self.open.contains_key(&name) {
            let session = self.world.source.open(&name, crate::pg::session::STATEMENT_BUDGET).await?;
            session.batch(LOCK_TIMEOUT).await?;
            self.open.insert(name.clone(), session);
        }
        Ok(&self.open[&name])
    }
}
