//! What of a database pg_upgrade refuses, or the next major does otherwise.

use super::{
    Answer,
    about::{About, Applied, Topic, blocker, note, warning},
    rules::{self, Found, Ids, Rule},
    source::Entered,
};
use crate::pg::PgError;

const OF_TYPES: &str = include_str!("sql/list_columns_of_types.sql");

/// Whose columns have their types in files that pg_upgrade takes over.
const STORED: &str = "c.relkind IN ('r', 'm', 'i') AND c.relpersistence <> 't'";

/// Whose rows are sent to the target as text.
const STREAMED: &str = "c.relkind = 'r' AND c.relpersistence = 'p'";

pub(super) const ABOUT: About = About {
    check: "version_database",
    topic: Topic::Versions,
    reads: "types, operators, indexes, constraints and functions of each database against the rules between the two majors",
    why: "pg_upgrade refuses the whole cluster for one column of a type that it cannot carry over, and says so only after the \
          copy is made. A type whose values no server takes as text stops replication at the first of them. The rules are data, each with the release notes that say so: the last chapter of `docs/checks.md`.",
    findings: &[
        blocker("version.object_refused", Applied::ByHand("it changes the schema, which is the application's.")),
        warning("version.object_changes", Applied::ByHand("it changes the schema, which is the application's.")),
        note("version.object_differs", Applied::ByHand("nothing has to be done.")),
    ],
};

const IDS: Ids =
    Ids { blocker: "version.object_refused", warning: "version.object_changes", note: "version.object_differs" };

pub(super) async fn check(database: &Entered) -> Answer {
    let place = format!("database `{}`", database.name);
    let mut findings = Vec::new();
    for rule in rules::between(database.from, database.to).filter(|rule| !rule.cluster) {
        findings.extend(rule.finding(IDS, &place, &look(rule, database).await?));
    }
    Ok(findings)
}

async fn look(rule: &Rule, database: &Entered) -> Result<Vec<Found>, PgError> {
    let rows = match (&rule.sql, &rule.types) {
        (Some(sql), _) => database.session.query(sql, &[]).await?,
        (None, Some(types)) => {
            let relations = if rule.streamed { STREAMED } else { STORED };
            let sql = OF_TYPES.replace("{types}", types).replace("{relations}", relations);
            database.session.query(&sql, &[]).await?
        }
        (None, None) => return Ok(Vec::new()),
    };
    Ok(rows.iter().map(|row| Found { name: row.get("name"), fix: row.get("fix") }).collect())
}
