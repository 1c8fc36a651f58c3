//! The plans of the collected statements: on the copy of the source's major, and on the upgraded one.
//!
//! Both sessions have the source's settings of the planner. A statement is prepared and explained as a generic plan, as its
//! parameters are not known; nothing is executed, in a transaction that may not write.

use std::{error::Error, time::Duration};

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::{
    error::SqlState,
    types::{FromSql, Type},
};

use super::{
    QueryPlan,
    collect_statements::{CollectStatements, Statement},
};
use crate::{
    pg::{PgError, Session},
    provision::{PrepareDatabases, copy::Copy},
    world::{Cx, World},
};

/// Explains every statement on the copy.
pub struct ExplainBefore;

/// Explains every statement on the upgraded copy.
pub struct ExplainAfter;

/// What came of one statement: the database that could explain it and its plan, or why there is none.
pub type Explained = Result<(String, QueryPlan), String>;

/// Explaining plans and does not run: longer than this hangs.
const BUDGET: Duration = Duration::from_secs(20);

/// The source's settings, as far as this major has them.
const SET: &str = "
    SELECT count(pg_catalog.set_config(s.name, w.value, false))
      FROM unnest($1::text[], $2::text[]) AS w (name, value) JOIN pg_catalog.pg_settings AS s ON s.name = w.name
     WHERE s.context IN ('user', 'superuser')";
/// The application's own path is not known: the database's, or `public`, and then every other schema.
const PATH: &str = "
    SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ',
             coalesce((SELECT substr(o, 13) FROM pg_catalog.pg_db_role_setting AS s, unnest(s.setconfig) AS o,
                              pg_catalog.pg_database AS d
                        WHERE d.oid = s.setdatabase AND d.datname = pg_catalog.current_database() AND s.setrole = 0
                          AND o LIKE 'search\\_path=%'), 'public'),
             (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(nspname), ', ' ORDER BY nspname)
                FROM pg_catalog.pg_namespace
               WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public'))), false)";
const PARAMETERS: &str =
    "SELECT pg_catalog.cardinality(parameter_types) FROM pg_catalog.pg_prepared_statements WHERE name = $1";

struct Json(Value);

impl<'a> FromSql<'a> for Json {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(serde_json::from_slice(raw)?))
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}

async fn prepare(session: &Session, settings: &[(String, String)]) -> Result<(), PgError> {
    let (names, values): (Vec<_>, Vec<_>) = settings.iter().cloned().unzip();
    session.query(SET, &[&names, &values]).await?;
    session.query(PATH, &[]).await?;
    session.batch("SET plan_cache_mode = force_generic_plan").await
}

fn name_of(n: usize) -> String {
    format!("pgleap_{n}")
}

/// Prepares a statement in a transaction that may not write. pg_stat_statements shows a literal with its type (`date '…'`) as
/// `date $1`, which no parser takes: the server says where, and it is made a cast.
async fn prepare_statement(session: &Session, name: &str, text: &str) -> Result<(), PgError> {
    let head = format!("BEGIN READ ONLY; PREPARE {name} AS ");
    let mut text = text.to_owned();
    loop {
        let Err(error) = session.batch(&format!("{head}{text}")).await else { return Ok(()) };
        let is_syntax = error.sqlstate() == Some(&SqlState::SYNTAX_ERROR);
        let at = error.position().filter(|_| is_syntax).and_then(|at| at.checked_sub(head.chars().count()));
        // each time one parameter is behind a type no more
        let Some(cast) = at.and_then(|at| as_cast(&text, at)) else { return Err(error) };
        session.batch("ROLLBACK").await?;
        text = cast;
    }
}

/// Makes `type $n` a cast, where `$` has `at` characters before it; none if there is no such thing.
fn as_cast(text: &str, at: usize) -> Option<String> {
    let (at, _) = text.char_indices().nth(at)?;
    let (before, parameter) = text.split_at(at);
    let digits = parameter.strip_prefix('$')?.find(|c: char| !c.is_ascii_digit()).unwrap_or(parameter.len() - 1);
    let (parameter, after) = parameter.split_at(1 + digits);
    let before = before.trim_end();
    let start = before
        .rfind(|c: char| !(c.is_alphanumeric() || "_.\"".contains(c)))
        .map_or(0, |last| last + before[last..].chars().next().map_or(1, char::len_utf8));
    let (before, kind) = before.split_at(start);
    (digits > 0 && !kind.is_empty()).then(|| format!("{before}CAST({parameter} AS {kind}){after}"))
}

async fn explain(session: &Session, n: usize, text: &str) -> Result<QueryPlan, PgError> {
    let name = name_of(n);
    prepare_statement(session, &name, text).await?;
    let count: i32 = session.query_one(PARAMETERS, &[&name]).await?.get(0);
    let nulls = vec!["NULL"; usize::try_from(count).unwrap_or(0)].join(", ");
    let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    let row = session.query_one(&format!("EXPLAIN (FORMAT JSON) EXECUTE {name}{arguments}"), &[]).await?;
    let Json(explained) = row.get(0);
    QueryPlan::read(&explained).ok_or_else(|| session.unexpected(explained, "a plan"))
}

/// Explains every statement, each in its database or in the first that can prepare it.
async fn explain_all(cx: &Cx<'_>, sessions: Vec<(String, Session)>) -> Result<Vec<Explained>, StepError> {
    let collected = cx.output::<CollectStatements>()?;
    for (_, session) in &sessions {
        prepare(session, &collected.settings).await?;
    }
    let mut all = Vec::new();
    for (n, Statement { database, text, .. }) in collected.statements.iter().enumerate() {
        let mut explained = Err("no database of the upgrade has it".to_owned());
        for (name, session) in sessions.iter().filter(|(name, _)| database.as_ref().is_none_or(|of| of == name)) {
            let result = explain(session, n, text).await;
            // also what failed left a transaction open
            session.batch("ROLLBACK").await?;
            // not there if it could not be prepared; the driver's own statements stay
            drop(session.batch(&format!("DEALLOCATE {}", name_of(n))).await);
            match result {
                Ok(plan) => explained = Ok((name.clone(), plan)),
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) if explained.is_err() => {
                    explained = Err(error.reason().unwrap_or_else(|| error.to_string()));
                }
                Err(_) => {}
            }
            if explained.is_ok() {
                break;
            }
        }
        all.push(explained);
        cx.progress(Progress {
            text: "explaining statements".to_owned(),
            done: Some(n as u64 + 1),
            total: Some(collected.statements.len() as u64),
            unit: "statements",
            ..Progress::default()
        });
    }
    Ok(all)
}

/// What a step wrote down, as JSON has no results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plans(pub Vec<Explained>);

impl Step<World> for ExplainBefore {
    type Output = Plans;
    const NAME: StepName = StepName("twin.explain_before");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "explain the statements on the copy, with the source's settings and statistics".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Plans>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Plans, StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        let copy = Copy::of(cx.world, facts.major(), &facts.bootstrap_superuser)?;
        let mut sessions = Vec::new();
        for database in facts.names() {
            let session = copy.session(cx.world, &database).await?;
            session.batch(&format!("SET statement_timeout = {}", BUDGET.as_millis())).await?;
            sessions.push((database, session));
        }
        Ok(Plans(explain_all(cx, sessions).await?))
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

impl Step<World> for ExplainAfter {
    type Output = Plans;
    const NAME: StepName = StepName("twin.explain_after");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "explain the statements on the upgraded copy, with the same settings".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Plans>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Plans, StepError> {
        let mut sessions = Vec::new();
        for database in cx.output::<PrepareDatabases>()?.names() {
            let session = cx.world.target.open(&database, BUDGET).await?;
            sessions.push((database, session));
        }
        Ok(Plans(explain_all(cx, sessions).await?))
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_with_a_type_becomes_a_cast() {
        let cast = |text: &str| as_cast(text, text.chars().position(|c| c == '$').unwrap());
        assert_eq!(
            cast("SELECT now() - interval $12, $2").as_deref(),
            Some("SELECT now() - CAST($12 AS interval), $2")
        );
        assert_eq!(cast("SELECT f(public.kind\n $1)").as_deref(), Some("SELECT f(CAST($1 AS public.kind))"));
        assert_eq!(cast("SELECT 'ü', date $1").as_deref(), Some("SELECT 'ü', CAST($1 AS date)"));
        assert_eq!(cast("SELECT a + $1"), None, "nothing before it is a type");
        assert_eq!(as_cast("SELECT date $1", 0), None, "no parameter is there");
        assert_eq!(as_cast("date $1", 99), None);
    }
}
