//! The planned move of writes, one piece of code for both directions: from the side that serves to the side that follows.
//!
//! Everything that can be done before the pause is done before it. Any failure before the point of no return lets clients
//! go on where they were, as if nothing had happened; any failure after it is finished forward.

pub mod carry_over;
pub mod check_gates;
pub mod confirm_gates;
pub mod confirm_reverse;
pub mod create_audit_slots;
pub mod create_reverse;
pub mod drain;
pub mod fence;
pub mod fence_lease;
pub mod gather_poolers;
pub mod globals;
pub mod hot;
pub mod let_go;
pub mod move_clients;
pub mod patience;
pub mod pause_pools;
pub mod postpone;
pub mod prove_equal;
pub mod rehearse_repoint;
pub mod retire_forward;
pub mod save_access;
pub mod sequences;
pub mod signpost;
pub mod strays;
pub mod turn_replication;
pub mod warm_cache;
pub mod warm_up;

use std::path::PathBuf;

use pgleap_saga::{Plan, PlanState, Step};
use serde::{Deserialize, Serialize};

pub use hot::Hot;

use crate::{
    config::{Config, RouteKind},
    pg::Side,
    readers::{self, Ways},
    world::World,
};

/// The name of the section in which clients wait.
pub const WRITE_PAUSE: &str = "write pause";

/// One attempt at a switchover: what the journal keeps to build its plan again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The side that serves.
    pub from: Side,
    /// As long as this file is there, the pause does not begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postpone_file: Option<PathBuf>,
    /// Its number, from 1.
    #[serde(default = "one")]
    pub attempt: u32,
    /// How many there may be.
    #[serde(default = "one")]
    pub attempts: u32,
    /// Where clients that only read are led, and when: what the configuration said when it began. None before it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ways: Option<Ways>,
}

fn one() -> u32 {
    1
}

impl Attempt {
    /// Describes the only attempt, which nothing postpones.
    pub fn only(from: Side) -> Self {
        Self { from, postpone_file: None, attempt: 1, attempts: 1, ways: None }
    }
}

/// Whether clients may have felt a switchover: its pause began, or the side that some of them try first was closed for it.
pub fn is_felt(plan: &PlanState) -> bool {
    let closed =
        |step: &pgleap_saga::StepState| step.name == signpost::TakeDownSignpost::NAME.0 && step.may_have_effect();
    !plan.sections.is_empty() || plan.steps.iter().any(closed)
}

/// Returns the plan that moves writes away from `from`.
pub fn plan(id: String, from: Side, config: &Config) -> Plan<World> {
    plan_of(id, &Attempt::only(from), config)
}

/// Returns the plan of one attempt. What comes after the cache is warm and the file is gone takes a moment only, so that
/// nothing is stale in the pause.
pub fn plan_of(id: String, attempt: &Attempt, config: &Config) -> Plan<World> {
    let from = attempt.from;
    let ways = attempt.ways.clone().unwrap_or_else(|| (&config.readers).into());
    let go_first = ways.readers_go_first(from);
    let attempt = Attempt { ways: Some(ways.clone()), ..attempt.clone() };
    // clients find their way themselves: there is nothing to be led
    let alone = matches!(config.route.kind, RouteKind::MultiHost);
    let clients = config.route.capabilities().clients;
    let plan = Plan::new(id, "switchover", serde_json::json!(attempt))
        .then(readers::SettleWays { from, ways })
        .then(check_gates::CheckGates { from })
        .then(save_access::SaveAccess { from })
        .then_if(!alone, rehearse_repoint::RehearseRepoint { from })
        .then(create_reverse::CreateReverseSlots { from })
        .then(create_reverse::CreateReverseSubscriptions { from })
        .then(create_audit_slots::CreateAuditSlots { from });
    // after what may have to wait, and what takes the target to be taken back: readers go back first, and without it
    let plan = if go_first {
        plan.then(readers::Admit).then(readers::MovePools).then(readers::WatchWindow { window: config.readers.window })
    } else {
        plan
    };
    let plan = plan.then(warm_cache::WarmCache { from });
    let plan = match &attempt.postpone_file {
        Some(file) => plan.then(postpone::Postpone { from, file: file.clone() }),
        None => plan,
    };
    plan.then(confirm_gates::ConfirmGates { from })
        .then(warm_up::WarmUp { from })
        .then_if(alone, signpost::TakeDownSignpost { from })
        .section(WRITE_PAUSE, config.budgets.write_pause, |pause| {
            pause
                .then(pause_pools::PausePools { from, clients })
                .then(fence::Fence { from, clients })
                .then(carry_over::CarryOver { from })
                .then(move_clients::MoveClients { from, alone })
        })
        .then_if(alone, signpost::PutUpSignpost { from })
        .then(turn_replication::TurnReplication { from })
        .then(confirm_reverse::ConfirmReverse { from })
        .then(prove_equal::ProveEqual { from })
        .then(retire_forward::RetireForward { from })
        .then_if(!alone, gather_poolers::GatherPoolers { from })
}
