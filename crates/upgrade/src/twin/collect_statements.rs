//! Which statements the source runs, and the settings that its plans are made with.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;

use crate::{
    pg::{PgError, Session, ident},
    provision::PrepareDatabases,
    world::{Cx, World},
};

/// Reads the statements that take most of the time, by pg_stat_statements, or takes those that were given.
pub struct CollectStatements {
    /// How many.
    pub top: u32,
    /// These instead, in the first database of the upgrade that can prepare each.
    pub given: Option<Vec<String>>,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// Where it runs; none if that is not known.
    pub database: Option<String>,
    /// Its text; parameters as `$n`.
    pub text: String,
    /// How often it ran, and for how long together, in milliseconds.
    pub ran: Option<(i64, f64)>,
}

/// What the source told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collected {
    /// The heaviest first.
    pub statements: Vec<Statement>,
    /// Settings of the planner, as the source has them.
    pub settings: Vec<(String, String)>,
    /// Why there are no statements.
    pub missing: Option<String>,
}

/// Where the view is, in this database.
const PLACE: &str = "
    SELECT n.nspname::text FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
     WHERE e.extname = 'pg_stat_statements'";
const SETTINGS: &str = "
    SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings
     WHERE category LIKE 'Query Tuning%' OR name IN
           ('work_mem', 'hash_mem_multiplier', 'max_parallel_workers', 'max_parallel_workers_per_gather')
     ORDER BY name";
/// What EXPLAIN takes.
const EXPLAINED: [&str; 7] = ["select", "with", "insert", "update", "delete", "values", "merge"];

fn is_explained(text: &str) -> bool {
    let first = text.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let word: String = first.chars().take_while(char::is_ascii_alphabetic).collect();
    EXPLAINED.contains(&word.to_ascii_lowercase().as_str())
}

/// Splits a file of statements, which end with `;` at the end of a line.
pub fn split(text: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    for line in text.lines().filter(|line| !line.trim_start().starts_with("--")) {
        let (body, ends) = match line.trim_end().strip_suffix(';') {
            Some(body) => (body, true),
            None => (line, false),
        };
        if let Some(last) = statements.last_mut() {
            last.push_str(body);
            last.push('\n');
        }
        if ends {
            statements.push(String::new());
        }
    }
    statements.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

/// What was found of the statements.
#[derive(Default)]
struct Found {
    statements: Vec<Statement>,
    missing: Option<String>,
}

/// Returns the statements of these databases that have a plan, the heaviest first. Those of this role that name `pg_catalog` are
/// pgleap's own looks: on a quiet cluster they would be most of what is compared.
async fn heaviest(session: &Session, schema: &str, databases: &[String]) -> Result<Vec<Statement>, PgError> {
    let sql = format!(
        "SELECT d.datname::text, s.query, sum(s.calls)::bigint, sum(s.total_exec_time)::float8
           FROM {}.pg_stat_statements AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.dbid
          WHERE s.query !~* 'pgleap|pg_stat_statements' AND d.datname = ANY ($1)
            AND NOT (s.query ~ 'pg_catalog\\.' AND s.userid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user))
          GROUP BY 1, 2 ORDER BY 4 DESC LIMIT 10000",
        ident::quote(schema)
    );
    let rows = session.query(&sql, &[&databases]).await?;
    let statements = rows.iter().map(|row| Statement {
        database: row.get(0),
        text: row.get::<_, Option<String>>(1).unwrap_or_default(),
        ran: Some((row.get(2), row.get(3))),
    });
    Ok(statements.filter(|statement| is_explained(&statement.text)).collect())
}

impl CollectStatements {
    async fn statements(&self, cx: &Cx<'_>) -> Result<Found, StepError> {
        if let Some(given) = &self.given {
            let one = |text: &String| Statement { database: None, text: text.clone(), ran: None };
            return Ok(Found { statements: given.iter().map(one).collect(), ..Found::default() });
        }
        let world = cx.world;
        let names = cx.output::<PrepareDatabases>()?.names();
        // one database's view tells of all
        for name in std::iter::once(&world.config.source.database).chain(&names) {
            let session = world.source.db(name).await?;
            let Some(place) = session.query_opt(PLACE, &[]).await? else { continue };
            match heaviest(&session, place.get(0), &names).await {
                Ok(mut statements) => {
                    statements.truncate(self.top as usize);
                    return Ok(Found { statements, missing: None });
                }
                Err(error) if error.sqlstate() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => break,
                Err(error) if !error.is_transient() => {
                    let why = error.reason().unwrap_or_else(|| error.to_string());
                    let why = format!(
                        "pg_stat_statements cannot be read ({why}): update the extension, or name a file by `--statements`"
                    );
                    return Ok(Found { missing: Some(why), ..Found::default() });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let why = "pg_stat_statements is not loaded, or is in no database of the source: name a file by `--statements`";
        Ok(Found { missing: Some(why.to_owned()), ..Found::default() })
    }
}

impl Step<World> for CollectStatements {
    type Output = Collected;
    const NAME: StepName = StepName("twin.collect_statements");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        match &self.given {
            Some(given) => format!("take the {} statements that were given, and the source's settings", given.len()),
            None => format!("read the {} statements that take most of the source's time, and its settings", self.top),
        }
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Collected>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Collected, StepError> {
        let Found { statements, missing } = self.statements(cx).await?;
        let session = cx.world.source.db(&cx.world.config.source.database).await?;
        let settings = session.query(SETTINGS, &[]).await?;
        let settings = settings.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(Collected { statements, settings, missing })
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_split_where_lines_end_with_a_semicolon() {
        let text = "-- orders\nSELECT 1\n  FROM a WHERE b = ';x';\n\nUPDATE c SET d = $1;\nSELECT 2";
        assert_eq!(split(text), ["SELECT 1\n  FROM a WHERE b = ';x'", "UPDATE c SET d = $1", "SELECT 2"]);
        assert!(split("\n-- nothing\n").is_empty());
    }

    #[test]
    fn only_what_has_a_plan_is_explained() {
        for text in ["select 1", " (SELECT 1)", "WITH a AS (VALUES (1)) TABLE a", "INSERT INTO t VALUES ($1)"] {
            assert!(is_explained(text), "{text}");
        }
        for text in ["VACUUM t", "BEGIN", "ALTER ROLE a PASSWORD $1", "selection", ""] {
            assert!(!is_explained(text), "{text}");
        }
    }
}
