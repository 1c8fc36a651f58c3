//! Collations whose sort order is not the one that indexes were built with, or will not be on the target.

use std::collections::BTreeSet;

use pgleap_local::Icu;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, note, warning},
    finding::{counted, listed},
    source::Entered,
};
use crate::pg::ident;

/// `{database}` is what a database says of its own collation, from 15 on.
const CHANGED: &str = "
    WITH changed AS (
        SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.collname) AS name, c.collversion AS built,
               pg_catalog.pg_collation_actual_version(c.oid) AS now
          FROM pg_catalog.pg_collation AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.collnamespace
         WHERE c.collversion IS NOT NULL {database}
    ), sorted (relation, by) AS (
        SELECT x.indexrelid, u.oid
          FROM pg_catalog.pg_index AS x CROSS JOIN LATERAL unnest(x.indcollation) AS u (oid) WHERE x.indexrelid >= 16384
         UNION
        SELECT p.partrelid, u.oid
          FROM pg_catalog.pg_partitioned_table AS p CROSS JOIN LATERAL unnest(p.partcollation) AS u (oid) WHERE p.partstrat = 'r'
    )
    SELECT c.name, c.built, c.now, pg_catalog.format('%I.%I', n.nspname, r.relname), r.relkind = 'p'
      FROM changed AS c JOIN sorted AS s ON s.by = c.oid
      JOIN pg_catalog.pg_class AS r ON r.oid = s.relation AND r.relkind IN ('i', 'p')
      JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace
     WHERE c.built <> c.now ORDER BY 1, 4";

const OF_DATABASE: &str = "
        UNION ALL
        SELECT 100, '', datcollversion, pg_catalog.pg_database_collation_actual_version(oid)
          FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND datcollversion IS NOT NULL";

/// Indexes that ICU sorts, and whether anything else names it. `{default}` is whether the database's own collation is ICU's.
const OF_ICU: &str = "
    WITH icu AS (
        SELECT oid, oid >= 16384 AND collnamespace <> 'pg_catalog'::regnamespace AS is_own
          FROM pg_catalog.pg_collation WHERE collprovider = 'i' UNION ALL SELECT 100, true WHERE {default}
    )
    SELECT coalesce(array_agg(pg_catalog.format('%I.%I', n.nspname, i.relname) ORDER BY n.nspname, i.relname), '{}'),
           EXISTS (SELECT FROM icu WHERE is_own)
           OR EXISTS (SELECT FROM icu JOIN (
                      -- a few of many, before they are met with hundreds of collations
                      SELECT DISTINCT a.attcollation AS oid FROM pg_catalog.pg_attribute AS a
                       WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> 0) AS used
                      ON used.oid = icu.oid)
      FROM pg_catalog.pg_class AS i JOIN pg_catalog.pg_namespace AS n ON n.oid = i.relnamespace
     WHERE i.oid IN (SELECT x.indexrelid FROM pg_catalog.pg_index AS x CROSS JOIN LATERAL unnest(x.indcollation) AS u (oid)
                       JOIN icu ON icu.oid = u.oid WHERE x.indexrelid >= 16384)
       AND i.relkind = 'i'";

const DEFAULT_IS_ICU: &str = "
    (SELECT datlocprovider = 'i' FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";

/// From here on a database remembers the version of its collation.
const REMEMBERED_SINCE: u16 = 15;

pub(super) const ABOUT: About = About {
    check: "collations",
    topic: Topic::Objects,
    reads: "the versions of collations that indexes were built with, those of the source's libc and ICU, and the ICU that the \
            programs of both majors were built with",
    why: "A new libc or ICU sorts otherwise, and an index that was built by the old order misses rows: duplicates get past a \
          unique index, and changes that are applied do not find their row. The copy has the same files, so it has the same \
          indexes. So it is with rows of a table partitioned by ranges of text: they stay where the old order put them, and are \
          looked for elsewhere. Both servers run on one host and have one libc; each has the ICU that its packages were built with. pgleap \
          rebuilds such indexes on the target before changes are applied; the source's own are the operator's.",
    findings: &[
        blocker("collation.no_icu", Applied::ByHand("packages of this host are its administrator's.")),
        warning("collation.changed", Applied::ByHand("rebuilding indexes takes time and space.")),
        warning(
            "collation.moves_rows",
            Applied::ByHand("which rows are where they should not be has to be looked at."),
        ),
        note("collation.icu_differs", Applied::ByHand("nothing has to be done.")),
    ],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let mut findings = changed(database).await?;
    let default = if database.from >= REMEMBERED_SINCE { DEFAULT_IS_ICU } else { "false" };
    let row = database.session.query_one(&OF_ICU.replace("{default}", default), &[]).await?;
    let (indexes, is_named): (Vec<String>, bool) = (row.get(0), row.get(1));
    if is_named || !indexes.is_empty() {
        // programs that are not here are a finding of their own
        let programs = &database.programs;
        findings.extend(by_icu(database, &indexes, programs.source_icu(), programs.target_icu()));
    }
    Ok(findings)
}

/// Compares the ICU of the two majors' programs; what is not known of one is not compared.
fn by_icu(database: &Entered, indexes: &[String], from: Option<Icu>, to: Option<Icu>) -> Option<Finding> {
    let name = &database.name;
    match (from, to?) {
        (_, Icu::Without) => {
            let message =
                format!("PostgreSQL {} on this host is built without ICU, which database `{name}` uses", database.to);
            Some(
                Finding::blocker("collation.no_icu", message)
                    .because("pg_upgrade fails where it makes a collation, a column or an index of that provider")
                    .objects(indexes.iter().cloned())
                    .fix(format!("install packages of PostgreSQL {} that are built with ICU", database.to)),
            )
        }
        (Some(Icu::Linked(from)), Icu::Linked(to)) if from != to && !indexes.is_empty() => {
            let message = format!(
                "the source's programs have ICU {from}, the target's {to}: {} of database `{name}` may be in another order there: {}",
                counted(indexes.len(), "index"),
                listed(indexes)
            );
            Some(
                Finding::note("collation.icu_differs", message)
                    .because(
                        "where the order is another, such an index misses rows, and changes are applied by these indexes: pgleap \
                         rebuilds those whose collation has another version on the target, before it applies any",
                    )
                    .objects(indexes.iter().cloned())
                    .number("source_icu", from)
                    .number("target_icu", to),
            )
        }
        _ => None,
    }
}

async fn changed(database: &Entered) -> Answer {
    let of_database = if database.from >= REMEMBERED_SINCE { OF_DATABASE } else { "" };
    let rows = database.session.query(&CHANGED.replace("{database}", of_database), &[]).await?;
    let mut remedy = Vec::new();
    let mut indexes: Vec<String> = Vec::new();
    let mut collations: Vec<String> = Vec::new();
    let (of_tables, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.get::<_, bool>(4));
    let moved = moves_rows(&database.name, &of_tables);
    for row in &rows {
        let (collation, built, now): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let index: String = row.get(3);
        if !indexes.contains(&index) {
            remedy.push(format!("REINDEX INDEX CONCURRENTLY {index};"));
            indexes.push(index);
        }
        let name = if collation.is_empty() { "the database's" } else { collation };
        collations.push(format!("{name} {built} → {now}"));
    }
    if indexes.is_empty() {
        return Ok(moved.into_iter().collect());
    }
    collations.dedup();
    for name in rows.iter().map(|row| row.get::<_, &str>(0)).collect::<BTreeSet<_>>() {
        remedy.push(match name {
            "" => format!("ALTER DATABASE {} REFRESH COLLATION VERSION;", ident::quote(&database.name)),
            name => format!("ALTER COLLATION {name} REFRESH VERSION;"),
        });
    }
    let message = format!(
        "database `{}` has {} built with another version of their collation ({}): {}",
        database.name,
        counted(indexes.len(), "index"),
        collations.join(", "),
        listed(&indexes)
    );
    let changed = Finding::warning("collation.changed", message)
        .because(
            "where the order is another, such an index misses rows; pgleap rebuilds them on the target, and nobody here",
        )
        .objects(indexes)
        .fix(format!("\\c {}\n{}", ident::quote(&database.name), remedy.join("\n")));
    Ok(moved.into_iter().chain([changed]).collect())
}

/// Shows, once run, which partitions hold rows of others; what the server says of a partition's bounds is a condition.
const ASTRAY: &str = "SELECT pg_catalog.format('SELECT %L AS partition, count(*) FROM ONLY %s WHERE NOT (%s)', p.oid::pg_catalog.regclass, \
                      p.oid::pg_catalog.regclass, pg_catalog.pg_get_partition_constraintdef(p.oid)) FROM pg_catalog.pg_partition_tree(";

fn moves_rows(database: &str, rows: &[tokio_postgres::Row]) -> Option<Finding> {
    let tables: BTreeSet<String> = rows.iter().map(|row| row.get(3)).collect();
    let tables: Vec<_> = tables.into_iter().collect();
    if tables.is_empty() {
        return None;
    }
    let looks = tables.iter().map(|table| {
        format!(
            "{ASTRAY}{}) AS t JOIN pg_catalog.pg_class AS p ON p.oid = t.relid WHERE t.isleaf AND t.level > 0 \\gexec",
            ident::literal(table)
        )
    });
    let message = format!(
        "database `{database}` has {} partitioned by ranges of text whose collation has another version now: {}",
        counted(tables.len(), "table"),
        listed(&tables)
    );
    Some(
        Finding::warning("collation.moves_rows", message)
            .because("a row that the new order puts into another partition is not found where it is")
            .fix(format!(
                "\\c {}\n{}\n-- rows that are counted: INSERT them again through the table, and DELETE them there",
                ident::quote(database),
                looks.collect::<Vec<_>>().join("\n")
            ))
            .objects(tables),
    )
}
