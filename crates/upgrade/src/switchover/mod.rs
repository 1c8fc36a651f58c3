//! The planned move of writes, one piece of code for both directions: from the side that serves to the side that follows.
//!
//! Everything that can be done before the pause is done before it. Any failure before the point of no return lets clients
//! go on where they were, as if nothing had happened; any failure after it is finished forward.

pub mod carry_over;
pub mod check_gates;
pub mod confirm_reverse;
pub mod create_audit_slots;
pub mod create_reverse;
pub mod drain;
pub mod fence;
pub mod fence_lease;
pub mod gather_poolers;
pub mod hot;
pub mod let_go;
pub mod move_clients;
pub mod pause_pools;
pub mod prove_equal;
pub mod rehearse_repoint;
pub mod retire_forward;
pub mod save_access;
pub mod sequences;
pub mod strays;
pub mod turn_replication;
pub mod warm_up;

use pgleap_saga::Plan;

pub use hot::Hot;

use crate::{config::Config, pg::Side, readers, world::World};

/// The name of the section in which clients wait.
pub const WRITE_PAUSE: &str = "write pause";

/// Returns the plan that moves writes away from `from`.
pub fn plan(id: String, from: Side, config: &Config) -> Plan<World> {
    let plan = Plan::new(id, "switchover", serde_json::json!({ "from": from }))
        .then(check_gates::CheckGates { from })
        .then(save_access::SaveAccess { from })
        .then(rehearse_repoint::RehearseRepoint { from });
    let plan = if readers::go_first(config, from) {
        plan.then(readers::Admit).then(readers::MovePools).then(readers::WatchWindow { window: config.readers.window })
    } else {
        plan
    };
    plan.then(create_reverse::CreateReverseSlots { from })
        .then(create_reverse::CreateReverseSubscriptions { from })
        .then(create_audit_slots::CreateAuditSlots { from })
        .then(warm_up::WarmUp { from })
        .section(WRITE_PAUSE, config.budgets.write_pause, |pause| {
            pause
                .then(pause_pools::PausePools { from })
                .then(fence::Fence { from })
                .then(carry_over::CarryOver { from })
                .then(move_clients::MoveClients { from })
        })
        .then(turn_replication::TurnReplication { from })
        .then(confirm_reverse::ConfirmReverse { from })
        .then(prove_equal::ProveEqual { from })
        .then(retire_forward::RetireForward { from })
        .then(gather_poolers::GatherPoolers { from })
}
