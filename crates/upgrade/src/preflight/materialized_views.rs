//! Materialized views, whose refresh does not travel.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::{counted, listed},
    source::Entered,
};

const ALL: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'm' ORDER BY 1";

pub(super) const ABOUT: About = About {
    check: "materialized_views",
    topic: Topic::Objects,
    reads: "materialized views",
    why: "On the target they hold what they held when the copy was made, until they are refreshed there.",
    findings: &[note(
        "materialized_view.goes_stale",
        Applied::ByHand("it is to be done on the target, when it serves."),
    )],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(ALL, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let views = counted(names.len(), "materialized view");
    let message = format!("database `{}` has {views}: {}", database.name, listed(&names));
    let remedy: Vec<_> =
        names.iter().map(|name| format!("REFRESH MATERIALIZED VIEW {name};  -- on the target")).collect();
    Ok(vec![
        Finding::note("materialized_view.goes_stale", message)
            .because("a refresh on the source does not reach the target, which holds what the copy held")
            .number("views", names.len())
            .objects(names)
            .fix(remedy.join("\n")),
    ])
}
