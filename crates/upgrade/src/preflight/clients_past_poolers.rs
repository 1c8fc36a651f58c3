//! Clients that do not come through a pooler.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    finding::counted,
    source::Source,
};

/// Only sessions that were there when the poolers were asked for theirs.
const CONNECTED: &str = "
    SELECT usename::text, datname::text, coalesce(nullif(application_name, ''), '?'),
           coalesce(pg_catalog.host(client_addr), 'a socket'), count(*)
      FROM pg_catalog.pg_stat_activity
     WHERE backend_type = 'client backend' AND datname = ANY($1::text[]) AND pid <> ALL($2::int[])
       AND backend_start < now() - interval '10 s' AND application_name NOT LIKE 'pgleap%'
       AND usesysid NOT IN (SELECT oid FROM pg_catalog.pg_roles WHERE rolsuper)
     GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4";

pub(super) const ABOUT: About = About {
    check: "clients_past_poolers",
    topic: Topic::Activity,
    reads: "sessions of the source, and which of them are connections of the poolers",
    why: "A pause holds only those who come through a pooler. Everybody else, a nightly job, a report, a copy to a warehouse, has \
          their sessions ended by the fence, and must be led to the target by somebody. Superusers have a finding of their own.",
    findings: &[warning("client.past_poolers", Applied::ByHand("where a client connects to is its owner's to say."))],
};

pub(super) async fn check(source: &Source) -> Answer {
    let Some(pooled) = &source.pooled else { return Ok(Vec::new()) };
    let rows = source.session.query(CONNECTED, &[&source.names(), pooled]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let sessions: i64 = rows.iter().map(|row| row.get::<_, i64>(4)).sum();
    let named = |row: &tokio_postgres::Row| {
        let (role, database, application, address): (&str, &str, &str, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        format!("`{role}` in {database} from {address} ({application})")
    };
    let names: Vec<_> = rows.iter().map(named).collect();
    let mut listed = names[..names.len().min(5)].join(", ");
    if names.len() > 5 {
        listed.push_str(&format!(", and {} more", names.len() - 5));
    }
    let count = counted(usize::try_from(sessions).unwrap_or_default(), "session");
    Ok(vec![
        Finding::warning("client.past_poolers", format!("{count} past the poolers: {listed}"))
            .because("the switchover ends them instead of letting them wait, and they come back to the source, which is closed")
            .number("sessions", sessions)
            .objects(names)
            .fix("lead them through a pooler, or change where they connect to when the target serves"),
    ])
}
