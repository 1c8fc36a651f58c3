//! Transactions that take long by habit, as the server counts.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    source::Source,
};
use crate::world::World;

/// Sessions report what they spent when they are done with it. Who is in no transaction, and who serves none, is not counted.
const MEANS: &str = "
    SELECT datname::text, xact_commit + xact_rollback,
           (active_time + idle_in_transaction_time) / nullif(xact_commit + xact_rollback, 0),
           idle_in_transaction_time / nullif(active_time + idle_in_transaction_time, 0),
           pg_catalog.to_char(stats_reset, 'YYYY-MM-DD HH24:MI')
      FROM pg_catalog.pg_stat_database WHERE datname = ANY($1::text[]) ORDER BY 1";

/// From here on the server counts it.
const COUNTED_SINCE: u16 = 14;

/// Lengths scatter: of transactions that take this part of a pause on average, some take all of it.
const SHARE: f64 = 0.25;

pub(super) const ABOUT: About = About {
    check: "slow_transactions",
    topic: Topic::Activity,
    reads: "from 14 on, the time that sessions of each database spent in transactions, and how many there were",
    why: "A pool pauses when its clients' transactions have ended, those too whose client does something else meanwhile. Where \
          they take a quarter of the write pause on average, some outlast it, and the switchover is held or ends them. The \
          average is that since the statistics were reset; PgBouncer has that of the last minute (`pooler_transactions`), \
          `check --watch` tells of each that outlasts `budgets.long_transaction`.",
    findings: &[note("transaction.slow", Applied::ByHand("how long a transaction takes is the application's to say."))],
};

/// Returns from what mean on transactions are told, in milliseconds.
pub(super) fn slow_ms(world: &World) -> f64 {
    world.config.budgets.write_pause.as_secs_f64() * 1000.0 * SHARE
}

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    if source.major() < COUNTED_SINCE {
        return Ok(Vec::new());
    }
    let pause = world.config.budgets.write_pause.as_secs_f64();
    let rows = source.session.query(MEANS, &[&source.names()]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (database, count): (&str, i64) = (row.get(0), row.get(1));
        let mean_ms = row.get::<_, Option<f64>>(2).filter(|mean| *mean > slow_ms(world))?;
        let idle = row.get::<_, Option<f64>>(3).unwrap_or_default();
        let since = row.get::<_, Option<&str>>(4).map(|since| format!(" since {since}")).unwrap_or_default();
        let message = format!(
            "{count} transactions of database `{database}`{since} took {:.1} s on average, {:.0} % of it idle; the write pause is \
             {pause} s",
            mean_ms / 1000.0,
            idle * 100.0
        );
        let finding = Finding::note("transaction.slow", message)
            .because("the pause waits for each that is open when it begins, as long as its budget lasts")
            .number("mean_ms", mean_ms)
            .number("idle_share", idle);
        Some(finding.in_database(database))
    };
    Ok(rows.iter().filter_map(finding).collect())
}
