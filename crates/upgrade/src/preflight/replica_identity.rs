//! Tables whose UPDATE and DELETE cannot be replicated.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, blocker},
    finding::{counted, has, listed},
    source::Entered,
};
use crate::pg::ident;

const TABLES: &str = include_str!("sql/list_identity_problems.sql");

/// A published table with something amiss.
#[derive(Debug, Clone, Default)]
struct Table {
    /// Schema and name, quoted where needed.
    name: String,
    /// `pg_class.relreplident`: d, n, f or i.
    identity: String,
    /// It has a primary key, but a deferrable one, which identifies nothing.
    deferrable_key: bool,
    /// A unique index that would do.
    usable_index: Option<String>,
    /// Columns whose type has no equality.
    incomparable: Vec<String>,
    /// It has stored generated columns, which no identity may hold.
    generated: bool,
}

pub(super) const ABOUT: About = About {
    check: "replica_identity",
    topic: Topic::Tables,
    reads: "every table that will be published, its identity and its indexes",
    why: "A table without identity refuses UPDATE and DELETE on the source from the moment it is published: an \
          outage for the application. With FULL every column is compared on the other side, which fails for types \
          without equality.",
    findings: &[
        blocker("replica_identity.missing", Applied::ByPgleap),
        blocker("replica_identity.index_missing", Applied::ByPgleap),
        blocker("replica_identity.no_equality", Applied::ByPgleap),
    ],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(TABLES, &[]).await?;
    let read = |row: &tokio_postgres::Row| Table {
        name: row.get("table_name"),
        identity: row.get("identity"),
        deferrable_key: row.get("deferrable_key"),
        usable_index: row.get("usable_index"),
        incomparable: row.get("incomparable"),
        generated: row.get("generated"),
    };
    let tables: Vec<Table> = rows.iter().map(read).collect();
    Ok(judge(&database.name, &tables))
}

fn judge(database: &str, tables: &[Table]) -> Vec<Finding> {
    let of = |kinds: &[&str]| tables.iter().filter(|t| kinds.contains(&t.identity.as_str())).collect::<Vec<_>>();
    let refused =
        "once they are published, UPDATE, DELETE and INSERT … ON CONFLICT DO UPDATE on them fail on the source";
    let mut findings = Vec::new();
    for (id, tables, what, cause) in [
        ("replica_identity.missing", of(&["d", "n"]), "no replica identity", refused),
        ("replica_identity.index_missing", of(&["i"]), "a replica identity whose index is gone or invalid", refused),
        (
            "replica_identity.no_equality",
            of(&["f"]),
            "REPLICA IDENTITY FULL and columns without equality",
            "an UPDATE or DELETE on them cannot find its row on the other side, and replication stops there",
        ),
    ] {
        if tables.is_empty() {
            continue;
        }
        let names: Vec<_> = tables.iter().map(|table| with_columns(table)).collect();
        let count = tables.len();
        let message =
            format!("{} of database `{database}` {} {what}: {}", counted(count, "table"), has(count), listed(&names));
        let cause = match tables.iter().filter(|table| table.deferrable_key).count() {
            0 => cause.to_owned(),
            n => format!("{cause}; the primary key of {n} of them is deferrable and identifies nothing"),
        };
        let lines: Vec<_> = tables.iter().map(|table| remedy(database, table)).collect();
        let remedy = format!("\\c {}\n{}", ident::quote(database), lines.join("\n"));
        let finding = Finding::blocker(id, message).because(cause).fix(remedy).number("tables", count);
        let finding = finding.objects(tables.iter().map(|table| table.name.clone()));
        findings.push(finding.fixes(tables.iter().filter_map(|table| fix(database, table))));
    }
    findings
}

fn with_columns(table: &Table) -> String {
    match table.identity.as_str() {
        "f" => format!("{} ({})", table.name, table.incomparable.join(", ")),
        _ => table.name.clone(),
    }
}

fn fix(database: &str, table: &Table) -> Option<Fix> {
    // without an index, FULL would only move the failure to the other side where columns cannot be compared
    let works = table.usable_index.is_some() || (table.incomparable.is_empty() && !table.generated);
    works.then(|| Fix::ReplicaIdentity {
        database: database.to_owned(),
        table: table.name.clone(),
        index: table.usable_index.clone(),
    })
}

fn remedy(database: &str, table: &Table) -> String {
    fix(database, table).map_or_else(
        || {
            let why = match table.incomparable.as_slice() {
                [] => "FULL would hold a generated column".to_owned(),
                columns => format!("{} cannot be compared", columns.join(", ")),
            };
            format!("ALTER TABLE {} ADD PRIMARY KEY (…);  -- {why}", table.name)
        },
        |fix| fix.sql(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, identity: &str) -> Table {
        Table { name: name.into(), identity: identity.into(), ..Table::default() }
    }

    #[test]
    fn each_kind_of_problem_is_one_finding_for_each_database() {
        let tables = [table("s.a", "d"), table("s.b", "n"), table("s.c", "i"), table("s.d", "f")];
        let findings = judge("app", &tables);
        let ids: Vec<_> = findings.iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["replica_identity.missing", "replica_identity.index_missing", "replica_identity.no_equality"]);
        assert_eq!(findings[0].message, "2 tables of database `app` have no replica identity: `s.a`, `s.b`");
        assert_eq!(judge("app", &[]), []);
    }

    #[test]
    fn remedy_takes_a_unique_index_before_full_and_full_only_where_rows_can_be_compared() {
        let by_index = Table { usable_index: Some("Odd".into()), ..table("s.a", "d") };
        assert_eq!(remedy("app", &by_index), "ALTER TABLE s.a REPLICA IDENTITY USING INDEX \"Odd\";");
        assert_eq!(remedy("app", &table("s.a", "d")), "ALTER TABLE s.a REPLICA IDENTITY FULL;");
        let json = Table { incomparable: vec!["j json".into()], ..table("s.a", "d") };
        assert!(remedy("app", &json).contains("PRIMARY KEY") && fix("app", &json).is_none());
        let generated = Table { generated: true, ..table("s.a", "d") };
        assert!(remedy("app", &generated).contains("generated") && fix("app", &generated).is_none());
    }
}
