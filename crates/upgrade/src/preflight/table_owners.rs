//! Tables whose changes their own owner could not apply.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker},
    finding::{counted, listed},
    source::Entered,
};
use crate::pg::{PgError, Session, ident};

const KEPT_OUT: &str =
    concat!(include_str!("sql/with_functions_on_apply.sql"), include_str!("sql/list_owners_kept_out.sql"));

/// From here on a subscription applies with the rights of each table's owner, unless it says `run_as_owner`.
pub(crate) const BY_OWNERS_SINCE: u16 = 16;

pub(super) const ABOUT: About = About {
    check: "table_owners",
    topic: Topic::Tables,
    reads: "forced row-level security, privileges that a table's owner does not have, on the table and on functions of its \
            constraints, domains, operators, indexes, generated columns and partition keys, and triggers that are deferred where changes are applied",
    why: "Up to 15 changes are applied with the rights of the subscription's owner, pgleap's role, which as a superuser is subject \
          to none of this. From 16 on they are applied with those of each table's owner: forced row-level security, a privilege \
          that the owner revoked from itself, a function that it may not call, or a deferred trigger that fires on apply stops \
          replication. So does what a trigger that fires there does inside and the owner may not, which cannot be seen: \
          `trigger.fires_on_apply` names those. `run_as_owner = true` under \
          [target] has changes applied as up to 15; but then triggers that fire on apply, and functions in indexes and constraints, \
          run with a superuser's rights, whoever wrote them. Row-level security that is not forced keeps no owner out. Rows are \
          compared by a superuser, who sees all of them.",
    findings: &[blocker(
        "table_owner.kept_out",
        Applied::ByHand(
            "whose code is trusted with a superuser's rights, and what owners may do, is the operator's to say.",
        ),
    )],
};

/// A table, and what keeps its owner out.
#[derive(Debug, Default)]
struct KeptOut {
    /// Schema and name, quoted where needed.
    table: String,
    owner: String,
    /// Row-level security holds for the owner too.
    forced: bool,
    lacking: Vec<String>,
    /// Functions that it may not call, as SQL writes them.
    denied: Vec<String>,
    /// Deferred triggers, quoted where needed.
    deferred: Vec<String>,
    /// What makes those not fire on apply, and leaves them to ordinary sessions as they are.
    quiet: Vec<String>,
}

async fn list(session: &Session) -> Result<Vec<KeptOut>, PgError> {
    let rows = session.query(KEPT_OUT, &[]).await?;
    let read = |row: &tokio_postgres::Row| KeptOut {
        table: row.get("table_name"),
        owner: row.get("owner"),
        forced: row.get("forced"),
        lacking: row.get("lacking"),
        denied: row.get("denied"),
        deferred: row.get("deferred"),
        quiet: row.get("quiet"),
    };
    Ok(rows.iter().map(read).collect())
}

pub(super) async fn check(database: &Entered) -> Answer {
    if database.to < BY_OWNERS_SINCE || database.run_as_owner {
        return Ok(Vec::new());
    }
    Ok(judge(&database.name, &list(&database.session).await?).into_iter().collect())
}

fn judge(database: &str, tables: &[KeptOut]) -> Option<Finding> {
    if tables.is_empty() {
        return None;
    }
    let names: Vec<_> = tables.iter().map(named).collect();
    let (count, keeps) = (counted(tables.len(), "table"), if tables.len() == 1 { "keeps its" } else { "keep their" });
    let message =
        format!("{count} of database `{database}` {keeps} own owner from applying changes: {}", listed(&names));
    let mut remedy: Vec<_> = tables.iter().flat_map(remedy).collect();
    remedy.sort();
    remedy.dedup();
    Some(
        Finding::blocker("table_owner.kept_out", message)
            .because("from 16 on table owners apply changes, and replication stops there")
            .number("tables", tables.len())
            .objects(tables.iter().map(|table| table.table.clone()))
            .fix(format!(
                "\\c {}\n{}\n-- or, if all code in that database may run as a superuser: run_as_owner = true under [target] in pgleap.toml",
                ident::quote(database),
                remedy.join("\n")
            )),
    )
}

fn named(KeptOut { table, owner, forced, lacking, denied, deferred, .. }: &KeptOut) -> String {
    let mut why = Vec::new();
    if *forced {
        why.push(format!("row-level security holds for {owner} too"));
    }
    if !lacking.is_empty() {
        why.push(format!("{owner} has no {}", lacking.join(", ")));
    }
    if !denied.is_empty() {
        why.push(format!("{owner} may not call {}", denied.join(", ")));
    }
    if !deferred.is_empty() {
        why.push(format!("deferred {}", deferred.join(", ")));
    }
    format!("{table} ({})", why.join("; "))
}

fn remedy(KeptOut { table, owner, forced, lacking, denied, quiet, .. }: &KeptOut) -> Vec<String> {
    let role = ident::quote(owner);
    let mut lines = Vec::new();
    if *forced {
        lines.push(format!(
            "ALTER ROLE {role} BYPASSRLS;  -- not if an application logs in as it, which would see every row"
        ));
    }
    if !lacking.is_empty() {
        lines.push(format!("GRANT {} ON {table} TO {role};", lacking.join(", ")));
    }
    lines.extend(denied.iter().map(|function| format!("GRANT EXECUTE ON FUNCTION {function} TO {role};")));
    lines.extend(quiet.iter().map(|quiet| format!("ALTER TABLE {table} {quiet};")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_named_and_each_statement_said_once() {
        let table = |name: &str| KeptOut { table: name.into(), owner: "Own".into(), ..KeptOut::default() };
        let forced = |name: &str| KeptOut { forced: true, ..table(name) };
        let both = KeptOut { lacking: vec!["UPDATE".into(), "DELETE".into()], ..forced("s.b") };
        let deferred = KeptOut { deferred: vec!["late".into()], ..table("s.c") };
        let finding = judge("app", &[forced("s.a"), both, deferred]).unwrap();
        assert_eq!(
            finding.message,
            "3 tables of database `app` keep their own owner from applying changes: `s.a (row-level security holds for Own too)`, \
             `s.b (row-level security holds for Own too; Own has no UPDATE, DELETE)`, `s.c (deferred late)`"
        );
        let remedy = finding.remedy.unwrap();
        assert_eq!(remedy.matches("BYPASSRLS").count(), 1, "{remedy}");
        assert!(remedy.contains("GRANT UPDATE, DELETE ON s.b TO \"Own\";"), "{remedy}");
        assert_eq!(judge("app", &[]), None);
    }
}
