//! The replica identity of a table.

use serde::{Deserialize, Serialize};

use crate::pg::{PgError, Session, ident};

/// What identifies the rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The table's oid: it may be renamed.
    pub oid: u32,
    /// The table, as SQL writes it.
    pub table: String,
    /// `pg_class.relreplident`: d, n, f or i.
    pub kind: String,
    /// The index, under i; none if it is gone.
    pub index: Option<String>,
}

const COLUMNS: &str = "
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relreplident::text,
           (SELECT ic.relname::text FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
             WHERE i.indrelid = c.oid AND i.indisreplident)
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace";

/// Without an identity its UPDATE and DELETE would fail there from now on; publications of inserts alone do not mind.
const PUBLISHED: &str = "
    SELECT EXISTS (SELECT FROM pg_catalog.pg_publication AS p
                     JOIN pg_catalog.pg_publication_tables AS t ON t.pubname = p.pubname
                    WHERE (p.pubupdate OR p.pubdelete)
                      AND pg_catalog.format('%I.%I', t.schemaname, t.tablename)::regclass::oid = $1)";

impl Identity {
    /// Reads it of a table by its name; `None` if there is none.
    pub(super) async fn named(session: &Session, table: &str) -> Result<Option<Self>, PgError> {
        let row = session.query_opt(&format!("{COLUMNS} WHERE c.oid = pg_catalog.to_regclass($1)"), &[&table]).await?;
        Ok(row.as_ref().map(Self::of))
    }

    /// Reads it of the same table now, whatever that is called.
    async fn now(&self, session: &Session) -> Result<Option<Self>, PgError> {
        Ok(session.query_opt(&format!("{COLUMNS} WHERE c.oid = $1"), &[&self.oid]).await?.as_ref().map(Self::of))
    }

    fn of(row: &tokio_postgres::Row) -> Self {
        Self { oid: row.get(0), table: row.get(1), kind: row.get(2), index: row.get(3) }
    }

    /// Whether it is what the fix makes of it: by that index, or FULL.
    pub(super) fn is(&self, index: Option<&str>) -> bool {
        match index {
            Some(_) => self.kind == "i" && self.index.as_deref() == index,
            None => self.kind == "f",
        }
    }

    /// Puts it back, if it still is what the fix made of it. Returns a word for the operator where it is not as it was.
    pub(super) async fn put_back(&self, session: &Session, index: Option<&str>) -> Result<Option<String>, PgError> {
        let Some(now) = self.now(session).await? else { return Ok(None) };
        let table = &now.table;
        if self.is(index) || (now.kind == self.kind && now.index == self.index) {
            return Ok(None);
        }
        if !now.is(index) {
            return Ok(Some(format!("the replica identity of {table} was changed since, and is left as it is")));
        }
        if session.query_one(PUBLISHED, &[&self.oid]).await?.get(0) {
            let word = format!("the replica identity of {table} is left as it is: a publication has it");
            return Ok(Some(word));
        }
        let (identity, word) = match (self.kind.as_str(), &self.index) {
            ("d", _) => ("DEFAULT".to_owned(), None),
            ("f", _) => ("FULL".to_owned(), None),
            ("i", Some(index)) => (format!("USING INDEX {}", ident::quote(index)), None),
            // it pointed at an index that was gone, which works as NOTHING does and cannot be made again
            ("i", None) => {
                ("NOTHING".to_owned(), Some(format!("{table} has REPLICA IDENTITY NOTHING: its index was gone before")))
            }
            _ => ("NOTHING".to_owned(), None),
        };
        session.batch(&format!("ALTER TABLE {table} REPLICA IDENTITY {identity}")).await?;
        Ok(word)
    }
}
