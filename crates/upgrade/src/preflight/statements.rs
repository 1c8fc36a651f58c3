//! pg_stat_statements as the checks see it: the view of any one database tells of all.

use std::sync::Arc;

use futures::{StreamExt, stream};

use super::{AT_ONCE, PATIENCE, source::Source};
use crate::{
    pg::{PgError, Session},
    world::World,
};

/// Asking the view fails where the library is not loaded; columns came with the extension's own versions.
const PLACE: &str = "
    SELECT pg_catalog.quote_ident(n.nspname),
           EXISTS (SELECT FROM pg_catalog.pg_class AS i
                    WHERE i.relnamespace = n.oid AND i.relname = 'pg_stat_statements_info')
      FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements'
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'max_exec_time'
     WHERE e.extname = 'pg_stat_statements'";

const SINCE: &str =
    "SELECT pg_catalog.to_char(stats_reset, 'YYYY-MM-DD HH24:MI') FROM {schema}.pg_stat_statements_info";

/// Where statements are counted.
pub(super) struct Statements {
    /// In a database that has the extension.
    pub session: Arc<Session>,
    /// Its name.
    pub database: String,
    /// The extension's schema there, as SQL writes it.
    pub schema: String,
    /// Since when, from 14 on: what a database says of its own statistics is another time.
    pub since: Option<String>,
}

impl Statements {
    /// Looks for the extension in the database of `source.dsn`, then in those of the upgrade; `None` where nobody counts.
    ///
    /// # Errors
    /// [`PgError`], if a database that was entered does not say.
    pub async fn find(world: &World, source: &Source) -> Result<Option<Self>, PgError> {
        let loaded = source.setting("shared_preload_libraries").unwrap_or_default();
        if !loaded.contains("pg_stat_statements") {
            return Ok(None);
        }
        let first = &world.config.source.database;
        if let Some(found) = Self::within(first.clone(), source.session.clone()).await? {
            return Ok(Some(found));
        }
        let others: Vec<_> = source.names().into_iter().filter(|name| name != first).collect();
        let looks = others.into_iter().map(|name| async move {
            // one that cannot be entered is a finding of its own
            let Ok(session) = world.source.look(&name, PATIENCE).await else { return Ok(None) };
            Self::within(name, Arc::new(session)).await
        });
        let mut looks = stream::iter(looks).buffered(AT_ONCE);
        while let Some(found) = looks.next().await {
            if let Some(found) = found? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn within(database: String, session: Arc<Session>) -> Result<Option<Self>, PgError> {
        let Some(row) = session.query_opt(PLACE, &[]).await? else { return Ok(None) };
        let (schema, has_info): (String, bool) = (row.get(0), row.get(1));
        let since = match has_info {
            true => session.query_one(&SINCE.replace("{schema}", &schema), &[]).await?.get(0),
            false => None,
        };
        Ok(Some(Self { session, database, schema, since }))
    }

    /// Returns `, since …`, where that is known.
    pub fn since(&self) -> String {
        self.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default()
    }

    /// Returns what shows the texts of statements with these ids.
    pub fn texts(&self, ids: &[&str]) -> String {
        let ids = if ids.is_empty() { &["NULL"] } else { ids };
        format!(
            "\\c {}\nSELECT queryid, query FROM {}.pg_stat_statements WHERE queryid IN ({});  -- their texts",
            crate::pg::ident::quote(&self.database),
            self.schema,
            ids.join(", ")
        )
    }
}
