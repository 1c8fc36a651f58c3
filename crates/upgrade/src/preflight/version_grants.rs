//! Privileges on built-in functions and columns that the next major does not have, or has with other arguments.

use std::collections::BTreeMap;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::{counted, listed},
    rules::{self, Found, Rule},
    source::Entered,
};

const GRANTS: &str = include_str!("sql/list_grants_on_gone.sql");

pub(super) const ABOUT: About = About {
    check: "version_grants",
    topic: Topic::Versions,
    reads: "privileges on built-in functions and on columns of system relations against those that the target has",
    why: "A privilege that differs from what initdb gave is in the dump of the schema, with the function's arguments. Where the \
          target has no such function or column, its restore fails in the middle of pg_upgrade: its --check does not look. The \
          rules are data, each with where it is known from: the last chapter of `docs/checks.md`.",
    findings: &[blocker(
        "version.grant_fails",
        Applied::ByHand("whose privileges go while the source still serves is its owner's to say."),
    )],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let mut by_name: BTreeMap<&str, &Rule> = BTreeMap::new();
    let (mut functions, mut relations, mut columns) = (Vec::new(), Vec::new(), Vec::new());
    for rule in rules::between(database.from, database.to) {
        let names = rule.functions.iter().chain(&rule.signatures);
        functions.extend(names.clone().map(String::as_str));
        by_name.extend(names.chain(&rule.columns).map(|name| (name.as_str(), rule)));
        for (relation, column) in rule.columns.iter().filter_map(|column| column.split_once('.')) {
            relations.push(relation);
            columns.push(column);
        }
    }
    if by_name.is_empty() {
        return Ok(Vec::new());
    }
    let rows = database.session.query(GRANTS, &[&functions, &relations, &columns]).await?;
    let mut found: BTreeMap<&str, (&Rule, Vec<Found>)> = BTreeMap::new();
    for row in &rows {
        if let Some(rule) = by_name.get(row.get::<_, &str>("gone")) {
            let privilege = Found { name: row.get("name"), fix: row.get("fix") };
            found.entry(&rule.id).or_insert((rule, Vec::new())).1.push(privilege);
        }
    }
    Ok(found.into_values().map(|(rule, found)| told(database, rule, found)).collect())
}

fn told(database: &Entered, rule: &Rule, found: Vec<Found>) -> Finding {
    let (name, to) = (&database.name, database.to);
    let (names, fixes): (Vec<_>, Vec<_>) = found.into_iter().map(|found| (found.name, found.fix)).unzip();
    let count = counted(names.len(), "privilege");
    let message = format!("database `{name}` has {count} changed on what PostgreSQL {to} lacks: {}", listed(&names));
    Finding::blocker("version.grant_fails", message)
        .because(format!("their restore fails; grant them on the target again: {} ({})", rule.why, rule.source))
        .number("rule", rule.id.as_str())
        .objects(names)
        .fix(fixes.join("\n"))
}
