//! After a switchover: who writes to the side that was fenced, other than by replication.
//!
//! A superuser passes every fence. What it writes to the old side is not on the new one, and nobody would know. A temporary slot
//! in each database shows every transaction that began there; it goes with the connection, and keeps no WAL after it.

use crate::{
    pg::{
        PgError, Session, Side,
        decode::{self, Decoded},
    },
    world::{Database, World},
};

/// Watches one side for writes that did not come by replication.
pub struct Strays {
    side: Side,
    publication: String,
    databases: Vec<(String, Session)>,
}

/// The name of the slot; temporary ones of several watchers must differ, so the backend's number is part of it.
const CREATE: &str = "
    SELECT slot_name::text FROM pg_catalog.pg_create_logical_replication_slot(
        'pgleap_strays_' || pg_catalog.pg_backend_pid(), 'pgoutput', true)";

impl Strays {
    /// Begins to watch `side`, from now on.
    ///
    /// # Errors
    /// [`PgError`], if it cannot be asked, or has no slot left.
    pub async fn watch(world: &World, side: Side, databases: &[Database]) -> Result<Self, PgError> {
        let mut watched = Vec::new();
        for database in databases {
            let session = world.cluster(side).open(&database.name, world.config.budgets.slot_creation).await?;
            session.query_one(CREATE, &[]).await?;
            watched.push((database.name.clone(), session));
        }
        Ok(Self { side, publication: world.publication(), databases: watched })
    }

    /// Returns the side that is watched.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Returns what was written since the last look: a line for each transaction, for a person.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn look(&self) -> Result<Vec<String>, PgError> {
        let mut found = Vec::new();
        for (database, session) in &self.databases {
            for Decoded { xid, commit } in decode::local(session, &self.publication).await? {
                found.push(format!(
                    "somebody wrote to the {}, which is fenced: transaction {xid} in database `{database}` committed at {commit}; \
                     it is not on the {}: find who connects there as a superuser, and carry it over by hand",
                    self.side,
                    self.side.other()
                ));
            }
        }
        Ok(found)
    }
}
