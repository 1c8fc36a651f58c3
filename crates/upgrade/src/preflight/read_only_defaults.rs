//! Settings by which the read-only side would look writable, or the writable one read-only.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    source::Source,
};
use crate::{config::RouteKind, pg::ident, world::World};

const SETTINGS: &str = "
    SELECT r.rolname::text, d.datname::text, substr(s, 31)
      FROM pg_catalog.pg_db_role_setting AS g CROSS JOIN LATERAL unnest(g.setconfig) AS s
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = g.setrole
      LEFT JOIN pg_catalog.pg_database AS d ON d.oid = g.setdatabase
     WHERE s LIKE 'default\\_transaction\\_read\\_only=%' AND (g.setdatabase = 0 OR d.datname = ANY($1::text[]))
     ORDER BY 1, 2";

pub(super) const ABOUT: About = About {
    check: "read_only_defaults",
    topic: Topic::Route,
    reads: "`pg_db_role_setting`, for the route `multi_host`",
    why: "Clients with several hosts look at `default_transaction_read_only` to find the side that takes writes, and pgleap \
          sets it for each database. One that is set for a role goes before that: such a client takes the side that \
          follows for the one that serves, and is refused at every write.",
    findings: &[blocker("read_only_default.set", Applied::ByHand("why it was set has to be known first."))],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    if !matches!(world.config.route.kind, RouteKind::MultiHost) {
        return Ok(Vec::new());
    }
    let rows = source.session.query(SETTINGS, &[&source.names()]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (role, database, value): (Option<&str>, Option<&str>, &str) = (row.get(0), row.get(1), row.get(2));
        let (what, reset) = match (role, database) {
            (Some(role), Some(database)) => (
                format!("role `{role}` in database `{database}`"),
                format!("ALTER ROLE {} IN DATABASE {} RESET", ident::quote(role), ident::quote(database)),
            ),
            (Some(role), None) => (format!("role `{role}`"), format!("ALTER ROLE {} RESET", ident::quote(role))),
            (None, Some(database)) => {
                (format!("database `{database}`"), format!("ALTER DATABASE {} RESET", ident::quote(database)))
            }
            (None, None) => ("every role".to_owned(), "ALTER ROLE ALL RESET".to_owned()),
        };
        Finding::blocker("read_only_default.set", format!("`default_transaction_read_only` is `{value}` for {what}"))
            .objects(role.or(database))
            .because("clients with several hosts find the side that takes writes by this setting")
            .fix(format!("{reset} default_transaction_read_only;"))
    };
    Ok(rows.iter().map(finding).collect())
}
