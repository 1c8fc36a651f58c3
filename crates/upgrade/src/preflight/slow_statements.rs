//! Statements that took longer than the write pause, as far as somebody keeps count.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::{counted, listed},
    source::Source,
};
use crate::world::World;

/// Without the texts: they may hold what is nobody's business.
const SLOW: &str = "
    SELECT s.queryid::text, coalesce(r.rolname::text, '?'), d.datname::text, s.calls, s.max_exec_time, s.mean_exec_time,
           count(*) OVER ()
      FROM {schema}.pg_stat_statements(false) AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.dbid
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.userid
     WHERE d.datname = ANY($1::text[]) AND s.queryid IS NOT NULL AND s.max_exec_time > $2
     ORDER BY s.max_exec_time DESC, 1 LIMIT 20";

pub(super) const ABOUT: About = About {
    check: "slow_statements",
    topic: Topic::Activity,
    reads: "`pg_stat_statements`, in the first database that has it, for all of them: the longest time of each statement, without \
            its text",
    why: "A pool pauses when its statements have ended, and a statement that runs longer than the write pause holds the switchover \
          or is ended by it. What runs at this moment is told by `long_transactions`; this is what ran before.",
    findings: &[note("statement.slow", Applied::ByHand("what may be slow is the application's to say."))],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let Some(statements) = source.statements(world).await? else { return Ok(Vec::new()) };
    let pause = world.config.budgets.write_pause.as_secs_f64();
    let sql = SLOW.replace("{schema}", &statements.schema);
    let rows = statements.session.query(&sql, &[&source.names(), &(pause * 1000.0)]).await?;
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let (longest, count): (f64, i64) = (first.get(4), first.get(6));
    let named = |row: &tokio_postgres::Row| {
        let (id, role, database, calls): (&str, &str, &str, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let (most, mean) = (row.get::<_, f64>(4) / 1000.0, row.get::<_, f64>(5) / 1000.0);
        format!("{id} of role {role} in {database}: {most:.1} s at most, {mean:.1} s on average, {calls} calls")
    };
    let names: Vec<_> = rows.iter().map(named).collect();
    let message = format!(
        "{} took longer than the write pause of {pause} s at some time{}: {}",
        counted(usize::try_from(count).unwrap_or_default(), "statement"),
        statements.since(),
        listed(&names)
    );
    let mut ids: Vec<_> = rows.iter().map(|row| row.get::<_, &str>(0)).collect();
    ids.dedup();
    Ok(vec![
        Finding::note("statement.slow", message)
            .because(
                "where such a statement runs at the switchover, the pause waits for it as long as its budget lasts",
            )
            .number("statements", count)
            .number("longest_ms", longest)
            .objects(names)
            .fix(statements.texts(&ids)),
    ])
}
