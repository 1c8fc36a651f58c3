//! Foreign tables, whose rows are elsewhere.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::{counted, listed},
    source::Entered,
};

const ALL: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), s.srvname::text
      FROM pg_catalog.pg_foreign_table AS f
      JOIN pg_catalog.pg_class AS c ON c.oid = f.ftrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_foreign_server AS s ON s.oid = f.ftserver ORDER BY 1";

pub(super) const ABOUT: About = About {
    check: "foreign_tables",
    topic: Topic::Tables,
    reads: "foreign tables",
    why: "They are copied as definitions, and the target must reach what they lead to.",
    findings: &[note("foreign_table.elsewhere", Applied::ByHand("networks are the administrator's."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(ALL, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> =
        rows.iter().map(|row| format!("{} on {}", row.get::<_, &str>(0), row.get::<_, &str>(1))).collect();
    let message =
        format!("database `{}` has {}: {}", database.name, counted(names.len(), "foreign table"), listed(&names));
    let finding = Finding::note("foreign_table.elsewhere", message).number("tables", names.len()).objects(names);
    Ok(vec![finding.because("their rows are not compared, and the target must reach their servers as the source does")])
}
