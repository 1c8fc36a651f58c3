//! Statements that took longer than the write pause, as far as somebody keeps count.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::{counted, listed},
    source::Entered,
};

/// Asking it fails where the library is not loaded; columns came with the extension's own versions.
const COUNTED: &str = "
    SELECT pg_catalog.quote_ident(n.nspname), pg_catalog.to_regclass(pg_catalog.quote_ident(n.nspname) || '.pg_stat_statements_info')
           IS NOT NULL
      FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements'
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'max_exec_time'
     WHERE e.extname = 'pg_stat_statements'
       AND pg_catalog.strpos(pg_catalog.current_setting('shared_preload_libraries'), 'pg_stat_statements') > 0";

/// Without the texts: they may hold what is nobody's business.
const SLOW: &str = "
    SELECT s.queryid::text, coalesce(r.rolname::text, '?'), s.calls, s.max_exec_time, count(*) OVER ()
      FROM {schema}.pg_stat_statements(false) AS s LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.userid
     WHERE s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
       AND s.queryid IS NOT NULL AND s.max_exec_time > $1 ORDER BY s.max_exec_time DESC, 1 LIMIT 20";

const SINCE: &str =
    "SELECT pg_catalog.to_char(stats_reset, 'YYYY-MM-DD HH24:MI') FROM {schema}.pg_stat_statements_info";

pub(super) const ABOUT: About = About {
    check: "slow_statements",
    topic: Topic::Activity,
    reads: "`pg_stat_statements`, where it is loaded: the longest time of each statement, without its text",
    why: "A pool pauses when its statements have ended, and a statement that runs longer than the write pause holds the switchover \
          or is ended by it. What runs at this moment is told by `long_transactions`; this is what ran before.",
    findings: &[note("statement.slow", Applied::ByHand("what may be slow is the application's to say."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let session = &database.session;
    let Some(row) = session.query_opt(COUNTED, &[]).await? else { return Ok(Vec::new()) };
    let (schema, has_info): (&str, bool) = (row.get(0), row.get(1));
    let pause_ms = database.write_pause.as_secs_f64() * 1000.0;
    let rows = session.query(&SLOW.replace("{schema}", schema), &[&pause_ms]).await?;
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let count: i64 = first.get(4);
    let since = match has_info {
        true => session.query_one(&SINCE.replace("{schema}", schema), &[]).await?.get::<_, Option<String>>(0),
        false => None,
    };
    let named = |row: &tokio_postgres::Row| {
        let (id, role, calls, most): (&str, &str, i64, f64) = (row.get(0), row.get(1), row.get(2), row.get(3));
        format!("{id} of role {role}: {:.1} s at most, {calls} calls", most / 1000.0)
    };
    let names: Vec<_> = rows.iter().map(named).collect();
    let message = format!(
        "{} of database `{}` took longer than the write pause of {} s{}: {}",
        counted(usize::try_from(count).unwrap_or_default(), "statement"),
        database.name,
        database.write_pause.as_secs_f64(),
        since.map(|since| format!(", at some time since {since}")).unwrap_or_default(),
        listed(&names)
    );
    let longest: f64 = first.get(3);
    let ids: Vec<_> = rows.iter().map(|row| row.get::<_, &str>(0)).collect();
    Ok(vec![
        Finding::note("statement.slow", message)
            .because(
                "where such a statement runs at the switchover, the pause waits for it as long as its budget lasts",
            )
            .number("statements", count)
            .number("longest_ms", longest)
            .objects(names)
            .fix(format!(
                "SELECT queryid, query FROM {schema}.pg_stat_statements WHERE queryid IN ({});  -- their texts",
                ids.join(", ")
            )),
    ])
}
