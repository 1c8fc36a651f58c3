//! Lets the copy replay the source's log exactly up to the boundary, and makes it a cluster of its own.

use std::{path::Path, time::Duration};

use pgleap_local::StopMode;
use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{FixBoundary, PrepareDatabases, copy::Copy, fix_boundary::parse_lsn};
use crate::{
    pg::{Lsn, Session, Side, marker},
    world::{Cx, World, io_failure},
};

/// Recovers the copy to the boundary.
///
/// `recovery_target_inclusive` is off: a record that starts exactly at the boundary is left to the stream. With the
/// default (on) that transaction would be applied twice.
pub struct RecoverCopy;

/// The copy, once it stands at the boundary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The end of the last record that it replayed.
    pub replayed: Lsn,
    /// The first transaction id that the copy itself may hand out; from here on its ids mean nothing to the source.
    pub first_own_xid: u64,
}

/// Hours of log may have to be replayed.
const BUDGET: Duration = Duration::from_secs(24 * 3600);
const LOOK_EVERY: Duration = Duration::from_millis(50);

const AS_LARGE_AS_THE_SOURCES: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

const STATE: &str = "
    SELECT pg_catalog.pg_is_in_recovery(),
           coalesce(pg_catalog.pg_last_wal_replay_lsn()::text, '0/0'),
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0
                ELSE pg_snapshot_xmax(pg_current_snapshot())::text::bigint END";

/// Names a file in the copy that says up to which boundary it is being recovered.
fn note_of(copy: &Copy) -> std::path::PathBuf {
    copy.server.data_dir.join("pgleap.boundary")
}

impl RecoverCopy {
    async fn look(session: &Session) -> Result<(bool, Lsn, u64), StepError> {
        let row = session.query_one(STATE, &[]).await?;
        Ok((row.get(0), parse_lsn(row.get(1))?, u64::try_from(row.get::<_, i64>(2)).unwrap_or_default()))
    }

    async fn start(cx: &Cx<'_>, copy: &Copy, boundary: Lsn) -> Result<(), StepError> {
        let world = cx.world;
        let source = world.source.db(&world.config.source.database).await?;
        let mut settings = Vec::new();
        for name in AS_LARGE_AS_THE_SOURCES {
            let row = source.query_one("SELECT pg_catalog.current_setting($1)", &[&name]).await?;
            settings.push((name.to_owned(), row.get::<_, String>(0)));
        }
        let from =
            world.source.endpoint.conninfo(None, Some(&world.places().passfile()), &world.source.application_name);
        for (name, value) in [
            ("primary_conninfo", from.as_str()),
            ("primary_slot_name", ""),
            ("restore_command", ""),
            ("recovery_target_lsn", &boundary.to_string()),
            ("recovery_target_inclusive", "off"),
            ("recovery_target_action", "promote"),
            ("recovery_target_timeline", "current"),
            ("hot_standby", "on"),
            // asked often enough that the end of recovery is not waited for
            ("wal_retrieve_retry_interval", "200ms"),
        ] {
            settings.push((name.to_owned(), value.to_owned()));
        }
        let write = |path: &Path, text: &str| {
            world.account.write_file(path, text, 0o600).map_err(|e| io_failure("write", path, e))
        };
        write(&copy.server.data_dir.join("standby.signal"), "")?;
        write(&note_of(copy), &boundary.to_string())?;
        copy.start_recovery(world, settings).await
    }
}

impl Step<World> for RecoverCopy {
    type Output = Recovered;
    const NAME: StepName = StepName("provision.recover_copy");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "recover the copy exactly to the boundary, quarantined".to_owned()
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<Recovered>, StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        let boundary = cx.output::<FixBoundary>()?;
        let copy = Copy::of(cx.world, facts.major(), &facts.bootstrap_superuser)?;
        let noted = std::fs::read_to_string(note_of(&copy)).unwrap_or_default();
        if noted.trim() != boundary.lsn.to_string() {
            return Ok(Observed::Absent);
        }
        // promotion removes the signal file
        if copy.server.data_dir.join("standby.signal").exists() {
            return Ok(Observed::Partial(format!("the copy is on its way to {}", boundary.lsn)));
        }
        let session = copy.session(cx.world, &cx.world.config.source.database).await?;
        let (in_recovery, _, first_own_xid) = Self::look(&session).await?;
        if in_recovery {
            return Ok(Observed::Partial("the copy is being promoted".to_owned()));
        }
        let replayed = replayed_from_log(&copy).unwrap_or(boundary.lsn);
        Ok(Observed::Done(Recovered { replayed, first_own_xid }))
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Recovered, StepError> {
        let world = cx.world;
        let facts = cx.output::<PrepareDatabases>()?;
        let boundary = cx.output::<FixBoundary>()?.lsn;
        let copy = Copy::of(world, facts.major(), &facts.bootstrap_superuser)?;
        if copy.server.running().is_none() {
            Self::start(cx, &copy, boundary).await?;
        }
        let nudged = facts.databases.first().map_or(world.config.source.database.as_str(), |d| d.name.as_str());
        let (started, mut first) = (Instant::now(), None);
        loop {
            if let Some(session) = copy.session_if_up(&world.config.source.database).await? {
                let (in_recovery, replayed, first_own_xid) = Self::look(&session).await?;
                if !in_recovery {
                    let replayed = replayed_from_log(&copy).unwrap_or(replayed);
                    cx.note(format!("the copy stands at {replayed}; the boundary is {boundary}"));
                    return Ok(Recovered { replayed, first_own_xid });
                }
                let first = *first.get_or_insert((replayed, Instant::now()));
                cx.progress(replay_progress(first, replayed, boundary));
            }
            if started.elapsed() > BUDGET {
                return Err(StepError::blocked(
                    format!("the copy has not reached the boundary {boundary} within {} h", BUDGET.as_secs() / 3600),
                    "look at its log in the work directory, then `pgleap resume`",
                ));
            }
            // recovery stops at the first record at or past the boundary: on an idle source somebody must write one
            marker::write(&*world.source.db(nudged).await?, Side::Source).await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let Some(facts) = cx.try_output::<PrepareDatabases>()? else { return Ok(()) };
        let copy = Copy::of(cx.world, facts.major(), &facts.bootstrap_superuser)?;
        copy.stop(StopMode::Immediate).await?;
        // once promoted the files cannot go back: `base_backup` takes them anew when it runs again
        match std::fs::remove_file(note_of(&copy)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_failure("remove", &note_of(&copy), e)),
            _ => Ok(()),
        }
    }
}

/// Reads where replay ended from the server's log: after the promotion the functions tell of the new timeline.
fn replayed_from_log(copy: &Copy) -> Option<Lsn> {
    let lines = copy.server.log_tail(200);
    let last = lines.iter().rev().find_map(|line| line.split_once("redo done at ").map(|(_, rest)| rest.to_owned()))?;
    last.split_whitespace().next()?.parse().ok()
}

fn replay_progress((from, since): (Lsn, Instant), now: Lsn, to: Lsn) -> Progress {
    #[expect(clippy::cast_precision_loss, reason = "bytes for a progress display")]
    let as_f64 = |bytes: u64| bytes as f64;
    let rate = as_f64(now.bytes_since(from)) / since.elapsed().as_secs_f64().max(0.001);
    let left = as_f64(to.bytes_since(now)) / rate.max(1.0);
    Progress {
        text: format!("replaying the log up to the boundary {to}"),
        done: Some(now.bytes_since(from)),
        total: Some(to.bytes_since(from)),
        unit: "bytes",
        rate_per_s: Some(rate),
        eta_s: (rate > 1.0).then_some((left * 0.7, left * 1.5)),
        lag_bytes: Some(to.bytes_since(now)),
    }
}
