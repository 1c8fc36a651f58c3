//! What sessions hold at this moment beyond their transactions: advisory locks, temporary tables, channels that they listen to.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note, warning},
    finding::listed,
    source::Entered,
};

/// A lock of a session that was idle before locks were looked at outlives transactions: which session is idle is read for each
/// lock, after it; those of prepared transactions are no session's. What is listened to nobody else is told; whoever only waits has
/// said LISTEN last. Which session a temporary table belongs to cannot be told before 16; from then on one that a crash left
/// belongs to none.
const HELD: &str = r"
    SELECT 'advisory lock' AS kind, coalesce(r.rolname::text, '?'), coalesce(a.application_name, ''), sum(l.locks)::bigint,
           count(*)
      FROM (SELECT pid, count(*) AS locks FROM pg_catalog.pg_locks
             WHERE locktype = 'advisory' AND granted AND pid IS NOT NULL
               AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
             GROUP BY pid) AS l
     CROSS JOIN LATERAL pg_catalog.pg_stat_get_activity(l.pid) AS a
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
     WHERE a.state = 'idle' AND a.state_change < now() AND a.application_name NOT LIKE 'pgleap%' GROUP BY 1, 2, 3
     UNION ALL
    SELECT 'temporary table', pg_catalog.pg_get_userbyid(c.relowner)::text, '', count(*), count(DISTINCT c.relnamespace)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relpersistence = 't' AND c.relkind IN ('r', 'p', 'v')
       AND (pg_catalog.current_setting('server_version_num')::int < 160000
            OR n.nspname IN (SELECT 'pg_temp_' || id FROM pg_catalog.pg_stat_get_backend_idset() AS id))
     GROUP BY 1, 2
     UNION ALL
    SELECT 'listening session', coalesce(usename::text, '?'), application_name, count(*), count(*)
      FROM pg_catalog.pg_stat_activity
     WHERE datname = pg_catalog.current_database() AND state = 'idle' AND query ~* '^\s*listen\M' GROUP BY 1, 2, 3
     ORDER BY 1, 4 DESC, 2, 3";

/// Why it matters where clients keep their connections.
pub(super) const UNSEEN: &str = "PgBouncer leads transactions to the target by new connections, which know nothing of it, while its \
                                 clients keep theirs: nobody tells who relies on it; in pools of sessions its client sees it end";
/// Why it matters where clients lose their connections.
pub(super) const SEEN: &str =
    "it ends with its session at the switchover, which its client sees, and begins anew on the target";

pub(super) const ABOUT: About = About {
    check: "session_state",
    topic: Topic::Activity,
    reads: "`pg_locks` for advisory locks of idle sessions, `pg_class` for temporary tables, and `pg_stat_activity` for idle \
            sessions that said LISTEN last",
    why: "None of it comes to the target. Behind a pool of transactions the client keeps its connection and is not told: a lock \
          that it believes to hold is free for others. In a pool of sessions, and without a pooler, the client's own connection \
          ends with it; what was notified meanwhile is lost. In neither does a lock on the source keep anybody on the target \
          from taking the same.",
    findings: &[
        warning("session_state.held", Applied::ByHand("what an application relies on is its own to say.")),
        note("session_state.held", Applied::ByHand("what an application relies on is its own to say.")),
    ],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(HELD, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let named = |row: &tokio_postgres::Row| {
        let (kind, role, application): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let (count, sessions): (i64, i64) = (row.get(3), row.get(4));
        let (s, of) = (if count == 1 { "" } else { "s" }, if sessions == 1 { "" } else { "s" });
        let application = if application.is_empty() { String::new() } else { format!(" ({application})") };
        match kind {
            "listening session" => format!("{count} {kind}{s} of role {role}{application}"),
            _ => format!("{count} {kind}{s} of role {role}{application} in {sessions} session{of}"),
        }
    };
    let names: Vec<_> = rows.iter().map(named).collect();
    let message = format!("sessions of database `{}` hold what stays behind: {}", database.name, listed(&names));
    let sum = |kind: &str| -> i64 {
        rows.iter().filter(|row| row.get::<_, &str>(0) == kind).map(|row| row.get::<_, i64>(3)).sum()
    };
    let finding = match database.kept_clients {
        true => Finding::warning("session_state.held", message).because(UNSEEN),
        false => Finding::note("session_state.held", message).because(SEEN),
    };
    Ok(vec![
        finding
            .number("advisory_locks", sum("advisory lock"))
            .number("temporary_tables", sum("temporary table"))
            .number("listening_sessions", sum("listening session"))
            .objects(names)
            .fix(
                "let these clients connect anew when the target serves; better: pg_advisory_xact_lock, ON COMMIT DROP, and LISTEN \
                 by connections past the pooler",
            ),
    ])
}
