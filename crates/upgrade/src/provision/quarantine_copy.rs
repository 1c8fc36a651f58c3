//! Takes from the copy what it must not bring along: everybody's access, subscriptions, slots.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::{PrepareDatabases, copy::Copy};
use crate::{
    pg::{Session, access, ident},
    world::{Cx, World},
};

/// Closes every database of the copy to clients and drops subscriptions and slots that were copied.
///
/// Done before pg_upgrade, which carries it over: the target is closed from its first moment, and stays so until the
/// switchover opens it. Databases that are not part of the upgrade stay closed for good: they are not kept up to date.
pub struct QuarantineCopy;

/// What was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Who could connect.
    pub access: Vec<access::Access>,
    /// Subscriptions that were dropped, as `database.name`.
    pub subscriptions: Vec<String>,
    /// Slots that were dropped.
    pub slots: Vec<String>,
}

const DATABASES: &str =
    "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn AND datname <> 'template1'";
const SUBSCRIPTIONS: &str = "
    SELECT s.subname::text FROM pg_catalog.pg_subscription AS s
      JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid WHERE d.datname = pg_catalog.current_database()";
const SLOTS: &str = "
    SELECT slot_name::text, pg_catalog.pg_drop_replication_slot(slot_name) IS NULL FROM pg_catalog.pg_replication_slots";

impl QuarantineCopy {
    async fn entrance(cx: &Cx<'_>) -> Result<(Copy, Session, Vec<String>), StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        let copy = Copy::of(cx.world, facts.major(), &facts.bootstrap_superuser)?;
        let session = copy.session(cx.world, &cx.world.config.source.database).await?;
        let names = session.query(DATABASES, &[]).await?.iter().map(|row| row.get(0)).collect();
        Ok((copy, session, names))
    }
}

impl Step<World> for QuarantineCopy {
    type Output = Quarantined;
    const NAME: StepName = StepName("provision.quarantine_copy");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "close the copy to clients; drop the subscriptions and slots that were copied".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Quarantined>, StepError> {
        // what was taken away cannot be seen any more once it is gone: only the journal says that it is done
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Quarantined, StepError> {
        let (copy, session, names) = Self::entrance(cx).await?;
        let access = access::read(&session, &names, &[]).await?;
        session.batch(&access::block(&access)).await?;
        let mut subscriptions = Vec::new();
        for name in &names {
            let session = copy.session(cx.world, name).await?;
            for row in session.query(SUBSCRIPTIONS, &[]).await? {
                let subscription: String = row.get(0);
                let quoted = ident::quote(&subscription);
                session.batch(&format!("ALTER SUBSCRIPTION {quoted} DISABLE")).await?;
                // the slot is the upstream's and in use by the source: it must not be touched
                session.batch(&format!("ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE)")).await?;
                session.batch(&format!("DROP SUBSCRIPTION {quoted}")).await?;
                subscriptions.push(format!("{name}.{subscription}"));
            }
        }
        let slots: Vec<String> = session.query(SLOTS, &[]).await?.iter().map(|row| row.get(0)).collect();
        Ok(Quarantined { access, subscriptions, slots })
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
