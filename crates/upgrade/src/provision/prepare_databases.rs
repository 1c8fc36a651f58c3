//! Writes down what the source is, and gives each of its databases the marker table.

use futures::future::try_join_all;
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use crate::{
    config::Databases,
    pg::{PgError, Session, Side, marker},
    world::{Cx, Database, World},
};

/// Creates schema `pgleap` with the marker table in every database of the upgrade.
///
/// It comes before the copy, so both clusters have it, and before the publication, so its rows travel.
pub struct PrepareDatabases {
    /// The marker table is made; without it the source is only looked at.
    pub marker: bool,
}

/// The source, as it was when the upgrade began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// `server_version_num`, such as 150018.
    pub version_num: u32,
    /// `server_version`, such as `15.18 (Debian …)`.
    pub version: String,
    /// From `pg_control_system()`: tells whether it is still the same cluster.
    pub system_identifier: String,
    /// The role that initdb made; pg_upgrade wants the same one.
    pub bootstrap_superuser: String,
    /// The databases of the upgrade.
    pub databases: Vec<Database>,
}

impl SourceFacts {
    /// Returns the source's major version.
    pub fn major(&self) -> u16 {
        u16::try_from(self.version_num / 10_000).unwrap_or_default()
    }

    /// Returns the names of the databases of the upgrade.
    pub fn names(&self) -> Vec<String> {
        self.databases.iter().map(|database| database.name.clone()).collect()
    }
}

const FACTS: &str = "
    SELECT pg_catalog.current_setting('server_version_num')::int AS num,
           pg_catalog.current_setting('server_version') AS version,
           (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system,
           (SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = 10) AS bootstrap";

const DATABASES: &str = "
    SELECT oid, datname::text FROM pg_catalog.pg_database
     WHERE datallowconn AND NOT datistemplate ORDER BY datname";

const PREPARED: &str = "
    SELECT pg_catalog.to_regclass('pgleap.marker') IS NOT NULL,
           (SELECT pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = 'pgleap')";

/// Returns the databases that an upgrade of all is of: those that can be entered, and are no templates.
///
/// # Errors
/// [`PgError`].
pub async fn all_databases(session: &Session) -> Result<Vec<Database>, PgError> {
    let rows = session.query(DATABASES, &[]).await?;
    Ok(rows.iter().map(|row| Database { oid: row.get(0), name: row.get(1) }).collect())
}

/// Reads what the source is.
///
/// # Errors
/// [`PgError`].
pub async fn read_facts(session: &Session, wanted: &Databases) -> Result<SourceFacts, PgError> {
    let row = session.query_one(FACTS, &[]).await?;
    let databases = all_databases(session).await?.into_iter().filter(|database| match wanted {
        Databases::All => true,
        Databases::Only(names) => names.contains(&database.name),
    });
    Ok(SourceFacts {
        version_num: u32::try_from(row.get::<_, i32>(0)).unwrap_or_default(),
        version: row.get(1),
        system_identifier: row.get(2),
        bootstrap_superuser: row.get(3),
        databases: databases.collect(),
    })
}

fn comment(id: &str) -> String {
    format!("pgleap upgrade {id}; removed by `pgleap unwind` or `pgleap finalize`")
}

impl PrepareDatabases {
    async fn facts(&self, cx: &Cx<'_>) -> Result<SourceFacts, StepError> {
        let session = cx.world.source.db(&cx.world.config.source.database).await?;
        Ok(read_facts(&session, &cx.world.config.source.databases).await?)
    }
}

impl Step<World> for PrepareDatabases {
    type Output = SourceFacts;
    const NAME: StepName = StepName("provision.prepare_databases");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        match self.marker {
            true => "create schema `pgleap` with its marker table in each database of the source".to_owned(),
            false => "look what the source is".to_owned(),
        }
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<SourceFacts>, StepError> {
        let facts = self.facts(cx).await?;
        if !self.marker {
            return Ok(Observed::Done(facts));
        }
        let mut prepared = 0;
        for database in &facts.databases {
            let row = cx.world.source.db(&database.name).await?.query_one(PREPARED, &[]).await?;
            match (row.get(0), row.get::<_, Option<String>>(1)) {
                (_, Some(other)) if other != comment(&cx.world.id) => {
                    return Err(StepError::blocked(
                        format!(
                            "database `{}` has a schema `pgleap` that is not this upgrade's: {other}",
                            database.name
                        ),
                        "finish or unwind that upgrade first; if it is gone, `DROP SCHEMA pgleap CASCADE`",
                    ));
                }
                (true, Some(_)) => prepared += 1,
                _ => {}
            }
        }
        Ok(match prepared {
            n if n == facts.databases.len() => Observed::Done(facts),
            0 => Observed::Absent,
            n => Observed::Partial(format!("{n} of {} databases have it", facts.databases.len())),
        })
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<SourceFacts, StepError> {
        let facts = self.facts(cx).await?;
        let sql = format!(
            "BEGIN; {} COMMENT ON SCHEMA pgleap IS {}; COMMIT;",
            marker::CREATE,
            crate::pg::ident::literal(&comment(&cx.world.id))
        );
        try_join_all(facts.databases.iter().map(async |database| {
            let session = cx.world.source.db(&database.name).await?;
            session.batch(&sql).await?;
            // both rows are there before anything is copied: the update of one that is missing would be passed over silently
            marker::write(&session, Side::Target).await?;
            marker::write(&session, Side::Source).await
        }))
        .await?;
        Ok(facts)
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        if !self.marker {
            return Ok(());
        }
        let facts = self.facts(cx).await?;
        for database in &facts.databases {
            drop_schema(&*cx.world.source.db(&database.name).await?, &cx.world.id).await?;
        }
        Ok(())
    }
}

/// Drops schema `pgleap` if it is this upgrade's.
///
/// # Errors
/// [`PgError`].
pub async fn drop_schema(session: &Session, id: &str) -> Result<(), PgError> {
    let row = session.query_one(PREPARED, &[]).await?;
    if row.get::<_, Option<String>>(1).is_some_and(|text| text == comment(id)) {
        session.batch("DROP SCHEMA pgleap CASCADE").await?;
    }
    Ok(())
}
