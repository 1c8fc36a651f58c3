//! A table's fingerprint: how many rows, and a hash of their content, in buckets by key.
//!
//! Hashes are added, not XORed: XOR would cancel two equal rows. Columns are named, so their order does not matter.
//! Both servers must hash alike: `hash_record_extended` does for the common types from 14 on, and is about four times as
//! fast as text; where a type has no such hash, and on 13, rows are hashed as text under pinned settings.

use std::collections::BTreeMap;

use tokio_postgres::error::SqlState;

use crate::pg::{PgError, Session, ident};

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
}

impl Table {
    /// Returns how many buckets make it likely that a write touches few of them.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to a small positive range")]
    pub fn buckets(&self) -> i32 {
        ((self.estimated_rows / 256.0) as i32).clamp(1, 1024)
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

const TABLES: &str = "
    SELECT n.nspname::text, c.relname::text, greatest(c.reltuples, 0)::float8,
           (SELECT array_agg(a.attname::text ORDER BY a.attname COLLATE \"C\") FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v') AS columns,
           (SELECT array_agg(a.attname::text ORDER BY a.attname COLLATE \"C\") FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum = ANY (
                   SELECT unnest(i.indkey) FROM pg_catalog.pg_index AS i
                    WHERE i.indrelid = c.oid AND (CASE WHEN c.relreplident = 'i' THEN i.indisreplident
                                                       ELSE i.indisprimary END))) AS key
      FROM pg_catalog.pg_publication_tables AS p
      JOIN pg_catalog.pg_namespace AS n ON n.nspname = p.schemaname
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
     WHERE p.pubname = $1 ORDER BY c.relpages DESC, 1, 2";

/// Returns the tables of a publication, the largest first; the marker table, which differs by design, apart.
///
/// # Errors
/// [`PgError`].
pub async fn tables(session: &Session, publication: &str) -> Result<Vec<Table>, PgError> {
    let rows = session.query(TABLES, &[&publication]).await?;
    let read = |row: &tokio_postgres::Row| {
        let columns: Vec<String> = row.get::<_, Option<_>>(3).unwrap_or_default();
        let key = row.get::<_, Option<Vec<String>>>(4).filter(|key| !key.is_empty()).unwrap_or_else(|| columns.clone());
        Table { schema: row.get(0), name: row.get(1), estimated_rows: row.get(2), columns, key }
    };
    Ok(rows.iter().map(read).filter(|table| table.schema != crate::pg::marker::SCHEMA).collect())
}

fn statement(table: &Table, method: Method, buckets: i32) -> String {
    let row = |columns: &[String]| {
        let list: Vec<_> = columns.iter().map(|column| format!("t.{}", ident::quote(column))).collect();
        format!("ROW({})", list.join(", "))
    };
    let hash = |columns: &[String], bits: u8| match method {
        Method::Record => format!("hash_record_extended({}, 0)", row(columns)),
        Method::Text => {
            let digits = bits / 4;
            format!("('x' || substr(md5({}::text), 1, {digits}))::bit({bits})::bigint", row(columns))
        }
    };
    // a table without columns has rows all the same
    if table.columns.is_empty() {
        return format!("SELECT 0, count(*), '0' FROM ONLY {}", ident::qualified(&table.schema, &table.name));
    }
    let bucket = if buckets == 1 { "0".to_owned() } else { format!("abs({} % {buckets})::int", hash(&table.key, 32)) };
    format!(
        "SELECT {bucket} AS bucket, count(*), sum({}::numeric)::text FROM ONLY {} AS t GROUP BY 1",
        hash(&table.columns, 64),
        ident::qualified(&table.schema, &table.name)
    )
}

/// Returns what the table holds in this session's snapshot.
///
/// # Errors
/// [`PgError`]; [`has_no_hash`] tells whether [`Method::Text`] is needed.
pub async fn take(session: &Session, table: &Table, method: Method, buckets: i32) -> Result<Fingerprint, PgError> {
    let rows = session.query(&statement(table, method, buckets), &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        (row.get(0), Bucket { rows: row.get(1), sum: row.get::<_, Option<String>>(2).unwrap_or_default() })
    };
    Ok(rows.iter().map(read).filter(|(_, bucket): &(i32, Bucket)| bucket.rows > 0).collect())
}

/// Whether a server has no record hash for one of the table's types.
pub fn has_no_hash(error: &PgError) -> bool {
    error.sqlstate() == Some(&SqlState::UNDEFINED_FUNCTION)
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
