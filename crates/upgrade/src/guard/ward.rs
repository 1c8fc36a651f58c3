//! What a guard can watch over: something at which clients wait, and that can be led elsewhere.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use pgleap_saga::StepError;
use tokio::time::Instant;

use super::note::Turn;
use crate::{
    config::{GuardAddress, Pooler},
    files::Outlives,
    pg::Secret,
    pgbouncer::{
        PgBouncer,
        admin::{Entry, Traffic},
        ini::Address,
        inspect::{Inspection, Unseen, inspect},
        pooler::Move,
    },
    route::command::Program,
};

/// One of them, as it is described before anything is connected.
#[derive(Debug, Clone)]
pub enum Ward {
    /// A PgBouncer process, with the password of its admin.
    PgBouncer(Pooler, Option<Secret>),
    /// The operator's own program.
    Program(Program),
}

impl Ward {
    /// Returns how requests to its guard name it.
    pub fn console(&self) -> String {
        match self {
            Self::PgBouncer(pooler, _) => pooler.console(),
            Self::Program(program) => program.console(),
        }
    }

    /// Returns the guard on its host, if that is another one.
    pub fn guard(&self) -> Option<&GuardAddress> {
        match self {
            Self::PgBouncer(pooler, _) => pooler.guard.as_ref(),
            Self::Program(_) => None,
        }
    }

    /// Returns what the note of a pause of it must outlive: a PgBouncer of the guard's own host dies with that, and begins anew with
    /// its file; what a program pauses may be anywhere.
    pub fn outlives(&self) -> Outlives {
        let is_here = |host: &str| {
            host.starts_with('/') || host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        };
        match self {
            Self::PgBouncer(pooler, _) if is_here(&pooler.host) => Outlives::Process,
            Self::PgBouncer(..) | Self::Program(_) => Outlives::Host,
        }
    }

    /// Takes it into a guard's hands; nothing is connected yet.
    pub fn take(self) -> Kept {
        match self {
            Self::PgBouncer(pooler, password) => Kept::PgBouncer(Box::new(PgBouncer::new(pooler, password))),
            Self::Program(program) => Kept::Program(program),
        }
    }
}

impl fmt::Display for Ward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PgBouncer(pooler, _) => write!(f, "PgBouncer {pooler}"),
            Self::Program(program) => program.fmt(f),
        }
    }
}

/// What a guard watches over, in its hands. Everything may be done twice.
pub enum Kept {
    /// A PgBouncer process.
    PgBouncer(Box<PgBouncer>),
    /// The operator's own program.
    Program(Program),
}

impl Kept {
    /// Returns its entries: what clients enter by, where that leads, and whether they wait there.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn entries(&self) -> Result<Vec<Entry>, StepError> {
        match self {
            Self::PgBouncer(pooler) => Ok(pooler.admin().await?.entries().await?),
            Self::Program(program) => program.entries().await,
        }
    }

    /// Returns what went through each entry.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn traffic(&self) -> Result<Vec<Traffic>, StepError> {
        match self {
            Self::PgBouncer(pooler) => Ok(pooler.admin().await?.traffic().await?),
            Self::Program(_) => Ok(Vec::new()),
        }
    }

    /// Returns the directory that it was started in, if that is needed to find its files and known.
    pub fn started_in(&self) -> Option<PathBuf> {
        match self {
            Self::PgBouncer(pooler) => pooler.known_directory().clone(),
            Self::Program(_) => None,
        }
    }

    /// Takes what an earlier guard knew of [`Self::started_in`].
    pub fn remember(&self, started_in: Option<PathBuf>) {
        if let Self::PgBouncer(pooler) = self {
            *pooler.known_directory() = started_in;
        }
    }

    /// Looks at everything that the checks ask about, and changes nothing.
    ///
    /// # Errors
    /// [`Unseen`].
    pub async fn inspect(&self, source: &Address) -> Result<Inspection, Unseen> {
        match self {
            Self::PgBouncer(pooler) => inspect(pooler, source).await,
            Self::Program(_) => {
                Err(Unseen::Silent(StepError::blocked("a program has no console", "ask for its entries")))
            }
        }
    }

    /// Sees that these entries can be led elsewhere, and leads none.
    ///
    /// # Errors
    /// Blocked, saying why not.
    pub async fn rehearse(&self, moves: &[Move]) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => pooler.rehearse(moves).await,
            Self::Program(program) => match moves.iter().find(|step| !step.entries.is_empty()) {
                Some(step) => program.check(&step.new).await,
                None => Ok(()),
            },
        }
    }

    /// Takes back what an interrupted trial of its logins may have left.
    ///
    /// # Errors
    /// If its file cannot be replaced, or it does not answer.
    pub async fn tidy(&self) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => pooler.tidy().await,
            Self::Program(_) => Ok(()),
        }
    }

    /// Sees that what stands there can itself log in where these entries are to be led; returns of whom that is not known by
    /// the deadline. What it is led by is changed only between `begin` and the drop of what that returns.
    ///
    /// # Errors
    /// Fatal, saying who cannot, and why; what `begin` said.
    pub async fn try_logins<G: Send>(
        &self,
        moves: &[Move],
        deadline: Instant,
        begin: impl Future<Output = Result<G, StepError>> + Send,
    ) -> Result<Vec<String>, StepError> {
        match self {
            Self::PgBouncer(pooler) => pooler.try_logins(moves, deadline, begin).await,
            // a program says for itself, when it is checked, whether it could
            Self::Program(_) => Ok(Vec::new()),
        }
    }

    /// Opens what a pause of so many entries will use.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn warm_up(&self, entries: usize) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => {
                pooler.warm_up(entries).await?;
                // where its files are is known then, also to a guard that was just started
                pooler.ini().await.map(drop)
            }
            Self::Program(_) => Ok(()),
        }
    }

    /// Lets clients wait, and returns when that is seen: transactions under way go on to their ends.
    ///
    /// # Errors
    /// What it answered, or fatal, naming what is not paused in time.
    pub async fn pause(&self, turn: &Turn, lease: Duration, deadline: Instant) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => pooler.pause(&turn.entries(), deadline).await,
            Self::Program(program) => program.pause(&turn.id, lease, deadline).await,
        }
    }

    /// Waits until no transaction is under way at the server.
    ///
    /// # Errors
    /// What it answered, or fatal, naming whose transaction does not end.
    pub async fn drained(&self, entries: &[Entry], deadline: Instant) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => pooler.drained(entries, deadline).await,
            Self::Program(program) => program.drained(deadline).await,
        }
    }

    /// Leads every entry to its new address, and returns when it is there; where clients `wait`, it may be there when they go on.
    ///
    /// # Errors
    /// [`StepError`]; running this again finishes it.
    pub async fn repoint(&self, moves: &[Move], wait: bool, deadline: Instant) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => pooler.repoint(moves, wait, deadline).await,
            Self::Program(program) => match moves.iter().find(|step| !step.entries.is_empty()) {
                Some(step) => program.repoint(&step.new, deadline).await,
                None => Ok(()),
            },
        }
    }

    /// Lets clients go on, those of `led` at the new address, and returns when that is seen.
    ///
    /// # Errors
    /// Transient, naming what stays paused, or where it was.
    pub async fn resume(&self, entries: &[Entry], led: &[Move]) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => pooler.resume(entries, led).await,
            Self::Program(program) => program.resume().await,
        }
    }

    /// Waits until what leads its clients is what a crash of the host leaves.
    ///
    /// # Errors
    /// Blocked, if the disk does not say so.
    pub async fn keep(&self) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => pooler.keep().await,
            Self::Program(_) => Ok(()),
        }
    }

    /// Lets it read its configuration anew.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn reload(&self) -> Result<(), StepError> {
        match self {
            Self::PgBouncer(pooler) => Ok(pooler.reload().await.map(drop)?),
            // there is nothing that it should read anew: what a look costs is what is to be known
            Self::Program(program) => program.status().await.map(drop),
        }
    }
}
