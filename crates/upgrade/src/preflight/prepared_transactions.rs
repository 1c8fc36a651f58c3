//! Whether transactions are left prepared.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::{counted, listed},
    source::Source,
};
use crate::pg::ident;

const OPEN: &str = "
    SELECT gid, database::text, owner::text,
           pg_catalog.round(extract(epoch FROM now() - prepared))::bigint
      FROM pg_catalog.pg_prepared_xacts ORDER BY prepared";

pub(super) const ABOUT: About = About {
    check: "prepared_transactions",
    topic: Topic::Activity,
    reads: "`pg_prepared_xacts`, of every database",
    why: "A slot's creation waits for each of them, pg_upgrade refuses a cluster that has any, and one that is open \
          at the switchover never drains.",
    findings: &[blocker(
        "prepared_transaction.open",
        Applied::ByHand("only its coordinator knows whether to commit it or to roll it back."),
    )],
};

pub(super) async fn check(source: &Source) -> Answer {
    let rows = source.session.query(OPEN, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let named = |row: &tokio_postgres::Row| {
        let (gid, database, owner): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        format!("{gid} of role {owner} in database {database}, {} s old", row.get::<_, i64>(3))
    };
    let names: Vec<_> = rows.iter().map(named).collect();
    let end = |row: &tokio_postgres::Row| {
        let (gid, database): (&str, &str) = (row.get(0), row.get(1));
        format!("\\c {}\nROLLBACK PREPARED {};  -- or COMMIT PREPARED", ident::quote(database), ident::literal(gid))
    };
    let remedy: Vec<_> = rows.iter().map(end).collect();
    let message = format!("{} open: {}", counted(rows.len(), "prepared transaction"), listed(&names));
    Ok(vec![
        Finding::blocker("prepared_transaction.open", message)
            .because("the slots' creation waits for it, and pg_upgrade refuses a cluster that has one")
            .number("transactions", rows.len())
            .objects(rows.iter().map(|row| row.get::<_, &str>(0)))
            .fix(remedy.join("\n")),
    ])
}
