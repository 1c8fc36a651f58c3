//! Large objects, which no publication carries.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    source::Entered,
};

const COUNT: &str = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata";

pub(super) const ABOUT: About = About {
    check: "large_objects",
    topic: Topic::Tables,
    reads: "the number of large objects",
    why: "They are in the copy; what is written to them later is lost on the target, without any error.",
    findings: &[warning("large_object.not_replicated", Applied::ByHand("only the application can do without them."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let count: i64 = database.session.query_one(COUNT, &[]).await?.get(0);
    if count == 0 {
        return Ok(Vec::new());
    }
    let objects = if count == 1 { "large object" } else { "large objects" };
    let message = format!("database `{}` has {count} {objects}", database.name);
    Ok(vec![
        Finding::warning("large_object.not_replicated", message)
            .number("objects", count)
            .because("those of the copy's moment are on the target; changes to them afterwards are not replicated"),
    ])
}
