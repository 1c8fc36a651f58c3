//! Whether the source has tablespaces of its own.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::{counted, listed},
    source::Source,
};
use crate::pg::ident;

const OWN: &str = "
    SELECT spcname::text, pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace
     WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY spcname";

pub(super) const ABOUT: About = About {
    check: "tablespaces",
    topic: Topic::Host,
    reads: "`pg_tablespace`",
    why: "On one host a base backup would put their files where the source has them: it refuses, and mapping them \
          elsewhere is not supported yet.",
    findings: &[blocker(
        "tablespace.unsupported",
        Applied::ByHand("moving tables rewrites them, and locks them meanwhile."),
    )],
};

pub(super) async fn check(source: &Source) -> Answer {
    let rows = source.session.query(OWN, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let places: Vec<_> =
        rows.iter().map(|row| format!("{} at {}", row.get::<_, &str>(0), row.get::<_, &str>(1))).collect();
    let statements = names.iter().map(|name| {
        let quoted = ident::quote(name);
        format!(
            "-- in each database: ALTER TABLE ALL IN TABLESPACE {quoted} SET TABLESPACE pg_default; \
             ALTER INDEX ALL IN TABLESPACE {quoted} SET TABLESPACE pg_default;\nDROP TABLESPACE {quoted};"
        )
    });
    let message = format!("the source has {}: {}", counted(names.len(), "tablespace"), listed(&places));
    Ok(vec![
        Finding::blocker("tablespace.unsupported", message)
            .because("a copy on the same host cannot have its files where the source has them")
            .fix(statements.collect::<Vec<_>>().join("\n"))
            .objects(places),
    ])
}
