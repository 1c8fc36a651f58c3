//! Publications of others: the target gets them, their subscribers do not get there by themselves.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note, warning},
    finding::{counted, listed},
    source::Entered,
};
use crate::pg::ident;

/// From here on publications have row filters and column lists.
const RESTRICTED_SINCE: u16 = 15;

const ALL: &str = "
    SELECT p.pubname::text, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, {filters}, {lists}
      FROM pg_catalog.pg_publication AS p WHERE p.pubname NOT LIKE 'pgleap\\_%' ORDER BY 1";

/// `{column}` is `prqual` or `prattrs`.
const TABLES: &str = "
    (SELECT coalesce(array_agg(pg_catalog.format('%I.%I', n.nspname, c.relname) ORDER BY n.nspname, c.relname), '{}')
       FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.prrelid
       JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      WHERE r.prpubid = p.oid AND r.{column} IS NOT NULL)";

const NONE: &str = "'{}'::text[]";

const SUBSCRIBERS: &str = "
    SELECT slot_name::text FROM pg_catalog.pg_replication_slots
     WHERE plugin = 'pgoutput' AND database = pg_catalog.current_database() AND slot_name NOT LIKE 'pgleap\\_%'
     ORDER BY 1";

pub(super) const ABOUT: About = About {
    check: "publications",
    topic: Topic::Replication,
    reads: "publications of others, their row filters, column lists and options, and slots that read by them",
    why: "pg_upgrade carries publications to the target as they are, and pgleap's own stream, which publishes every table whole, \
          is not restricted by them. But a subscriber's slot stays on the source: it gets nothing of what the target writes until \
          it is led there, and what it lacks then depends on the filters and options, which must be the same before and after.",
    findings: &[
        warning("publication.restricted", Applied::ByHand("subscribers are their owners'.")),
        note("publication.carried", Applied::ByHand("subscribers are their owners'.")),
    ],
};

#[derive(Debug, Default)]
struct Publication {
    name: String,
    /// INSERT, UPDATE, DELETE and TRUNCATE.
    publishes: [bool; 4],
    via_root: bool,
    filtered: Vec<String>,
    listed: Vec<String>,
}

impl Publication {
    /// Returns what of the tables' rows it does not publish, or publishes otherwise.
    fn restrictions(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.filtered.is_empty() {
            all.push(format!("row filters on {}", self.filtered.join(", ")));
        }
        if !self.listed.is_empty() {
            all.push(format!("column lists on {}", self.listed.join(", ")));
        }
        if self.publishes != [true; 4] {
            let verbs = ["insert", "update", "delete", "truncate"].into_iter().zip(self.publishes);
            let verbs: Vec<_> = verbs.filter(|(_, published)| *published).map(|(verb, _)| verb).collect();
            all.push(format!("publish = '{}'", verbs.join(", ")));
        }
        if self.via_root {
            all.push("publish_via_partition_root".to_owned());
        }
        all
    }
}

pub(super) async fn check(database: &Entered) -> Answer {
    let tables = |column: &str| match database.from >= RESTRICTED_SINCE {
        true => TABLES.replace("{column}", column),
        false => NONE.to_owned(),
    };
    let all = ALL.replace("{filters}", &tables("prqual")).replace("{lists}", &tables("prattrs"));
    let rows = database.session.query(&all, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let slots = database.session.query(SUBSCRIBERS, &[]).await?;
    let slots: Vec<String> = slots.iter().map(|row| row.get(0)).collect();
    let publications = rows.iter().map(|row| Publication {
        name: row.get(0),
        publishes: [row.get(1), row.get(2), row.get(3), row.get(4)],
        via_root: row.get(5),
        filtered: row.get(6),
        listed: row.get(7),
    });
    Ok(judge(&database.name, &database.target_address, &publications.collect::<Vec<_>>(), &slots))
}

/// Returns what leads the subscriber behind a slot to the target: with its tables copied anew, as an origin that was moved by the
/// source's WAL means nothing in the target's.
fn led_on(slot: &str, database: &str, target: &str, publications: &[&str]) -> String {
    let (name, publications) = (ident::quote(slot), publications.iter().map(|name| ident::quote(name)));
    let conninfo = ident::literal(&format!("{target} dbname={database}"));
    format!(
        "-- on the subscriber of slot {slot}, if its subscription is called so and nothing else fills these tables, when the target \
         serves:\n\
         ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE);\n\
         SELECT 'TRUNCATE ' || string_agg(srrelid::regclass::text, ', ') FROM pg_subscription_rel JOIN pg_subscription AS s \
         ON s.oid = srsubid WHERE subname = {} \\gexec\n\
         DROP SUBSCRIPTION {name};\n\
         CREATE SUBSCRIPTION {name} CONNECTION {conninfo} PUBLICATION {};  -- those that it had\n\
         SELECT pg_drop_replication_slot({});  -- on the source, where it would keep WAL",
        ident::literal(slot),
        publications.collect::<Vec<_>>().join(", "),
        ident::literal(slot)
    )
}

fn judge(database: &str, target: &str, publications: &[Publication], slots_there: &[String]) -> Vec<Finding> {
    let (slots, subscribers) = (counted(slots_there.len(), "slot"), slots_there.len());
    let restricted = |publication: &&Publication| !publication.restrictions().is_empty();
    let (restricted, whole): (Vec<_>, Vec<_>) = publications.iter().partition(restricted);
    let mut findings = Vec::new();
    if !restricted.is_empty() {
        let names: Vec<_> =
            restricted.iter().map(|p| format!("{} ({})", p.name, p.restrictions().join("; "))).collect();
        let message = format!(
            "{} of database `{database}` with filters or options of its own, {slots} of subscribers there: {}",
            counted(names.len(), "publication"),
            listed(&names)
        );
        let publications: Vec<_> = restricted.iter().map(|publication| publication.name.as_str()).collect();
        let led: Vec<_> = slots_there.iter().map(|slot| led_on(slot, database, target, &publications)).collect();
        let finding = Finding::warning("publication.restricted", message)
            .because(
                "the target gets them as they are, its subscribers begin there with slots of their own; whoever changes a filter, \
                 a list or publish_via_partition_root before `pgleap finalize` loses rows or gets them twice",
            )
            .number("subscriber_slots", subscribers)
            .objects(names);
        findings.push(if led.is_empty() { finding } else { finding.fix(led.join("\n")) });
    }
    if !whole.is_empty() {
        let names: Vec<_> = whole.iter().map(|publication| publication.name.as_str()).collect();
        let message = format!(
            "{} of database `{database}`, {slots} of subscribers there: {}",
            counted(names.len(), "publication"),
            listed(&names)
        );
        findings.push(
            Finding::note("publication.carried", message)
                .because("the target gets it too; subscribers stay with the source until they are led to the target")
                .number("subscriber_slots", subscribers)
                .objects(names),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restrictions_are_told_apart_from_publications_of_everything() {
        let whole = Publication { name: "all".into(), publishes: [true; 4], ..Publication::default() };
        let some = Publication {
            name: "some".into(),
            publishes: [true, false, false, false],
            via_root: true,
            filtered: vec!["s.a".into()],
            listed: vec!["s.b".into()],
        };
        let findings = judge("app", "host=db2 port=5433", &[whole, some], &["Shop".to_owned()]);
        assert_eq!(
            findings[0].message,
            "1 publication of database `app` with filters or options of its own, 1 slot of subscribers there: `some (row filters \
             on s.a; column lists on s.b; publish = 'insert'; publish_via_partition_root)`"
        );
        let remedy = findings[0].remedy.clone().unwrap();
        let anew = "CREATE SUBSCRIPTION \"Shop\" CONNECTION 'host=db2 port=5433 dbname=app' PUBLICATION \"some\";";
        assert!(remedy.contains(anew), "{remedy}");
        assert_eq!(findings[1].message, "1 publication of database `app`, 1 slot of subscribers there: `all`");
    }
}
