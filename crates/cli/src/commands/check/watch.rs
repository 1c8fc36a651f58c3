//! `pgleap check --watch`: what is new or gone since the last look, until Ctrl-C.
//!
//! Survives a source that goes away: it is told once, and entered again when it is back.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use pgleap_upgrade::{
    World,
    preflight::{Drift, Finding},
};

use super::terminal;
use crate::{
    display::text,
    errors::CommandError,
    exit::Exit,
    interrupt,
    out::{Out, SCHEMA},
    site::{self, Site},
};

/// One thing that one finding is about: what is compared from look to look.
type Key = (&'static str, Option<String>, Option<String>);

pub(super) async fn run(every: Duration, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let id = match site.read()? {
        Some(journal) => site::known_id(&journal)?,
        None => None,
    };
    let world = site.world(id.unwrap_or_else(site::new_id)).await?;
    // nobody else is touched by the end of a watch
    interrupt::unless_interrupted(follow(&world, every, out)).await;
    Ok(Exit::Done)
}

async fn follow(world: &World, every: Duration, out: Out) {
    let mut known: BTreeMap<Key, Finding> = BTreeMap::new();
    let mut told_away = false;
    let mut drift = loop {
        match Drift::begin(world).await {
            Ok(drift) => break drift,
            Err(finding) if !told_away => {
                told_away = true;
                tell("new", &finding, None, out);
            }
            Err(_) => {}
        }
        tokio::time::sleep(every).await;
    };
    let (since, endpoint) = (if drift.under_way() { "the upgrade began" } else { "now" }, &world.source.endpoint);
    out.say(&format!(
        "watching {}:{} every {}: what changed since {since}; Ctrl-C ends it",
        endpoint.host,
        endpoint.port,
        text::seconds(every.as_secs_f64())
    ));
    let mut away = false;
    loop {
        if away {
            if drift.enter_again(world).await.is_err() {
                tokio::time::sleep(every).await;
                continue;
            }
            out.say("the source answers again");
        }
        let findings = drift.look(world).await;
        // what could not be asked is not gone
        away = findings.iter().any(|finding| finding.id == "check.unanswered");
        let now = keyed(findings);
        for (key, finding) in now.iter().filter(|(key, _)| !known.contains_key(*key)) {
            tell("new", finding, key.2.as_deref(), out);
        }
        if !away {
            for (key, finding) in known.iter().filter(|(key, _)| !now.contains_key(*key)) {
                tell("gone", finding, key.2.as_deref(), out);
            }
            known = now;
        }
        tokio::time::sleep(every).await;
    }
}

fn keyed(findings: Vec<Finding>) -> BTreeMap<Key, Finding> {
    let mut keyed = BTreeMap::new();
    for finding in findings {
        let key = |object: Option<String>| (finding.id, finding.database.clone(), object);
        match finding.objects.as_slice() {
            [] => drop(keyed.insert(key(None), finding.clone())),
            objects => keyed.extend(objects.iter().map(|object| (key(Some(object.clone())), finding.clone()))),
        }
    }
    keyed
}

fn tell(change: &str, finding: &Finding, object: Option<&str>, out: Out) {
    let at = Timestamp::now();
    if out.is_json() {
        return out.json(&serde_json::json!({
            "schema": SCHEMA, "at": at, "change": change, "id": finding.id, "severity": finding.severity,
            "database": finding.database, "object": object, "message": finding.message, "cause": finding.cause,
        }));
    }
    let place = finding.database.as_ref().map(|database| format!(" in `{database}`")).unwrap_or_default();
    let what = match object {
        Some(object) => format!("`{object}`{place}"),
        None => finding.message.clone(),
    };
    let clock = at.strftime("%H:%M:%S");
    let paint = out.data_paint();
    let word = if change == "new" { terminal::label(finding.severity, paint) } else { paint.green("gone   ") };
    let mut line = format!("{clock}  {word}  {}  {what}", paint.bold(finding.id));
    if let Some(cause) = finding.cause.as_ref().filter(|_| change == "new") {
        line.push_str(&format!("\n                   {cause}"));
    }
    out.data(&line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_of_a_finding_is_new_and_gone_by_itself() {
        let finding = |names: &[&str]| Finding::blocker("a.b", "m").in_database("app").objects(names.iter().copied());
        let before = keyed(vec![finding(&["x", "y"]), Finding::note("c.d", "n")]);
        let after = keyed(vec![finding(&["y", "z"]), Finding::note("c.d", "n")]);
        let new: Vec<_> = after.keys().filter(|key| !before.contains_key(*key)).collect();
        let gone: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
        assert_eq!(new, [&("a.b", Some("app".to_owned()), Some("z".to_owned()))]);
        assert_eq!(gone, [&("a.b", Some("app".to_owned()), Some("x".to_owned()))]);
    }
}
