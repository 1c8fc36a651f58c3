//! A table's fingerprint: how many rows, and a hash of their content, in buckets by key.
//!
//! Hashes are added, not XORed: XOR would cancel two equal rows. Columns are named, so their order does not matter.
//! Both servers must hash alike: `hash_record_extended` does for the common types from 14 on, and is about four times as
//! fast as text; where a type has no such hash on both, and on 13, rows are hashed as text under pinned settings.

use std::collections::{BTreeMap, HashSet};

use futures::future::try_join;
use tokio_postgres::types::Type;

use crate::pg::{PgError, Session, ident};

const MOST_BUCKETS: i32 = 16_384;

/// A table to be compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, virtual ones apart.
    pub columns: Vec<String>,
    /// The columns of its key; all columns where it has none.
    pub key: Vec<String>,
    /// About how many rows it has.
    pub estimated_rows: f64,
    /// How large it is on the side that is written to, in bytes, without what is kept out of line.
    pub bytes: i64,
    /// How its rows are hashed.
    pub method: Method,
}

impl Table {
    /// Returns how many buckets make it likely that the writes of one look touch few of them; a bucket is some fifty
    /// bytes here and on the servers.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to a small positive range")]
    pub fn buckets(&self) -> i32 {
        ((self.estimated_rows / 128.0) as i32).clamp(1, MOST_BUCKETS)
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// How rows are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By the server's own hash of a record.
    Record,
    /// By md5 of the row's text.
    Text,
}

/// Rows and the sum of their hashes in one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bucket {
    /// How many rows.
    pub rows: i64,
    /// The sum of their hashes, as the server wrote it.
    pub sum: String,
}

/// What a table holds, by bucket.
pub type Fingerprint = BTreeMap<i32, Bucket>;

/// Returns how many rows a fingerprint counts.
pub fn rows(fingerprint: &Fingerprint) -> i64 {
    fingerprint.values().map(|bucket| bucket.rows).sum()
}

/// Returns the buckets that differ.
pub fn differing(a: &Fingerprint, b: &Fingerprint) -> Vec<i32> {
    let all: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).copied().collect();
    all.into_iter().filter(|bucket| a.get(bucket) != b.get(bucket)).collect()
}

/// Settings under which a row's text is the same on every major.
pub const PINNED: &str = "SET extra_float_digits = 1; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
    SET TimeZone = 'UTC'; SET bytea_output = 'hex'; SET xmloption = 'content'; SET row_security = off;";

/// A comparison is in no hurry, and clients are: it takes one core of a server, and never more. Catalog queries of many tables
/// look expensive to the planner and are not: with JIT, 3,000 tables took 8 s to list, and 0.3 s without.
pub const UNHURRIED: &str = "SET max_parallel_workers_per_gather = 0; SET jit = off;";

const TABLES: &str = "
    SELECT n.nspname::text, c.relname::text, greatest(c.reltuples, 0)::float8,
           (SELECT array_agg(a.attname::text ORDER BY a.attname COLLATE \"C\") FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v') AS columns,
           (SELECT array_agg(a.attname::text ORDER BY a.attname COLLATE \"C\") FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum = ANY (
                   SELECT unnest(i.indkey) FROM pg_catalog.pg_index AS i
                    WHERE i.indrelid = c.oid AND (CASE WHEN c.relreplident = 'i' THEN i.indisreplident
                                                       ELSE i.indisprimary END))) AS key,
           coalesce(pg_catalog.pg_relation_size(c.oid), 0) AS bytes
      FROM pg_catalog.pg_publication_tables AS p
      JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
     WHERE p.pubname = $1 ORDER BY bytes DESC, 1, 2";

/// Tables whose rows this server can hash as records: every type in them, however deep, has an extended hash function.
/// Types are looked into once, however many columns have them.
const HASHABLE: &str = "
    WITH RECURSIVE col (schema, relation, type) AS MATERIALIZED (
           SELECT p.schemaname, p.tablename, a.atttypid
             FROM pg_catalog.pg_publication_tables AS p
             JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
             JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE p.pubname = $1),
         part (of, type) AS (
           SELECT type, type FROM col
            UNION
           SELECT part.of, inner_type
             FROM part JOIN pg_catalog.pg_type AS t ON t.oid = part.type,
                  LATERAL (
                  SELECT t.typbasetype WHERE t.typtype = 'd'
                   UNION ALL
                  SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
                   UNION ALL
                  SELECT r.rngsubtype FROM pg_catalog.pg_range AS r
                   WHERE r.rngtypid = t.oid OR pg_catalog.to_jsonb(r) ->> 'rngmultitypid' = t.oid::text
                   UNION ALL
                  SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
                   WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'c'
                  ) AS inner_types (inner_type)),
         hashed (type) AS (
           SELECT o.opcintype
             FROM pg_catalog.pg_opclass AS o
             JOIN pg_catalog.pg_am AS m ON m.oid = o.opcmethod AND m.amname = 'hash'
             JOIN pg_catalog.pg_amproc AS f ON f.amprocfamily = o.opcfamily AND f.amprocnum = 2
                  AND f.amproclefttype = o.opcintype AND f.amprocrighttype = o.opcintype
            WHERE o.opcdefault),
         whole (type, is_hashed) AS (
           SELECT part.of,
                  bool_and(t.typtype IN ('d', 'c', 'e', 'r', 'm') OR t.typcategory = 'A' AND t.typelem <> 0
                           OR t.oid IN (SELECT type FROM hashed)
                           OR EXISTS (SELECT FROM pg_catalog.pg_cast AS x JOIN hashed ON hashed.type = x.casttarget
                                       WHERE x.castsource = t.oid AND x.castmethod = 'b' AND x.castcontext = 'i'))
             FROM part JOIN pg_catalog.pg_type AS t ON t.oid = part.type GROUP BY 1)
    SELECT col.schema::text, col.relation::text
      FROM col JOIN whole ON whole.type = col.type
     WHERE pg_catalog.to_regproc('pg_catalog.hash_record_extended') IS NOT NULL
     GROUP BY 1, 2 HAVING bool_and(whole.is_hashed)";

async fn hashable(session: &Session, publication: &str) -> Result<HashSet<(String, String)>, PgError> {
    let rows = session.query(HASHABLE, &[&publication]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Returns the tables that `writer` publishes, the largest first; the marker table, which differs by design, apart.
///
/// # Errors
/// [`PgError`].
pub async fn tables(writer: &Session, follower: &Session, publication: &str) -> Result<Vec<Table>, PgError> {
    let (here, there) = try_join(hashable(writer, publication), hashable(follower, publication)).await?;
    let rows = writer.query(TABLES, &[&publication]).await?;
    let read = |row: &tokio_postgres::Row| {
        let columns: Vec<String> = row.get::<_, Option<_>>(3).unwrap_or_default();
        let key = row.get::<_, Option<Vec<String>>>(4).filter(|key| !key.is_empty()).unwrap_or_else(|| columns.clone());
        let name = (row.get(0), row.get(1));
        let method = if here.contains(&name) && there.contains(&name) { Method::Record } else { Method::Text };
        Table { schema: name.0, name: name.1, estimated_rows: row.get(2), bytes: row.get(5), columns, key, method }
    };
    Ok(rows.iter().map(read).filter(|table| table.schema != crate::pg::marker::SCHEMA).collect())
}

/// `$1` is none, or the buckets that are wanted.
fn statement(table: &Table) -> String {
    let row = |columns: &[String]| {
        let list: Vec<_> = columns.iter().map(|column| format!("t.{}", ident::quote(column))).collect();
        format!("ROW({})", list.join(", "))
    };
    let hash = |columns: &[String], bits: u8| match table.method {
        Method::Record => format!("hash_record_extended({}, 0)", row(columns)),
        Method::Text => {
            let digits = bits / 4;
            format!("('x' || substr(md5({}::text), 1, {digits}))::bit({bits})::bigint", row(columns))
        }
    };
    let name = ident::qualified(&table.schema, &table.name);
    let buckets = table.buckets();
    // a table without columns has rows all the same
    let sum = if table.columns.is_empty() { "0".to_owned() } else { hash(&table.columns, 64) };
    let bucket = match buckets {
        1 => "0".to_owned(),
        _ => format!("abs({} % {buckets})::int", hash(&table.key, 32)),
    };
    format!(
        "SELECT {bucket} AS bucket, count(*), sum({sum}::numeric)::text FROM ONLY {name} AS t \
         WHERE $1::int[] IS NULL OR {bucket} IN (SELECT unnest($1)) GROUP BY 1"
    )
}

/// Returns what the table holds in this session's snapshot, in all buckets or only in some.
///
/// # Errors
/// [`PgError`].
pub async fn take(session: &Session, table: &Table, only: Option<&[i32]>) -> Result<Fingerprint, PgError> {
    let rows = session.query_once(&statement(table), &[(&only, Type::INT4_ARRAY)]).await?;
    let read = |row: &tokio_postgres::Row| {
        (row.get(0), Bucket { rows: row.get(1), sum: row.get::<_, Option<String>>(2).unwrap_or_default() })
    };
    Ok(rows.iter().map(read).filter(|(_, bucket): &(i32, Bucket)| bucket.rows > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(buckets: &[(i32, i64, &str)]) -> Fingerprint {
        buckets.iter().map(|(n, rows, sum)| (*n, Bucket { rows: *rows, sum: (*sum).to_owned() })).collect()
    }

    #[test]
    fn buckets_that_are_missing_on_one_side_differ() {
        let a = fingerprint(&[(0, 2, "10"), (1, 1, "5")]);
        let b = fingerprint(&[(0, 2, "10"), (2, 1, "5")]);
        assert_eq!(differing(&a, &b), [1, 2]);
        assert_eq!(differing(&a, &a), [0; 0]);
        assert_eq!(rows(&a), 3);
    }
}
