//! Whether the source may give up slots while the copy is being upgraded.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, warning},
    finding::size,
    source::Source,
};

pub(super) const ABOUT: About = About {
    check: "slot_retention",
    topic: Topic::Replication,
    reads: "`max_slot_wal_keep_size` and, from 18, `idle_replication_slot_timeout`",
    why: "The slots stand still while the copy is taken and upgraded. Past either limit the source invalidates them, \
          and all of it has to be done again. Both settings take effect with a reload; the budget for retained WAL \
          guards the disk instead.",
    findings: &[
        warning("slot_retention.limited", Applied::ByPgleap),
        warning("slot_retention.times_out", Applied::ByPgleap),
    ],
};

pub(super) async fn check(source: &Source) -> Answer {
    let mut findings = Vec::new();
    // in MiB
    if let Some(limit) = source.number("max_slot_wal_keep_size").and_then(|mb| u64::try_from(mb).ok()) {
        let message =
            format!("`max_slot_wal_keep_size` is {}: slots that are further behind are lost", size(limit << 20));
        findings.push(
            Finding::warning("slot_retention.limited", message)
                .because("the slots stand still while the copy is taken and upgraded; a lost slot means starting over")
                .number("limit_bytes", limit << 20)
                .fixes([Fix::reload("max_slot_wal_keep_size", -1)]),
        );
    }
    // in seconds
    if let Some(seconds) = source.number("idle_replication_slot_timeout").filter(|seconds| *seconds > 0) {
        let message =
            format!("`idle_replication_slot_timeout` is {seconds} s: slots that nobody reads for so long are lost");
        findings.push(
            Finding::warning("slot_retention.times_out", message)
                .because("nobody reads the slots while the copy is taken and upgraded")
                .number("limit_s", seconds)
                .fixes([Fix::reload("idle_replication_slot_timeout", 0)]),
        );
    }
    Ok(findings)
}
