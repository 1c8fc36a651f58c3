//! Makes the side that served refuse writers.

use std::time::Duration;

use futures::future::try_join;
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName, fault_point};
use tokio::time::Instant;

use super::{
    confirm_gates::ConfirmGates,
    fence_lease::{self, HEAD_START},
    hot::{cold, databases, lease, patience},
    let_go::or_let_go,
};
use crate::{
    pg::{
        Session, Side,
        access::{self, Foreign},
    },
    readers::address,
    route::Clients,
    world::{Cx, World},
};

/// Takes away the right to connect while the pools drain, ends what is still connected, and looks that nobody came back.
///
/// A read-only default alone is no fence: any role may begin a transaction READ WRITE, and one that was open before may
/// still commit. Superusers pass it all: if one was there, the switchover is taken back.
pub struct Fence {
    /// The side that serves.
    pub from: Side,
    /// What clients see of it.
    pub clients: Clients,
}

/// Somebody who changes these databases' rights at the same time must not use the pause up.
const LOCK_MS: u32 = 300;
const LOOK_EVERY: Duration = Duration::from_millis(1);
const END_EVERY: Duration = Duration::from_millis(20);

fn list(sessions: &[Foreign]) -> String {
    sessions.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

const END_OLDER: &str = "
    SELECT pg_catalog.format('pid %s (role `%s`, `%s`, database `%s`)', pid, usename, application_name, datname)
      FROM pg_catalog.pg_stat_activity
     WHERE datname = ANY($1::text[]) AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
       AND application_name <> $2 AND xact_start < now() - $3::float8 * interval '1 s'
       AND NOT coalesce(usename = ANY($4::text[]), false) AND pg_catalog.pg_terminate_backend(pid)";

/// Ends transactions that are older than the policy bears, for as long as the pools drain; ends only with an error.
async fn end_older(cx: &Cx<'_>, session: &Session, names: &[String], spared: &[String]) -> Result<(), StepError> {
    let Some(age) = cx.world.config.fence.end_older else { return std::future::pending().await };
    loop {
        let ended =
            session.query(END_OLDER, &[&names, &cx.world.source.application_name, &age.as_secs_f64(), &spared]).await?;
        for row in ended {
            cx.warn(format!("{} was ended: its transaction held the pause up", row.get::<_, String>(0)));
        }
        tokio::time::sleep(END_EVERY).await;
    }
}

/// Sends clients away that cannot be kept waiting, each at the end of its transaction; returns when none is left, or when the
/// time that transactions have for that is over.
async fn wind_down(
    cx: &Cx<'_>,
    session: &Session,
    names: &[String],
    spared: &[String],
    deadline: Instant,
) -> Result<(), StepError> {
    let until = deadline.min(Instant::now() + cx.world.config.route.finish);
    let own = &cx.world.source.application_name;
    while access::end_idle(session, names, own, spared).await? > 0 && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Refuses a pause in which superusers were seen: where one was, it may be again, and write when nobody looks any more.
///
/// # Errors
/// Fatal, naming them.
pub fn refuse_superusers(world: &World, from: Side, sessions: &[Foreign]) -> Result<(), StepError> {
    let tolerated = &world.config.fence.tolerate;
    let passing: Vec<_> = sessions.iter().filter(|session| session.passes_fence(tolerated)).cloned().collect();
    if passing.is_empty() {
        return Ok(());
    }
    Err(StepError::fatal(format!("superusers pass the fence of the {from}"), SUPERUSER_HINT).because(list(&passing)))
}

/// What to do about a superuser's session.
pub const SUPERUSER_HINT: &str = "give it a role that is no superuser, or end it; or name it under `fence.tolerate` if it never writes; then try again";

impl Step<World> for Fence {
    type Output = ();
    const NAME: StepName = StepName("switchover.fence");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        let from = self.from;
        match self.clients {
            Clients::Wait => format!("fence the {from}: pools drained, no new logins, nobody left connected"),
            _ => format!("fence the {from}: no new logins, transactions let end for a moment, nobody left connected"),
        }
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let world = cx.world;
        let saved = cx.output::<ConfirmGates>()?;
        let (_, names) = databases(cx)?;
        let (session, entries, spared) = {
            let hot = world.hot.lock().await;
            let hot = hot.as_ref().ok_or_else(cold)?;
            hot.check()?;
            let paused_at = hot.paused_at.unwrap_or_else(Instant::now);
            hot.lease.arm(&saved, paused_at + lease(world) - HEAD_START);
            (hot.from.clone(), hot.entries.clone(), hot.ways.roles.clone())
        };
        let (own, spared) = (&world.source.application_name, &spared);
        // who only reads is not waited for: it may end its transaction where it is
        let serving = address(world.cluster(self.from));
        let writers: Vec<_> = entries.iter().map(|entries| entries.leading_to(&serving)).collect();
        let deadline = patience(cx);
        // a paused pool opens no connection, so nobody is refused who should only wait; what is under way still ends well
        // one transaction, as one message: on an error nothing of it is left open in this session
        let sql = format!("SET LOCAL lock_timeout = '{LOCK_MS}ms'; {}", access::block(&saved));
        let block = async { Ok(session.batch(&sql).await?) };
        let emptied = async {
            if self.clients == Clients::Wait {
                return try_join(block, world.route.drained(&writers, deadline)).await.map(drop);
            }
            // who is sent away first must not be let in again
            block.await?;
            wind_down(cx, &session, &names, spared, deadline).await
        };
        tokio::select! {
            done = emptied => done?,
            failed = end_older(cx, &session, &names, spared) => failed?,
        }
        fault_point!("switchover.fence.after_block");
        loop {
            let ended = access::end_foreign(&session, &names, own, spared).await?;
            refuse_superusers(world, self.from, &ended)?;
            // a superuser that is tolerated may be back at once; the audit looks whether it wrote
            if ended.iter().all(|session| session.superuser) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(StepError::fatal(
                    format!("the {} cannot be fenced: sessions stay or come back", self.from),
                    "end what is named, then try again",
                )
                .because(list(&ended)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let Some(saved) = cx.try_output::<ConfirmGates>()? else { return Ok(()) };
        let give_back = async {
            fence_lease::forget(cx.world, self.from).await?;
            let session = cx.world.cluster(self.from).db(&cx.world.config.source.database).await?;
            Ok(session.batch(&access::restore(&saved)).await?)
        };
        // before the pools are resumed, so that nobody is refused; but not for as long as the server may be gone
        or_let_go(cx, self.from, give_back).await
    }
}
