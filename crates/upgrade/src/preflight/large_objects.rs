//! Large objects, which no publication carries.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    source::Entered,
};

/// Statistics count the pages that were written, not the objects.
const COUNT: &str = "
    SELECT (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata),
           coalesce(pg_catalog.pg_stat_get_tuples_inserted(pages) + pg_catalog.pg_stat_get_tuples_updated(pages)
                    + pg_catalog.pg_stat_get_tuples_deleted(pages), 0),
           (SELECT pg_catalog.to_char(stats_reset, 'YYYY-MM-DD HH24:MI') FROM pg_catalog.pg_stat_database
             WHERE datname = pg_catalog.current_database())
      FROM (SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass::pg_catalog.oid) AS p (pages)";

pub(super) const ABOUT: About = About {
    check: "large_objects",
    topic: Topic::Tables,
    reads: "the number of large objects, and the statistics of what is written to them",
    why: "They are in the copy; what is written to them later is lost on the target, without any error.",
    findings: &[warning("large_object.not_replicated", Applied::ByHand("only the application can do without them."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let row = database.session.query_one(COUNT, &[]).await?;
    let (count, written, reset): (i64, i64, Option<&str>) = (row.get(0), row.get(1), row.get(2));
    // some are made and gone again
    if count == 0 && written == 0 {
        return Ok(Vec::new());
    }
    let objects = if count == 1 { "large object" } else { "large objects" };
    let since = reset.map_or_else(|| "statistics began".to_owned(), |reset| format!("{reset}, when statistics began"));
    let changes = match written {
        0 => format!("not written to since {since}"),
        _ => format!("{written} of their pages written since {since}"),
    };
    let message = format!("database `{}` has {count} {objects}, {changes}", database.name);
    Ok(vec![
        Finding::warning("large_object.not_replicated", message)
            .number("objects", count)
            .number("pages_written", written)
            .because("those of the copy's moment are on the target; changes to them afterwards are not replicated"),
    ])
}
