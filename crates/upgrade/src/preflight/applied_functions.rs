//! Functions that run where changes are applied and find what they name by a search_path, of which there is none there.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
    finding::{counted, listed},
    source::Entered,
};
use crate::pg::ident;

const FUNCTIONS: &str =
    concat!(include_str!("sql/with_functions_on_apply.sql"), include_str!("sql/list_functions_by_search_path.sql"));

pub(super) const ABOUT: About = About {
    check: "applied_functions",
    topic: Topic::Objects,
    reads: "functions in SQL and PL/pgSQL of CHECK constraints, domains, indexes, generated columns, partition keys and triggers that fire \
            on apply, by themselves or as operators, and which tables, functions and types their bodies name without a schema",
    why: "The worker that applies changes has an empty search_path, on every major: such a function does not find there what it finds \
          for the application, and replication stops at the first row that it is called for. A search_path of the function's own \
          is right on both sides. Bodies are read as text: what is put together when it runs is not seen.",
    findings: &[warning(
        "function.needs_search_path",
        Applied::ByHand("it changes a function, which is the application's."),
    )],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(FUNCTIONS, &[]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let (mut names, mut remedy, mut objects) =
        (Vec::new(), vec![format!("\\c {}", ident::quote(&database.name))], Vec::new());
    for row in &rows {
        let (function, users): (&str, Vec<String>) = (row.get("function"), row.get("users"));
        let (named, schemas): (Vec<String>, Vec<String>) = (row.get("names"), row.get("schemas"));
        let (count, ambiguous): (i64, Vec<String>) = (row.get("count"), row.get("ambiguous"));
        let more = usize::try_from(count).unwrap_or_default().saturating_sub(users.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        names.push(format!("{function} of {}{more} names {}", users.join(", "), named.join(", ")));
        let schemas: Vec<_> = schemas.iter().map(|schema| ident::quote(schema)).collect();
        let schemas = schemas.join(", ");
        remedy.push(match ambiguous.as_slice() {
            [] => format!("ALTER FUNCTION {function} SET search_path = {schemas}, pg_temp;  -- and what else it needs: try it first"),
            names => format!("-- {function}: write its schema before each of {}, which are in several of {schemas}", names.join(", ")),
        });
        objects.push(function.to_owned());
    }
    let count = counted(names.len(), "function");
    let message = format!(
        "{count} of database `{}` without a search_path, where changes are applied: {}",
        database.name,
        listed(&names)
    );
    Ok(vec![
        Finding::warning("function.needs_search_path", message)
            .because(
                "the worker that applies has an empty search_path: it does not find these, and replication stops there",
            )
            .number("functions", names.len())
            .objects(objects)
            .fix(remedy.join("\n")),
    ])
}
