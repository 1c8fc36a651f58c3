//! Whether the source's disk can hold the WAL that the slots keep.

use std::time::Duration;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    disk_space::{free_bytes, taken_by_copies},
    finding::size,
    source::Source,
};
use crate::{
    plan::{Rate, Wal, wal_averages},
    world::World,
};

/// Both values belong to one moment; the difference of two readings is what was written between them.
const READING: &str = "
    SELECT (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8,
           extract(epoch FROM pg_catalog.clock_timestamp())::float8";

/// Long enough for a rate, short enough to wait for.
const BETWEEN: Duration = Duration::from_secs(1);

pub(super) const ABOUT: About = About {
    check: "retained_wal",
    topic: Topic::Replication,
    reads: "the WAL position twice, a second apart, what was written since the last checkpoint and since `pg_stat_wal` began to \
            count, and the free space of the source's `pg_wal`, less what the copy takes of the same file system",
    why: "From the slots' creation until the target has caught up, all WAL stays on the source. A full disk there is \
          an outage of the cluster that serves, so the budget for retained WAL must be below what is free. The highest of the \
          measured rates counts: a second may meet a lull.",
    findings: &[
        warning("retained_wal.exceeds_disk", Applied::ByHand("budgets are in `pgleap.toml`.")),
        warning("retained_wal.budget_spent_early", Applied::ByHand("budgets are in `pgleap.toml`.")),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    // a standby writes none, and the files of one on another host cannot be looked at: both have findings of their own
    let Some(data_dir) = source.data_dir.as_ref().filter(|_| !source.in_recovery) else { return Ok(Vec::new()) };
    let pg_wal = data_dir.join("pg_wal");
    let Ok(free) = free_bytes(&pg_wal) else { return Ok(Vec::new()) };
    let copies =
        if world.config.provider.standby.is_some() { 0 } else { taken_by_copies(world, source, &pg_wal).await? };
    let first = source.session.query_one(READING, &[]).await?;
    tokio::time::sleep(BETWEEN).await;
    let second = source.session.query_one(READING, &[]).await?;
    let since = |column: usize| second.get::<_, f64>(column) - first.get::<_, f64>(column);
    let over_s = since(1).max(0.001);
    let averages = wal_averages(&source.session, source.version_num).await;
    let wal = Wal { window: Some(Rate { bytes_per_s: since(0) / over_s, over_s }), ..averages };
    let Some((rate, over)) = wal.highest() else { return Ok(Vec::new()) };
    let budgets = &world.config.budgets;
    let finding = too_much(rate, over, &Room { free, copies }, budgets.retained_wal_bytes, budgets.catch_up);
    let with_numbers = |finding: Finding| {
        let finding = finding.number("wal_bytes_per_s", rate).number("free_bytes", free);
        let finding = finding.number("copies_bytes", copies);
        finding.number("budget_bytes", budgets.retained_wal_bytes)
    };
    Ok(finding.map(with_numbers).into_iter().collect())
}

/// The disk of `pg_wal`.
struct Room {
    free: u64,
    /// What copies of the cluster will take of it.
    copies: u64,
}

fn too_much(rate: f64, over: &str, room: &Room, budget: u64, planned: Duration) -> Option<Finding> {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    let (per_second, hours_until) = (size(rate.max(0.0) as u64), |bytes: u64| bytes as f64 / rate.max(1.0) / 3600.0);
    let Room { free, copies } = *room;
    let left = free.saturating_sub(copies);
    let half = left / 2;
    if budget > left {
        let beside = if copies == 0 { String::new() } else { format!(", of which the copy takes {}", size(copies)) };
        let message = format!(
            "the slots may keep {} of WAL, the source's disk has {} free{beside}: at {per_second}/s ({over}) it is full in {:.0} h",
            size(budget),
            size(free),
            hours_until(left)
        );
        return Some(
            Finding::warning("retained_wal.exceeds_disk", message)
                .because("a full disk stops the source; a budget below what is left stops the upgrade instead")
                .fix(format!("retained_wal = \"{}MiB\"  # under [budgets]: half of what is left", half >> 20)),
        );
    }
    let planned_hours = planned.as_secs_f64() / 3600.0;
    (hours_until(budget) < planned_hours).then(|| {
        let message = format!(
            "at {per_second}/s ({over}) the budget of {} for retained WAL is spent in {:.1} h; catching up may take {:.1} h",
            size(budget),
            hours_until(budget),
            planned_hours
        );
        let finding = Finding::warning("retained_wal.budget_spent_early", message)
            .because("past the budget the upgrade stops; the source goes on");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate"
        )]
        let wanted = (rate.max(0.0) * planned.as_secs_f64()) as u64;
        // the source needs room beside it
        match wanted <= left / 4 * 3 {
            true => finding.fix(format!(
                "retained_wal = \"{}MiB\"  # under [budgets]: what is written meanwhile; {} are left on the disk",
                wanted.div_ceil(1 << 20),
                size(left)
            )),
            false => finding.fix(format!(
                "a larger disk for pg_wal: {} are written meanwhile, {} are left",
                size(wanted),
                size(left)
            )),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn alone(free: u64) -> Room {
        Room { free: free * GIB, copies: 0 }
    }

    #[test]
    fn what_the_copy_takes_of_the_same_disk_is_not_free_for_wal() {
        let beside =
            |copies: u64| too_much(0.0, "just now", &Room { free: 50 * GIB, copies: copies * GIB }, 20 * GIB, DAY);
        assert_eq!(beside(30), None);
        let finding = beside(31).unwrap();
        assert!(finding.message.contains("50.0 GiB free, of which the copy takes 31.0 GiB"), "{}", finding.message);
        assert!(finding.remedy.unwrap().contains("\"9728MiB\""), "half of what is left");
    }

    #[test]
    fn budget_that_does_not_last_is_never_proposed_lower() {
        #[expect(clippy::cast_precision_loss, reason = "exact")]
        let rate = GIB as f64 / 3600.0;
        let remedy = |free| too_much(rate, "just now", &alone(free), 20 * GIB, DAY).unwrap().remedy.unwrap();
        assert!(remedy(32).starts_with("retained_wal = \"24576MiB\""), "a day at 1 GiB an hour: {}", remedy(32));
        assert!(remedy(31).starts_with("a larger disk"), "{}", remedy(31));
    }

    #[test]
    fn budget_above_the_free_space_is_a_warning_with_its_numbers() {
        #[expect(clippy::cast_precision_loss, reason = "exact")]
        let finding = too_much(GIB as f64 / 3600.0, "just now", &alone(10), 100 * GIB, DAY).unwrap();
        assert_eq!(finding.id, "retained_wal.exceeds_disk");
        assert!(
            finding.message.contains("100.0 GiB") && finding.message.contains("full in 10 h"),
            "{}",
            finding.message
        );
        assert!(finding.remedy.unwrap().contains("\"5120MiB\""));
    }

    #[test]
    fn budget_that_lasts_as_long_as_planned_is_no_finding() {
        #[expect(clippy::cast_precision_loss, reason = "exact")]
        let rate = GIB as f64 / 3600.0;
        assert_eq!(too_much(rate, "just now", &alone(100), 30 * GIB, DAY), None);
        assert_eq!(
            too_much(rate, "just now", &alone(100), 20 * GIB, DAY).unwrap().id,
            "retained_wal.budget_spent_early"
        );
        assert_eq!(too_much(0.0, "just now", &alone(100), 20 * GIB, DAY), None, "an idle source");
    }
}
