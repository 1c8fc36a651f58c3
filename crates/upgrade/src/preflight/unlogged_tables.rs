//! Unlogged tables that hold rows.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    finding::{counted, listed},
    source::Entered,
};

/// From statistics: counting the rows would read the tables, and wait for their locks.
const WITH_ROWS: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
           greatest(c.reltuples::bigint, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence = 'u'
       AND (c.relpages > 0 OR pg_catalog.pg_stat_get_live_tuples(c.oid) > 0)
     ORDER BY 2 DESC, 1";

pub(super) const ABOUT: About = About {
    check: "unlogged_tables",
    topic: Topic::Tables,
    reads: "unlogged tables and the statistics of their rows",
    why: "They are in no WAL, so they are empty on the target.",
    findings: &[warning(
        "unlogged_table.emptied",
        Applied::ByHand("logging a table rewrites it, and its owner had a reason."),
    )],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(WITH_ROWS, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let total: i64 = rows.iter().map(|row| row.get::<_, i64>(1)).sum();
    let tables = counted(names.len(), "unlogged table");
    let message = format!("database `{}` has {tables} with about {total} rows: {}", database.name, listed(&names));
    let remedy: Vec<_> = names.iter().map(|name| format!("ALTER TABLE {name} SET LOGGED;")).collect();
    Ok(vec![
        Finding::warning("unlogged_table.emptied", message)
            .because("their rows are not in the WAL: the target has the tables, empty")
            .number("tables", names.len())
            .number("rows", total)
            .objects(names)
            .fix(remedy.join("\n")),
    ])
}
