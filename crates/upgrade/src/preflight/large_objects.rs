//! Large objects, which no publication carries.

use super::{Answer, Finding, source::Entered};

const COUNT: &str = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata";

/// Counts large objects. They are in the copy; what is written to them later is lost on the target, without any error.
pub(super) async fn check(database: &Entered) -> Answer {
    let count: i64 = database.session.query_one(COUNT, &[]).await?.get(0);
    if count == 0 {
        return Ok(Vec::new());
    }
    let objects = if count == 1 { "large object" } else { "large objects" };
    let message = format!("database `{}` has {count} {objects}", database.name);
    Ok(vec![
        Finding::warning("large_object.not_replicated", message)
            .because("those of the copy's moment are on the target; changes to them afterwards are not replicated"),
    ])
}
