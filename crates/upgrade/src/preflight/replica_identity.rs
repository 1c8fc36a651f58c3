//! Tables whose UPDATE and DELETE cannot be replicated, and what it costs where rows are found by comparing all of them.

use std::collections::HashMap;

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, blocker, warning},
    finding::{counted, has, listed},
    rates::{self, WriteRate},
    source::Entered,
};
use crate::pg::ident;

const TABLES: &str = include_str!("sql/list_identity_problems.sql");

/// From here on rows are found by any btree index under FULL, in a table without a better identity.
const SEARCHED_SINCE: u16 = 16;

/// Rows times changes per second that are worth a word. Measured on 17 with a warm cache: 100 updates in 500,000 rows of four
/// columns took 7.6 s to apply, 6.6 million rows/s; a tenth leaves room for wider rows, a cold cache, and catching up.
const BEARABLE_ROWS_PER_S: f64 = 600_000.0;

/// A published table with something amiss.
#[derive(Debug, Clone, Default)]
struct Table {
    oid: u32,
    /// Schema and name, quoted where needed.
    name: String,
    /// `pg_class.relreplident`: d, n, f or i.
    identity: String,
    /// The columns of its primary key, if that is a deferrable one, which identifies nothing.
    deferrable_key: Option<String>,
    /// A name for an index of it, quoted where needed.
    new_index: String,
    /// A unique index that would do.
    usable_index: Option<String>,
    /// Columns whose type has no equality.
    incomparable: Vec<String>,
    /// It has stored generated columns, which no identity may hold.
    generated: bool,
    /// It has an index that 16 and later find rows by under FULL.
    searchable: bool,
    /// What FULL costs; `None` where nobody updates or deletes, or rows are found by an index.
    price: Option<Price>,
}

/// What FULL costs: for each row that is updated or deleted, a scan of the table where that is applied.
#[derive(Debug, Clone, PartialEq)]
struct Price {
    rows: u64,
    changes_per_s: f64,
    basis: String,
    place: &'static str,
}

impl Price {
    fn of(rate: &WriteRate, searchable: bool, from: u16, to: u16) -> Option<Self> {
        let searched = |major: u16| searchable && major >= SEARCHED_SINCE;
        let place = match (searched(to), searched(from)) {
            (true, true) => return None,
            (true, false) => "on the way back, where they are applied",
            (false, _) => "where they are applied",
        };
        let (rows, changes_per_s) = (rate.rows, rate.changes_per_s());
        (changes_per_s > 0.0).then(|| Self { rows, changes_per_s, basis: rate.basis(), place })
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn rows_per_s(&self) -> f64 {
        self.rows as f64 * self.changes_per_s
    }

    fn words(&self) -> String {
        let Self { rows, changes_per_s, basis, place } = self;
        format!("{changes_per_s:.1} updates and deletes/s ({basis}), each a scan of {rows} rows {place}")
    }
}

pub(super) const ABOUT: About = About {
    check: "replica_identity",
    topic: Topic::Tables,
    reads: "every table that will be published, its identity, its indexes, and how fast it is updated",
    why: "A table without identity refuses UPDATE and DELETE on the source from the moment it is published: an \
          outage for the application. With FULL every column is compared on the other side, which fails for types \
          without equality, and each change reads the table until its row is found: the price is the table's rows times the \
          rate of its updates and deletes. From 16 on an ordinary index is searched instead.",
    findings: &[
        blocker("replica_identity.missing", Applied::ByPgleap),
        blocker("replica_identity.index_missing", Applied::ByPgleap),
        blocker("replica_identity.no_equality", Applied::ByPgleap),
        warning(
            "replica_identity.full_scans",
            Applied::ByHand("who chose FULL may need it: another consumer that wants whole rows."),
        ),
    ],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let rows = database.session.query(TABLES, &[]).await?;
    let read = |row: &tokio_postgres::Row| Table {
        oid: row.get("oid"),
        name: row.get("table_name"),
        identity: row.get("identity"),
        deferrable_key: row.get("deferrable_key"),
        new_index: row.get("new_index"),
        usable_index: row.get("usable_index"),
        incomparable: row.get("incomparable"),
        generated: row.get("generated"),
        searchable: row.get("searchable"),
        price: None,
    };
    let mut tables: Vec<Table> = rows.iter().map(read).collect();
    let scanned: Vec<u32> = tables.iter().filter(|table| table.is_full_or_may_be()).map(|table| table.oid).collect();
    if !scanned.is_empty() {
        let rates = rates::measure(&database.session, Some(&scanned), database.may_wait).await?;
        let rates: HashMap<u32, WriteRate> = rates.into_iter().map(|rate| (rate.oid, rate)).collect();
        for table in &mut tables {
            let rate = rates.get(&table.oid);
            table.price = rate.and_then(|rate| Price::of(rate, table.searchable, database.from, database.to));
        }
    }
    // the dearest first, and the others by name
    tables.sort_by(|a, b| b.rows_per_s().total_cmp(&a.rows_per_s()));
    let mut findings = judge(&database.name, &tables);
    findings.extend(dear(&database.name, &tables));
    Ok(findings)
}

impl Table {
    fn is_full_or_may_be(&self) -> bool {
        self.identity == "f" || self.usable_index.is_none()
    }

    fn rows_per_s(&self) -> f64 {
        self.price.as_ref().map_or(0.0, Price::rows_per_s)
    }
}

/// Tables under FULL that are read more than an apply worker has time for.
fn dear(database: &str, tables: &[Table]) -> Option<Finding> {
    let dear = |table: &&Table| {
        table.identity == "f" && table.incomparable.is_empty() && table.rows_per_s() > BEARABLE_ROWS_PER_S
    };
    let tables: Vec<_> = tables.iter().filter(dear).collect();
    if tables.is_empty() {
        return None;
    }
    let priced = |table: &&Table| {
        let price = table.price.as_ref().map(Price::words).unwrap_or_default();
        format!("{}: {price}", table.name)
    };
    let names: Vec<_> = tables.iter().map(priced).collect();
    let (count, read): (usize, f64) = (tables.len(), tables.iter().map(|table| table.rows_per_s()).sum());
    let message = format!(
        "{} of database `{database}` {} REPLICA IDENTITY FULL and no index to find rows by: {}",
        counted(count, "table"),
        has(count),
        listed(&names)
    );
    let remedy = tables.iter().map(|table| match &table.usable_index {
        Some(index) => format!("ALTER TABLE {} REPLICA IDENTITY USING INDEX {};", table.name, ident::quote(index)),
        None => key(table, "rows are found by it"),
    });
    Some(
        Finding::warning("replica_identity.full_scans", message)
            .because(format!(
                "one worker applies them one by one and reads {read:.0} rows each second for it: it falls behind, or never \
                 catches up"
            ))
            .number("tables", count)
            .number("rows_read_per_s", read)
            .objects(tables.iter().map(|table| table.name.clone()))
            .fix(format!("\\c {}\n{}", ident::quote(database), remedy.collect::<Vec<_>>().join("\n"))),
    )
}

fn judge(database: &str, tables: &[Table]) -> Vec<Finding> {
    let of = |kinds: &[&str]| tables.iter().filter(|t| kinds.contains(&t.identity.as_str())).collect::<Vec<_>>();
    let incomparable = of(&["f"]).into_iter().filter(|table| !table.incomparable.is_empty()).collect();
    let refused =
        "once they are published, UPDATE, DELETE and INSERT … ON CONFLICT DO UPDATE on them fail on the source";
    let mut findings = Vec::new();
    for (id, tables, what, cause) in [
        ("replica_identity.missing", of(&["d", "n"]), "no replica identity", refused),
        ("replica_identity.index_missing", of(&["i"]), "a replica identity whose index is gone or invalid", refused),
        (
            "replica_identity.no_equality",
            incomparable,
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
        let cause = match tables.iter().filter(|table| table.deferrable_key.is_some()).count() {
            0 => cause.to_owned(),
            n => format!("{cause}; the primary key of {n} of them is deferrable and identifies nothing"),
        };
        let lines: Vec<_> = tables.iter().map(|table| remedy(database, table)).collect();
        let read: f64 = tables.iter().map(|table| table.rows_per_s()).sum();
        let remedy = format!("\\c {}\n{}", ident::quote(database), lines.join("\n"));
        let finding = Finding::blocker(id, message).because(cause).fix(remedy).number("tables", count);
        let finding = finding.number("full_rows_read_per_s", read);
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

/// Gives a table what identifies its rows: a primary key, or beside one that is deferrable an index that is not.
fn key(table: &Table, why: &str) -> String {
    let Table { name, new_index, .. } = table;
    match &table.deferrable_key {
        None => format!("ALTER TABLE {name} ADD PRIMARY KEY (…);  -- {why}"),
        Some(columns) => format!(
            "CREATE UNIQUE INDEX CONCURRENTLY {new_index} ON {name} ({columns});  -- its primary key is deferrable\n\
             ALTER TABLE {name} REPLICA IDENTITY USING INDEX {new_index};  -- {why}"
        ),
    }
}

fn remedy(database: &str, table: &Table) -> String {
    fix(database, table).map_or_else(
        || {
            let why = match table.incomparable.as_slice() {
                [] => "FULL would hold a generated column".to_owned(),
                columns => format!("{} cannot be compared", columns.join(", ")),
            };
            key(table, &why)
        },
        |fix| match (&fix, &table.price) {
            (Fix::ReplicaIdentity { index: None, .. }, Some(price)) => format!("{}  -- {}", fix.sql(), price.words()),
            _ => fix.sql(),
        },
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
        let json = Table { incomparable: vec!["j json".into()], ..table("s.d", "f") };
        let tables = [table("s.a", "d"), table("s.b", "n"), table("s.c", "i"), json, table("s.e", "f")];
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
        let deferrable = Table { deferrable_key: Some("a, \"B\"".into()), new_index: "a_identity".into(), ..json };
        assert_eq!(
            remedy("app", &deferrable),
            "CREATE UNIQUE INDEX CONCURRENTLY a_identity ON s.a (a, \"B\");  -- its primary key is deferrable\n\
             ALTER TABLE s.a REPLICA IDENTITY USING INDEX a_identity;  -- j json cannot be compared"
        );
        let generated = Table { generated: true, ..table("s.a", "d") };
        assert!(remedy("app", &generated).contains("generated") && fix("app", &generated).is_none());
    }

    #[test]
    fn price_of_full_is_told_in_its_remedy_and_alone_where_it_cannot_be_borne() {
        let rate = WriteRate {
            oid: 1,
            table: "s.a".into(),
            rows: 200_000,
            inserts_per_s: 9.0,
            updates_per_s: 3.0,
            deletes_per_s: 1.0,
            over_s: 1.0,
            is_window: true,
        };
        let price = |searchable, from, to| Price::of(&rate, searchable, from, to);
        let missing = Table { price: price(false, 15, 18), ..table("s.a", "d") };
        assert_eq!(
            remedy("app", &missing),
            "ALTER TABLE s.a REPLICA IDENTITY FULL;  -- 4.0 updates and deletes/s (over 1.0 s just now), each a scan of 200000 \
             rows where they are applied"
        );
        let full = Table { price: price(false, 15, 18), ..table("s.a", "f") };
        assert_eq!(dear("app", &[full]).unwrap().numbers["rows_read_per_s"], 800_000.0);
        let cheap = Table { price: price(false, 15, 18), ..table("s.a", "f") };
        let cheap = Table { price: cheap.price.map(|price| Price { rows: 1000, ..price }), ..table("s.a", "f") };
        assert_eq!(dear("app", &[cheap]), None);
        assert!(price(true, 16, 18).is_none(), "an index is searched on both sides");
        assert!(price(true, 15, 18).unwrap().place.starts_with("on the way back"));
    }
}
