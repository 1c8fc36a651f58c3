//! When a trigger fires, in a table and in its partitions.

use serde::{Deserialize, Serialize};

use crate::{
    pg::{PgError, Session},
    preflight::fix::TriggerMode,
};

/// When a trigger of one table fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    /// The trigger's oid.
    pub oid: u32,
    /// Its table, as SQL writes it.
    pub table: String,
    /// The trigger, as SQL writes it.
    pub trigger: String,
    /// `pg_trigger.tgenabled`: O, D, R or A.
    pub enabled: String,
}

/// A change of a partitioned table's trigger reaches those of its partitions.
const TREE: &str = "
    WITH RECURSIVE tree AS (
        SELECT t.oid, 0 AS depth FROM pg_catalog.pg_trigger AS t
         WHERE t.tgrelid = pg_catalog.to_regclass($1) AND pg_catalog.quote_ident(t.tgname) = $2
        UNION ALL
        SELECT t.oid, tree.depth + 1 FROM tree JOIN pg_catalog.pg_trigger AS t ON t.tgparentid = tree.oid
    )
    SELECT t.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(t.tgname), t.tgenabled::text
      FROM tree JOIN pg_catalog.pg_trigger AS t ON t.oid = tree.oid JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace ORDER BY tree.depth, 2";

/// A partition that is made later gets its trigger from its parent, as that fires then.
const MADE_SINCE: &str = "
    WITH RECURSIVE tree AS (
        SELECT t.oid, 0 AS depth FROM pg_catalog.pg_trigger AS t WHERE t.oid = $1
        UNION ALL
        SELECT t.oid, tree.depth + 1 FROM tree JOIN pg_catalog.pg_trigger AS t ON t.tgparentid = tree.oid
    )
    SELECT t.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(t.tgname), t.tgparentid
      FROM tree JOIN pg_catalog.pg_trigger AS t ON t.oid = tree.oid JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE t.oid <> ALL ($2::oid[]) ORDER BY tree.depth, 2";

const NOW: &str = "
    SELECT t.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(t.tgname), t.tgenabled::text
      FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE t.oid = $1";

fn letter(mode: TriggerMode) -> &'static str {
    match mode {
        TriggerMode::Enable => "O",
        TriggerMode::Disable => "D",
    }
}

impl Firing {
    /// Reads a trigger and those that partitions have of it.
    pub(super) async fn tree(session: &Session, table: &str, trigger: &str) -> Result<Vec<Self>, PgError> {
        Ok(session.query(TREE, &[&table, &trigger]).await?.iter().map(Self::of).collect())
    }

    /// Returns the triggers of partitions that were made since `firing` was read, each to fire as its parent's did.
    pub(super) async fn made_since(session: &Session, firing: &[Self]) -> Result<Vec<Self>, PgError> {
        let Some(root) = firing.first() else { return Ok(Vec::new()) };
        let known: Vec<u32> = firing.iter().map(|trigger| trigger.oid).collect();
        let mut made: Vec<Self> = Vec::new();
        for row in session.query(MADE_SINCE, &[&root.oid, &known]).await? {
            let parent: u32 = row.get(3);
            let parent = firing.iter().chain(&made).find(|trigger| trigger.oid == parent).unwrap_or(root);
            let enabled = parent.enabled.clone();
            made.push(Self { oid: row.get(0), table: row.get(1), trigger: row.get(2), enabled });
        }
        Ok(made)
    }

    fn of(row: &tokio_postgres::Row) -> Self {
        Self { oid: row.get(0), table: row.get(1), trigger: row.get(2), enabled: row.get(3) }
    }

    /// Whether it fires as the fix makes it.
    pub(super) fn is(&self, mode: TriggerMode) -> bool {
        self.enabled == letter(mode)
    }

    /// Puts it back, if it still fires as the fix made it. Returns a word for the operator if it does not.
    pub(super) async fn put_back(&self, session: &Session, mode: TriggerMode) -> Result<Option<String>, PgError> {
        let Some(row) = session.query_opt(NOW, &[&self.oid]).await? else { return Ok(None) };
        let now = Self::of(&row);
        let (table, trigger) = (&now.table, &now.trigger);
        if now.enabled == self.enabled {
            return Ok(None);
        }
        if !now.is(mode) {
            return Ok(Some(format!("trigger {trigger} of {table} was changed since, and is left as it is")));
        }
        let verb = match self.enabled.as_str() {
            "A" => "ENABLE ALWAYS",
            "R" => "ENABLE REPLICA",
            "D" => "DISABLE",
            _ => "ENABLE",
        };
        // a partition may have had it otherwise, and is put back by itself
        session.batch(&format!("ALTER TABLE ONLY {table} {verb} TRIGGER {trigger}")).await?;
        Ok(None)
    }
}
