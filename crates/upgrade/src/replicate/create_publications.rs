//! Publishes every table of the source.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use crate::{
    pg::{PgError, Session, ident},
    provision::PrepareDatabases,
    world::{Cx, World},
};

/// Creates the publication in every database, before any slot: one that is younger than the slot is not in its history.
///
/// The copy brings it along, so that the target publishes the same tables for reverse replication. From here on an UPDATE
/// or DELETE on a table without identity fails on the source: preflight stands before this.
pub struct CreatePublications;

const EXISTS: &str = "SELECT FROM pg_catalog.pg_publication WHERE pubname = $1 AND puballtables";

/// Drops the publication if it is there.
///
/// # Errors
/// [`PgError`].
pub async fn drop_publication(session: &Session, publication: &str) -> Result<(), PgError> {
    session.batch(&format!("DROP PUBLICATION IF EXISTS {}", ident::quote(publication))).await
}

impl Step<World> for CreatePublications {
    type Output = ();
    const NAME: StepName = StepName("replicate.create_publications");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "publish all tables of each database of the source".to_owned()
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<()>, StepError> {
        let databases = cx.output::<PrepareDatabases>()?.databases;
        let mut there = 0;
        for database in &databases {
            let session = cx.world.source.db(&database.name).await?;
            there += usize::from(session.query_opt(EXISTS, &[&cx.world.publication()]).await?.is_some());
        }
        Ok(match there {
            0 => Observed::Absent,
            n if n == databases.len() => Observed::Done(()),
            n => Observed::Partial(format!("{n} of {} databases have it", databases.len())),
        })
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let publication = cx.world.publication();
        for database in cx.output::<PrepareDatabases>()?.databases {
            let session = cx.world.source.db(&database.name).await?;
            if session.query_opt(EXISTS, &[&publication]).await?.is_none() {
                session.batch(&format!("CREATE PUBLICATION {} FOR ALL TABLES", ident::quote(&publication))).await?;
            }
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let Some(facts) = cx.try_output::<PrepareDatabases>()? else { return Ok(()) };
        for database in facts.databases {
            drop_publication(&*cx.world.source.db(&database.name).await?, &cx.world.publication()).await?;
        }
        Ok(())
    }
}
