//! The fence has a lease too: the server that is fenced opens itself again, if nobody decides in time.
//!
//! Guards let clients go on at the old address when pgleap, its host or the network dies; but rights that were taken away
//! would stay away. So a statement runs in the fenced server itself, which sleeps until shortly before the guards' leases
//! end and then gives the rights back. A server does not notice that its client died while a statement runs, so it needs
//! nobody. Whoever decides for the other side ends that backend first, waits until it is gone, and looks that the fence
//! still stands: either it had opened the server, and nothing is decided, or it never will. Does not survive a crash of that
//! server: it comes back fenced, and `resume` opens it.

use std::{sync::Arc, time::Duration};

use pgleap_saga::StepError;
use tokio::time::Instant;

use crate::{
    pg::{
        Session, Side,
        access::{self, Access},
    },
    world::World,
};

/// The backend that opens the server again.
pub struct FenceLease {
    session: Arc<Session>,
    key: i32,
    spared: Vec<String>,
}

/// How long before the guards let clients go the server is open again.
pub const HEAD_START: Duration = Duration::from_millis(200);
/// Longer than any write budget with its grace.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_micros(300);

/// Anything by which the server would end a statement whose client is gone, or that sleeps.
const UNDISTURBED: &str = "
    SELECT count(pg_catalog.set_config(name, '0', false)) FROM pg_catalog.pg_settings
     WHERE name IN ('client_connection_check_interval', 'statement_timeout', 'transaction_timeout', 'idle_session_timeout')";
const HOLD: &str = "SELECT pg_catalog.pg_try_advisory_lock($1, 1)";
/// Held by the connections that take rights away or give them back: what a dead process sent through one must not happen
/// after the next one has put things right.
const SIGN: &str = "SELECT pg_catalog.pg_advisory_lock_shared($1, 2)";
/// Backends of that lease, and those that signed; of an earlier process too, and never this one.
const END: &str = "
    SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_locks
     WHERE locktype = 'advisory' AND classid::bigint = $1::int AND objid IN (1, 2) AND objsubid = 2 AND granted
       AND pid <> pg_catalog.pg_backend_pid()";

/// Returns the number by which leases of this upgrade are known in the server.
fn key(world: &World) -> i32 {
    let id = i32::from_str_radix(&world.id, 16).unwrap_or_default();
    0x0070_0000 | (id & 0xFFFF)
}

/// Ends every backend that would open `side`, and returns when none is left.
///
/// # Errors
/// Fatal, if one does not go in time.
async fn end(session: &Session, key: i32, deadline: Instant) -> Result<(), StepError> {
    while session.query_one(END, &[&key]).await?.get::<_, i64>(0) > 0 {
        if Instant::now() >= deadline {
            return Err(StepError::fatal("the backend that holds the fence's lease does not end", "try again"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Ends what an interrupted switchover may have left on `side`: it would open the fence of the next one.
///
/// # Errors
/// If the side cannot be asked.
pub async fn forget(world: &World, side: Side) -> Result<(), StepError> {
    let session = world.cluster(side).db(&world.config.source.database).await?;
    end(&session, key(world), Instant::now() + Duration::from_secs(5)).await
}

/// Signs a connection through which rights are taken away or given back in the pause.
///
/// # Errors
/// If the server cannot be asked.
pub async fn sign(world: &World, session: &Session) -> Result<(), StepError> {
    session.query(SIGN, &[&key(world)]).await?;
    Ok(())
}

impl FenceLease {
    /// Whether its connection is gone: it would open nothing.
    pub fn is_lost(&self) -> bool {
        self.session.is_closed()
    }

    /// Opens the backend, and prepares what ends it on `from`, the connection that the pause uses; `spared` keep the right to
    /// connect.
    ///
    /// # Errors
    /// If the side cannot be asked, or a lease of this upgrade is held by somebody else.
    pub async fn warm(
        world: &World,
        side: Side,
        from: &Session,
        databases: &[String],
        spared: Vec<String>,
    ) -> Result<Self, StepError> {
        forget(world, side).await?;
        let session = world.cluster(side).open(&world.config.source.database, PATIENCE).await?;
        session.query_one(UNDISTURBED, &[]).await?;
        let key = key(world);
        if !session.query_one(HOLD, &[&key]).await?.get::<_, bool>(0) {
            return Err(StepError::fatal(format!("another switchover is under way on the {side}"), "wait for its end"));
        }
        from.prepare(END).await?;
        access::read(from, databases, &[]).await?;
        Ok(Self { session: Arc::new(session), key, spared })
    }

    /// Lets the server give these rights back at that moment, whatever happens to this process.
    pub fn arm(&self, saved: &[Access], at: Instant) {
        let seconds = at.saturating_duration_since(Instant::now()).as_secs_f64();
        let restore = access::restore(saved);
        let mut tag = "$lease$".to_owned();
        while restore.contains(&tag) {
            tag.insert(1, 'x');
        }
        let sql = format!("DO {tag} BEGIN PERFORM pg_catalog.pg_sleep({seconds}); {restore} END {tag}");
        let session = self.session.clone();
        // it ends as a connection that was closed, or it has opened the server: `disarm` looks which
        tokio::spawn(async move { drop(session.batch(&sql).await) });
    }

    /// Takes the decision away from the server: returns once it will not open itself any more, and has not.
    ///
    /// # Errors
    /// Fatal, if it has.
    pub async fn disarm(&self, from: &Session, databases: &[String], deadline: Instant) -> Result<(), StepError> {
        end(from, self.key, deadline).await?;
        if access::is_blocked(&access::read(from, databases, &self.spared).await?) {
            return Ok(());
        }
        Err(StepError::fatal("the fence's lease was over before the switchover was decided", "try again"))
    }
}
