//! The phases that pgleap's steps and the bare commands are compared by.

/// In order; the last two have no counterpart among the bare commands.
pub const ALL: [&str; 7] = ["slot", "base backup", "recovery", "pg_upgrade", "catch-up", "analyze", "verification"];

/// Returns the phase of a step.
pub fn of(step: &str) -> &'static str {
    match step {
        "provision.claim_directories"
        | "provision.prepare_databases"
        | "replicate.create_publications"
        | "replicate.create_slots" => "slot",
        "provision.base_backup" => "base backup",
        "provision.fix_boundary" | "provision.recover_copy" | "provision.prove_copy" | "provision.quarantine_copy" => {
            "recovery"
        }
        "provision.init_target"
        | "provision.upgrade_copy"
        | "provision.start_target"
        | "provision.prove_target"
        | "provision.update_extensions"
        | "provision.rebuild_indexes" => "pg_upgrade",
        "replicate.create_subscriptions"
        | "replicate.advance_origins"
        | "replicate.enable_subscriptions"
        | "replicate.catch_up" => "catch-up",
        "replicate.analyze" => "analyze",
        "verify.compare_tables" => "verification",
        other => panic!("step `{other}` belongs to no phase"),
    }
}
