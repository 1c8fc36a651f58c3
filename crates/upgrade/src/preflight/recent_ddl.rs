//! DDL of late: who makes it must stop while the upgrade is under way.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    ddl::Changed,
    finding::{counted, listed},
    source::Entered,
};
use crate::pg::{PgError, Session};

/// The last checkpoint names the next id of its time.
const CHECKPOINT: &str = "
    SELECT ((pg_catalog.split_part(next_xid, ':', 2)::bigint - 1) % 4294967296)::text AS before,
           pg_catalog.to_char(checkpoint_time, 'YYYY-MM-DD HH24:MI:SS'), 'a checkpoint'
      FROM pg_catalog.pg_control_checkpoint() WHERE checkpoint_time > $1::text::timestamptz";

/// Autovacuum writes a table's statistics in a transaction of its own, and says when; of a table that databases share, in
/// whichever of them it was.
const AUTOANALYZE: &str = "
    WITH analyzed AS (
        SELECT oid, pg_catalog.pg_stat_get_last_autoanalyze_time(oid) AS time,
               pg_catalog.pg_stat_get_last_analyze_time(oid) AS by_hand
          FROM pg_catalog.pg_class WHERE relkind IN ('r', 'm') AND NOT relisshared
    ), oldest AS (
        SELECT oid, time FROM analyzed
         WHERE time > $1::text::timestamptz AND (by_hand IS NULL OR by_hand < time) ORDER BY time LIMIT 20
    )
    SELECT s.xid, pg_catalog.to_char(o.time, 'YYYY-MM-DD HH24:MI:SS'), 'an autoanalyze'
      FROM oldest AS o CROSS JOIN LATERAL (
        SELECT xmin::text AS xid FROM pg_catalog.pg_statistic
         WHERE starelid = o.oid AND pg_catalog.age(xmin) >= 0 ORDER BY pg_catalog.age(xmin) LIMIT 1
      ) AS s ORDER BY o.time LIMIT 1";

/// Ids ever further back, each a twentieth more than the one before.
const COMMIT_TIMESTAMPS: &str = "
    WITH ids AS (
        SELECT DISTINCT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
                        - pg_catalog.floor(pg_catalog.power(1.05, n))::bigint AS id
          FROM pg_catalog.generate_series(0, 439) AS n
    ), commits AS (
        SELECT ((id - 1) % 4294967296)::text AS before, pg_catalog.pg_xact_commit_timestamp((id % 4294967296)::text::xid) AS time
          FROM ids WHERE id > 3 AND id % 4294967296 > 3
    )
    SELECT before, pg_catalog.to_char(time, 'YYYY-MM-DD HH24:MI:SS'), 'a commit' FROM commits
     WHERE time > $1::text::timestamptz ORDER BY time LIMIT 1";

const BEGINNING: &str = "
    SELECT (now() - interval '1 day')::text, pg_catalog.current_setting('track_commit_timestamp') = 'on',
           pg_catalog.has_table_privilege('pg_catalog.pg_statistic', 'SELECT')";

const AGE: &str = "SELECT pg_catalog.age($1::text::xid)";

const TABLES: &str = "
    SELECT count(*) FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND oid >= 16384";

pub(super) const ABOUT: About = About {
    check: "recent_ddl",
    topic: Topic::Activity,
    reads: "the transactions that last wrote catalog rows, against the oldest of the last day whose time is known: by the last \
            checkpoint, by what autovacuum analyzed, or by `track_commit_timestamp`",
    why: "DDL is not replicated: from the slots' creation until `pgleap finalize` a new column or table on one side stops \
          replication or is lost on the other. Who made some lately, a deployment or a job, is likely to make more. What was \
          dropped is not seen here, and a database whose tables are all new says nothing of habits.",
    findings: &[note("ddl.recent", Applied::ByHand("deployments are their owners'."))],
};

/// A transaction whose time is known.
struct Mark {
    /// What is newer has above it.
    id: String,
    time: String,
    by: String,
}

/// Returns the oldest transaction of the last day whose time is known; the last checkpoint's, if that is older.
async fn mark(session: &Session) -> Result<Option<Mark>, PgError> {
    let row = session.query_one(BEGINNING, &[]).await?;
    let (beginning, timestamps, statistics): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let mut oldest: Option<(i32, Mark)> = None;
    let ways = [(true, CHECKPOINT), (statistics, AUTOANALYZE), (timestamps, COMMIT_TIMESTAMPS)];
    for (_, sql) in ways.into_iter().filter(|(possible, _)| *possible) {
        let Some(mark) = read(session, sql, &beginning).await? else { continue };
        let age = session.query_one(AGE, &[&mark.id]).await?.get(0);
        // by its id: the time of a checkpoint is that of its whole second
        if oldest.as_ref().is_none_or(|(oldest, _)| age > *oldest) {
            oldest = Some((age, mark));
        }
    }
    match oldest {
        Some((_, mark)) => Ok(Some(mark)),
        None => read(session, CHECKPOINT, "-infinity").await,
    }
}

async fn read(session: &Session, sql: &str, beginning: &str) -> Result<Option<Mark>, PgError> {
    let row = session.query_opt(sql, &[&beginning]).await?;
    Ok(row.map(|row| Mark { id: row.get(0), time: row.get(1), by: row.get(2) }))
}

pub(super) async fn check(database: &Entered) -> Answer {
    let session = &database.session;
    let Some(mark) = mark(session).await? else { return Ok(Vec::new()) };
    let Changed { made, altered, others } = Changed::after(session, &mark.id).await?;
    let tables: i64 = session.query_one(TABLES, &[]).await?.get(0);
    let all_new = i64::try_from(made.len()).is_ok_and(|made| made == tables);
    if all_new || made.len() + altered.len() + others.len() == 0 {
        return Ok(Vec::new());
    }
    let kinds =
        [(&made, "table", "made"), (&altered, "table", "altered"), (&others, "other object", "made or altered")];
    let kinds = kinds.into_iter().filter(|(names, ..)| !names.is_empty());
    let kinds: Vec<_> =
        kinds.map(|(names, noun, verb)| format!("{} {verb} ({})", counted(names.len(), noun), listed(names))).collect();
    let message = format!(
        "DDL in database `{}` since {}, by the time of {}: {}",
        database.name,
        mark.time,
        mark.by,
        kinds.join(", ")
    );
    Ok(vec![
        Finding::note("ddl.recent", message)
            .because("DDL does not reach the target: who makes it waits from `pgleap run` to `pgleap finalize`")
            .objects(made.into_iter().chain(altered).chain(others)),
    ])
}
