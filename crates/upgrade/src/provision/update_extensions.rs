//! Brings extensions on the target to the versions that come with its major.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::PrepareDatabases;
use crate::{
    pg::{Session, ident},
    world::{Cx, World},
};

/// Runs `ALTER EXTENSION … UPDATE` where a newer version is there.
pub struct UpdateExtensions;

const OUTDATED: &str = "
    SELECT e.extname::text, e.extversion, a.default_version
      FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_available_extensions AS a ON a.name = e.extname
     WHERE a.default_version <> e.extversion ORDER BY 1";

async fn outdated(session: &Session) -> Result<Vec<(String, String, String)>, StepError> {
    let rows = session.query(OUTDATED, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

impl Step<World> for UpdateExtensions {
    /// `database.extension from to`, for each that was updated.
    type Output = Vec<String>;
    const NAME: StepName = StepName("provision.update_extensions");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "update extensions on the target to the versions of its major".to_owned()
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<Vec<String>>, StepError> {
        for database in cx.output::<PrepareDatabases>()?.databases {
            if !outdated(&*cx.world.target.db(&database.name).await?).await?.is_empty() {
                return Ok(Observed::Absent);
            }
        }
        Ok(Observed::Done(Vec::new()))
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Vec<String>, StepError> {
        let mut updated = Vec::new();
        for database in cx.output::<PrepareDatabases>()?.databases {
            let session = cx.world.target.db(&database.name).await?;
            for (name, from, to) in outdated(&session).await? {
                match session.batch(&format!("ALTER EXTENSION {} UPDATE", ident::quote(&name))).await {
                    Ok(()) => updated.push(format!("{}.{name} {from} {to}", database.name)),
                    // it goes on working in its old version
                    Err(error) if !error.is_transient() => cx.warn(format!(
                        "extension `{name}` in database `{}` stays at {from}: {}",
                        database.name,
                        error.reason().unwrap_or_default()
                    )),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(updated)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
