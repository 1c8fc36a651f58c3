//! Whether transactions have been open, or statements have been running, for long.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    source::Source,
};
use crate::world::World;

const OPEN: &str = "
    SELECT pid, coalesce(usename::text, '?'), coalesce(datname::text, '?'), application_name, coalesce(state, '?'),
           pg_catalog.round(extract(epoch FROM now() - xact_start))::bigint, backend_xid IS NOT NULL,
           coalesce(state LIKE 'idle in transaction%', false)
      FROM pg_catalog.pg_stat_activity
     WHERE (backend_xid IS NOT NULL OR (datname = ANY($2::text[]) AND backend_type = 'client backend'
                                        AND application_name NOT LIKE 'pgleap%'
                                        AND (state LIKE 'idle in transaction%' OR state IN ('active', 'fastpath function call'))))
       AND pid <> pg_catalog.pg_backend_pid() AND xact_start < now() - $1::float8 * interval '1 s' ORDER BY xact_start";

pub(super) const ABOUT: About = About {
    check: "long_transactions",
    topic: Topic::Activity,
    reads: "`pg_stat_activity`, of every database",
    why: "A slot's creation waits for each transaction that holds an id, wherever it runs, and a pool does not pause \
          while one is open.",
    findings: &[
        warning("transaction.long", Applied::ByHand("ending somebody's transaction loses their work.")),
        warning("transaction.idle", Applied::ByHand("ending somebody's transaction loses their work.")),
        warning("statement.long", Applied::ByHand("ending somebody's statement loses their work.")),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let limit = world.config.budgets.long_transaction.as_secs_f64();
    let rows = source.session.query(OPEN, &[&limit, &source.names()]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let pid: i32 = row.get(0);
        let (role, database, application): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
        let (state, age): (&str, i64) = (row.get(4), row.get(5));
        let message = format!(
            "pid {pid} (role `{role}`, `{application}`, database `{database}`, {state}) has been in a transaction for {age} s"
        );
        let (id, because) = match (row.get(6), row.get(7)) {
            (true, _) => (
                "transaction.long",
                "it holds a transaction id: the slots' creation waits for its end, in whatever database it is",
            ),
            (false, true) => (
                "transaction.idle",
                "it wrote nothing, and still a pool does not pause while a client is in a transaction",
            ),
            (false, false) => {
                ("statement.long", "it wrote nothing, and still a pool does not pause before its statement has ended")
            }
        };
        Finding::warning(id, message)
            .because(because)
            .in_database(database)
            .objects([format!("pid {pid} of role {role}")])
            .number("age_s", age)
            .number("pid", pid)
            .fix(format!("SELECT pg_terminate_backend({pid});"))
    };
    Ok(rows.iter().map(finding).collect())
}
