//! Views, defaults, indexes and functions that use what the next major does not have.

use std::collections::BTreeMap;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, warning},
    finding::{counted, listed},
    rules::{self, Rule},
    source::Entered,
};

const USES: &str = include_str!("sql/list_uses_of_gone.sql");
const READS: &str = include_str!("sql/list_reads_of_columns.sql");
const MENTIONS: &str = include_str!("sql/list_mentions_of_gone.sql");

/// From here on bodies of functions may be stored as expressions.
const PARSED_BODIES_SINCE: u16 = 14;

pub(super) const ABOUT: About = About {
    check: "version_expressions",
    topic: Topic::Versions,
    reads: "stored expressions, aggregates, operators, casts and bodies of functions for built-in functions, operators and columns \
            that the target lacks",
    why: "A view that uses one of them cannot be restored, and pg_upgrade fails in the middle: its --check does not look. A \
          function that only mentions one in its body is restored, and fails when it is called. The rules are data, each with \
          the release notes that say so: the last chapter of `docs/checks.md`.",
    findings: &[
        blocker("version.expression_fails", Applied::ByHand("it changes the schema, which is the application's.")),
        warning("version.body_fails", Applied::ByHand("functions are the application's.")),
    ],
};

/// What the rules say is gone, with the rule of each.
struct Gone<'a> {
    by_name: BTreeMap<&'a str, &'a Rule>,
    functions: Vec<&'a str>,
    signatures: Vec<&'a str>,
    operators: Vec<&'a str>,
    relations: Vec<&'a str>,
    columns: Vec<&'a str>,
}

fn gone(from: u16, to: u16) -> Gone<'static> {
    let mut gone = Gone {
        by_name: BTreeMap::new(),
        functions: Vec::new(),
        signatures: Vec::new(),
        operators: Vec::new(),
        relations: Vec::new(),
        columns: Vec::new(),
    };
    for rule in rules::between(from, to) {
        let names = rule.functions.iter().chain(&rule.signatures).chain(&rule.operators).chain(&rule.columns);
        gone.by_name.extend(names.map(|name| (name.as_str(), rule)));
        gone.functions.extend(rule.functions.iter().map(String::as_str));
        gone.signatures.extend(rule.signatures.iter().map(String::as_str));
        gone.operators.extend(rule.operators.iter().map(String::as_str));
        for (relation, column) in rule.columns.iter().filter_map(|column| column.split_once('.')) {
            gone.relations.push(relation);
            gone.columns.push(column);
        }
    }
    gone
}

pub(super) async fn check(database: &Entered) -> Answer {
    let gone = gone(database.from, database.to);
    let mut stored = Vec::new();
    let (tree, body) = if database.from >= PARSED_BODIES_SINCE {
        ("prosqlbody::text", "pg_catalog.pg_get_function_sqlbody(oid)")
    } else {
        ("NULL::text", "NULL::text")
    };
    if !(gone.functions.is_empty() && gone.signatures.is_empty() && gone.operators.is_empty()) {
        let sql = USES.replace("{tree}", tree);
        stored.extend(database.session.query(&sql, &[&gone.functions, &gone.operators, &gone.signatures]).await?);
    }
    if !gone.columns.is_empty() {
        let sql = READS.replace("{tree}", tree).replace("{body}", body);
        stored.extend(database.session.query(&sql, &[&gone.relations, &gone.columns]).await?);
    }
    let names: Vec<_> = gone.functions.iter().copied().filter(|name| !name.contains('(')).collect();
    let mentioned = if names.is_empty() && gone.columns.is_empty() {
        Vec::new()
    } else {
        database.session.query(MENTIONS, &[&names, &gone.relations, &gone.columns]).await?
    };
    let pairs = |rows: &[tokio_postgres::Row]| rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<_>>();
    Ok(judge(database, &gone, &pairs(&stored), &pairs(&mentioned)))
}

fn judge(database: &Entered, gone: &Gone, stored: &[(String, String)], mentioned: &[(String, String)]) -> Vec<Finding> {
    let (name, to) = (&database.name, database.to);
    let mut findings = Vec::new();
    for (rule, found) in by_rule(gone, stored) {
        let message = format!(
            "database `{name}` has {} with what PostgreSQL {to} lacks: {}",
            counted(found.len(), "object"),
            listed(&found)
        );
        findings.push(told(rule, Finding::blocker("version.expression_fails", message), found));
    }
    for (rule, found) in by_rule(gone, mentioned) {
        let message = format!(
            "database `{name}` has {} that name what PostgreSQL {to} lacks: {}",
            counted(found.len(), "function"),
            listed(&found)
        );
        findings.push(told(rule, Finding::warning("version.body_fails", message), found));
    }
    findings
}

fn told(rule: &Rule, finding: Finding, found: Vec<String>) -> Finding {
    finding.because(format!("{} ({})", rule.why, rule.source)).number("rule", rule.id.as_str()).objects(found)
}

fn by_rule<'a>(gone: &Gone<'a>, found: &[(String, String)]) -> Vec<(&'a Rule, Vec<String>)> {
    let mut by_rule: BTreeMap<&str, (&Rule, Vec<String>)> = BTreeMap::new();
    for (object, what) in found {
        if let Some(rule) = gone.by_name.get(what.as_str()) {
            by_rule.entry(&rule.id).or_insert((rule, Vec::new())).1.push(format!("{object} ({what})"));
        }
    }
    by_rule.into_values().collect()
}
