//! Event triggers, which may act while the copy is upgraded.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::{counted, listed},
    source::Entered,
};

const ENABLED: &str = "
    SELECT evtname::text, evtevent::text, evtenabled IN ('R', 'A') FROM pg_catalog.pg_event_trigger
     WHERE evtenabled <> 'D' ORDER BY evtname";

pub(super) const ABOUT: About = About {
    check: "event_triggers",
    topic: Topic::Objects,
    reads: "enabled event triggers",
    why: "DDL on either side runs them, that of extension updates on the target included, and those that are enabled \
          for replicas also where changes are applied.",
    findings: &[note("event_trigger.enabled", Applied::ByHand("nothing has to be done."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(ENABLED, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let named = |row: &tokio_postgres::Row| {
        let on_replicas = if row.get(2) { ", on replicas too" } else { "" };
        format!("{} on {}{on_replicas}", row.get::<_, &str>(0), row.get::<_, &str>(1))
    };
    let names: Vec<_> = rows.iter().map(named).collect();
    let message =
        format!("database `{}` has {}: {}", database.name, counted(names.len(), "event trigger"), listed(&names));
    let finding = Finding::note("event_trigger.enabled", message).number("triggers", names.len()).objects(names);
    Ok(vec![finding.because("they run for DDL on the target too, such as the update of an extension")])
}
