//! Who follows the source: standbys, other logical consumers, the archive. Nobody of them follows the target.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note, warning},
    finding::{counted, listed},
    source::Source,
};
use crate::{pg::PgError, world::World};

/// Slots of pgleap are named after the upgrade.
const SLOTS: &str = "
    SELECT slot_name::text, plugin::text, coalesce(database::text, ''), active FROM pg_catalog.pg_replication_slots
     WHERE NOT temporary AND slot_name NOT LIKE 'pgleap\\_%' ORDER BY slot_name";

/// A standby may stream without a slot.
const STANDBYS: &str = "
    SELECT r.application_name, coalesce(r.client_addr::text, 'socket'), coalesce(r.sync_state, 'async')
      FROM pg_catalog.pg_stat_replication AS r
     WHERE r.application_name NOT LIKE 'pgleap%'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS s WHERE s.active_pid = r.pid AND s.plugin IS NOT NULL)
       AND r.application_name NOT IN ('pg_basebackup', 'pg_receivewal')
     ORDER BY 1, 2";

pub(super) const ABOUT: About = About {
    check: "followers",
    topic: Topic::Replication,
    reads: "other slots, standbys, `synchronous_standby_names` and `archive_mode`",
    why: "A slot's position means nothing on the target, whose WAL is another: who reads changes there begins anew. Standbys and \
          the archive stay with the source, so the target serves without either until somebody gives it its own. And if the \
          source fails over to a standby while the upgrade is under way, its slots are lost, and all of it begins again.",
    findings: &[
        warning("follower.logical", Applied::ByHand("consumers are their owners'.")),
        warning("follower.standby", Applied::ByHand("standbys are the administrator's.")),
        warning("follower.synchronous", Applied::ByHand("how safe a commit must be is the operator's to say.")),
        note("follower.unused_slot", Applied::ByHand("whose slot it is has to be found first.")),
        warning("archive.not_carried", Applied::ByHand("where the target archives to is the operator's to say.")),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let slots = source.session.query(SLOTS, &[]).await?;
    let mut findings = Vec::new();
    let logical = slots.iter().filter(|row| row.get::<_, Option<&str>>(1).is_some());
    let logical: Vec<_> = logical
        .map(|row| format!("{} in {} ({})", row.get::<_, &str>(0), row.get::<_, &str>(2), row.get::<_, &str>(1)))
        .collect();
    if !logical.is_empty() {
        let message =
            format!("others read changes by {}: {}", counted(logical.len(), "logical slot"), listed(&logical));
        findings.push(
            Finding::warning("follower.logical", message)
                .because(
                    "the target has no such slot, and their positions mean nothing there: each consumer begins anew",
                )
                .objects(logical),
        );
    }
    let idle = slots.iter().filter(|row| row.get::<_, Option<&str>>(1).is_none() && !row.get::<_, bool>(3));
    let idle: Vec<String> = idle.map(|row| row.get(0)).collect();
    if !idle.is_empty() {
        let message = format!("{} of standbys that are not connected: {}", counted(idle.len(), "slot"), listed(&idle));
        findings.push(
            Finding::note("follower.unused_slot", message)
                .because("it keeps WAL on the source beside the upgrade's own")
                .objects(idle),
        );
    }
    let names = streaming(source).await?;
    if !names.is_empty() {
        let message = format!("{} follow the source: {}", counted(names.len(), "standby"), listed(&names));
        findings.push(
            Finding::warning("follower.standby", message.replace("1 standby follow ", "1 standby follows "))
                .because(
                    "nobody follows the target until it has standbys of its own; and if the source fails over meanwhile, the \
                     upgrade's slots are lost and it begins again",
                )
                .objects(names),
        );
    }
    findings.extend(settings(world, source));
    Ok(findings)
}

async fn streaming(source: &Source) -> Result<Vec<String>, PgError> {
    let rows = source.session.query(STANDBYS, &[]).await?;
    let named = |row: &tokio_postgres::Row| {
        format!("{} at {} ({})", row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(2))
    };
    Ok(rows.iter().map(named).collect())
}

/// Returns the source's physical standbys: those that stream, and the slots of those that are away.
///
/// # Errors
/// [`PgError`].
pub(super) async fn standbys(source: &Source) -> Result<Vec<String>, PgError> {
    let mut names = streaming(source).await?;
    let slots = source.session.query(SLOTS, &[]).await?;
    let away = slots.iter().filter(|row| row.get::<_, Option<&str>>(1).is_none() && !row.get::<_, bool>(3));
    names.extend(away.map(|row| format!("slot {}", row.get::<_, &str>(0))));
    Ok(names)
}

/// What is left out of the target's settings, and somebody relies on.
fn settings(world: &World, source: &Source) -> Vec<Finding> {
    let given = |name: &str| world.config.target.settings.iter().any(|(given, _)| given == name);
    let mut findings = Vec::new();
    let names = source.setting("synchronous_standby_names").unwrap_or_default();
    if !names.is_empty() && !given("synchronous_standby_names") {
        let message = format!(
            "commits of the source wait for `synchronous_standby_names = {names}`, those of the target will not"
        );
        findings.push(
            Finding::warning("follower.synchronous", message)
                .because("the target begins without standbys, and its commits would wait for ever"),
        );
    }
    let mode = source.setting("archive_mode").unwrap_or("off");
    if mode != "off" && !given("archive_command") && !given("archive_library") {
        findings.push(
            Finding::warning("archive.not_carried", format!("the source archives its WAL (`archive_mode = {mode}`), the target will not"))
                .because("two clusters must not archive to one place; a cluster that serves without a backup is one disk from a loss")
                .fix("settings = { archive_mode = \"on\", archive_command = \"…\" }  # under [target]: to a place of its own"),
        );
    }
    findings
}
