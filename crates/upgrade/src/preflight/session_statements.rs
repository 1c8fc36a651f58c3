//! Statements that make what lives as long as a session, as far as somebody keeps count.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::listed,
    session_state::{SEEN, UNSEEN},
    source::Source,
};
use crate::world::World;

/// What stands before the first word is cut off; texts of megabytes are read in part. PgBouncer gives each client its own value of those settings that servers report.
/// Those of pgleap's own role are its own looks, and its operator's.
const MADE: &str = r"
    WITH statement AS (
           SELECT s.queryid, s.dbid, s.userid, s.calls,
                  pg_catalog.regexp_replace(pg_catalog.left(s.query, 4000), '^(\s|--[^\n]*\n|/\*([^*]|\*+[^*/])*\*+/)+', '') AS text
             FROM {schema}.pg_stat_statements AS s
            WHERE s.userid <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)),
         known AS (
           SELECT CASE WHEN text ~* '\mpg_(try_)?advisory_lock(_shared)?\M' THEN 'advisory locks'
                       WHEN text ~* '^listen\M' THEN 'LISTEN'
                       WHEN text ~* '^create\s+(or\s+replace\s+)?((global|local)\s+)?temp(orary)?\M'
                            AND text !~* '\mon\s+commit\s+drop\M' THEN 'temporary tables'
                       WHEN text ~* '^prepare\s+(?!transaction\M)' THEN 'PREPARE'
                       WHEN text ~* '^declare\s.*\mwith\s+hold\M' THEN 'cursors WITH HOLD'
                       WHEN text ~* '^set\s+(?!(local|transaction|constraints)\M)'
                            AND text !~* '^set\s+(session\s+)?(application_name|client_encoding|names|datestyle|intervalstyle|time\s*zone|standard_conforming_strings)\M'
                       THEN 'SET' END AS kind, *
             FROM statement)
    SELECT k.kind, coalesce(r.rolname::text, '?'), d.datname::text, sum(k.calls)::bigint,
           array_agg(DISTINCT k.queryid::text) FILTER (WHERE k.queryid IS NOT NULL)
      FROM known AS k JOIN pg_catalog.pg_database AS d ON d.oid = k.dbid
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = k.userid
     WHERE k.kind IS NOT NULL AND d.datname = ANY($1::text[]) GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3";

/// How many ids a remedy holds.
const IDS: usize = 20;

pub(super) const ABOUT: About = About {
    check: "session_statements",
    topic: Topic::Activity,
    reads: "`pg_stat_statements`, in the first database that has it, for statements that take advisory locks, LISTEN, SET without \
            LOCAL, PREPARE, make temporary tables or hold cursors; not those of pgleap's own role",
    why: "What they make lives in one session of one server, and every session of the target is new. In a pool of transactions it \
          belongs to a connection that clients share, so an application that relies on it relied on luck before, and has none \
          after. In a pool of sessions, and without a pooler, it goes with the client's connection, and a client that begins anew \
          makes it anew. What PgBouncer itself keeps for each client, such as `application_name`, is not meant.",
    findings: &[note("session_state.made", Applied::ByHand("what an application relies on is its own to say."))],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let Some(statements) = source.statements(world).await? else { return Ok(Vec::new()) };
    let sql = MADE.replace("{schema}", &statements.schema);
    let rows = statements.session.query(&sql, &[&source.names()]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let named = |row: &tokio_postgres::Row| {
        let (kind, role, database, calls): (&str, &str, &str, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
        format!("{kind} by role {role} in {database}: {calls} calls")
    };
    let names: Vec<_> = rows.iter().map(named).collect();
    let ids = rows.iter().flat_map(|row| row.get::<_, Option<Vec<&str>>>(4).unwrap_or_default());
    let ids: Vec<_> = ids.take(IDS).collect();
    let calls: i64 = rows.iter().map(|row| row.get::<_, i64>(3)).sum();
    let message = format!("statements make state of sessions{}: {}", statements.since(), listed(&names));
    Ok(vec![
        Finding::note("session_state.made", message)
            .because(if source.kept_clients { UNSEEN } else { SEEN })
            .number("calls", calls)
            .objects(names)
            .fix(format!(
                "-- SET LOCAL, or ALTER ROLE … SET; pg_advisory_xact_lock; ON COMMIT DROP; LISTEN past the pooler\n{}",
                statements.texts(&ids)
            )),
    ])
}
