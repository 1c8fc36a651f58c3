//! Collations whose sort order is not the one that indexes were built with.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, warning},
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
    )
    SELECT c.name, c.built, c.now, pg_catalog.format('%I.%I', n.nspname, i.relname)
      FROM changed AS c JOIN pg_catalog.pg_index AS x ON c.oid = ANY (x.indcollation)
      JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid AND i.oid >= 16384 AND i.relkind = 'i'
      JOIN pg_catalog.pg_namespace AS n ON n.oid = i.relnamespace
     WHERE c.built <> c.now ORDER BY 1, 4";

const OF_DATABASE: &str = "
        UNION ALL
        SELECT 100, '', datcollversion, pg_catalog.pg_database_collation_actual_version(oid)
          FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND datcollversion IS NOT NULL";

/// From here on a database remembers the version of its collation.
const REMEMBERED_SINCE: u16 = 15;

pub(super) const ABOUT: About = About {
    check: "collations",
    topic: Topic::Objects,
    reads: "the versions of collations that indexes were built with, and those of the source's libc and ICU",
    why: "A new libc or ICU sorts otherwise, and an index that was built by the old order misses rows: duplicates get past a \
          unique index, and changes that are applied do not find their row. The copy has the same files, so it has the same \
          indexes. What the target's own libc or ICU does is seen when it is there.",
    findings: &[warning("collation.changed", Applied::ByHand("rebuilding indexes takes time and space."))],
};

pub(super) async fn check(database: &Entered) -> Answer {
    let of_database = if database.from >= REMEMBERED_SINCE { OF_DATABASE } else { "" };
    let rows = database.session.query(&CHANGED.replace("{database}", of_database), &[]).await?;
    let mut remedy = Vec::new();
    let mut indexes: Vec<String> = Vec::new();
    let mut collations: Vec<String> = Vec::new();
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
        return Ok(Vec::new());
    }
    collations.dedup();
    for name in rows.iter().map(|row| row.get::<_, &str>(0)).collect::<std::collections::BTreeSet<_>>() {
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
    Ok(vec![
        Finding::warning("collation.changed", message)
            .because("where the order is another, such an index misses rows; changes are applied by these indexes on the target")
            .objects(indexes)
            .fix(format!("\\c {}\n{}", ident::quote(&database.name), remedy.join("\n"))),
    ])
}
