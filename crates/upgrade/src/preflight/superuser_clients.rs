//! Whether clients are superusers.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    source::Source,
};
use crate::world::World;

const CONNECTED: &str = "
    SELECT a.usename::text, count(*), pg_catalog.string_agg(DISTINCT nullif(a.application_name, ''), ', ')
      FROM pg_catalog.pg_stat_activity AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
     WHERE r.rolsuper AND a.backend_type = 'client backend' AND a.datname = ANY($1::text[])
       AND a.application_name <> $2 AND a.application_name <> ALL($3::text[]) AND a.usename <> ALL($3::text[])
       AND a.pid <> pg_catalog.pg_backend_pid()
     GROUP BY 1 ORDER BY 1";

pub(super) const ABOUT: About = About {
    check: "superuser_clients",
    topic: Topic::Activity,
    reads: "`pg_stat_activity`",
    why: "The fence takes the right to connect away, and superusers need none: they can write to the source past the \
          switchover. So the switchover holds while one is there; better they are known before.",
    findings: &[warning("client.superuser", Applied::ByHand("the application's role is its owner's to change."))],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let rows = source
        .session
        .query(CONNECTED, &[&source.names(), &world.source.application_name, &world.config.fence.tolerate])
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let (role, count): (&str, i64) = (row.get(0), row.get(1));
        let applications = row.get::<_, Option<&str>>(2).map(|names| format!(" ({names})")).unwrap_or_default();
        let sessions = if count == 1 { "session" } else { "sessions" };
        Finding::warning(
            "client.superuser",
            format!("superuser `{role}` has {count} {sessions} in these databases{applications}"),
        )
        .objects([role])
        .number("sessions", count)
        .because("the fence does not stop superusers, so a switchover holds while one is connected")
        .fix(
            "give applications roles of their own; name under `fence.tolerate` who never writes, a monitor for example",
        )
    };
    Ok(rows.iter().map(finding).collect())
}
