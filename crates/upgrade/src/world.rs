//! What every step works on: both clusters, the poolers, this host's directories, and what the chain calls its objects.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use pgleap_local::Account;
use pgleap_saga::StepError;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Pooler, RouteKind},
    guard::{Launch, Ward, tls::TlsError},
    pg::{
        Cluster, Endpoint, Secret, Side,
        secret::{PasswordFrom, SecretError},
    },
    pgbouncer::ini::Address,
    route::{Route, command::Program},
    switchover::Hot,
};

/// A step's context.
pub type Cx<'a> = pgleap_saga::Cx<'a, World>;

/// What every step works on.
pub struct World {
    /// Four hexadecimal digits; part of the name of everything that pgleap makes in a server.
    pub id: String,
    /// What the operator wants.
    pub config: Config,
    /// The old cluster.
    pub source: Arc<Cluster>,
    /// The new cluster.
    pub target: Arc<Cluster>,
    /// The operating system's user that servers run as.
    pub account: Account,
    /// Standbys that clients only read from, as they were first asked for.
    standbys: Mutex<HashMap<(Side, Address), Arc<Cluster>>>,
    /// How clients are moved.
    pub route: Route,
    /// What is opened before the write pause, to be used in it.
    pub hot: tokio::sync::Mutex<Option<Hot>>,
}

/// A world cannot even be described.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A password could not be had.
    #[error("no password for {what}")]
    Secret {
        /// Whose.
        what: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// Guards on other hosts cannot be called.
    #[error(transparent)]
    Identity(#[from] TlsError),
    /// Servers cannot be run here.
    #[error(transparent)]
    Account(#[from] pgleap_local::AccountError),
}

async fn password(
    from: &Option<PasswordFrom>,
    host: &str,
    port: u16,
    user: &str,
    what: String,
) -> Result<Option<Secret>, WorldError> {
    let Some(from) = from else { return Ok(None) };
    from.fetch(host, port, user).await.map(Some).map_err(|source| WorldError::Secret { what, source })
}

/// Returns every pooler with the password of its admin.
///
/// # Errors
/// Every password that could not be had, at once.
pub async fn poolers(of: &[Pooler]) -> Result<Vec<Ward>, Vec<WorldError>> {
    let (mut poolers, mut errors) = (Vec::new(), Vec::new());
    for pooler in of {
        // the guard of another host has the password, and nobody else needs it
        if pooler.guard.is_some() {
            poolers.push(Ward::PgBouncer(pooler.clone(), None));
            continue;
        }
        let what = format!("PgBouncer {pooler}'s admin `{}`", pooler.user);
        match password(&pooler.password, &pooler.host, pooler.port, &pooler.user, what).await {
            Ok(password) => poolers.push(Ward::PgBouncer(pooler.clone(), password)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(poolers) } else { Err(errors) }
}

/// Returns everything of the route that guards watch over.
///
/// # Errors
/// Every password that could not be had, at once.
pub async fn wards(config: &Config) -> Result<Vec<Ward>, Vec<WorldError>> {
    match &config.route.kind {
        RouteKind::PgBouncer { .. } => poolers(&config.route.poolers).await,
        RouteKind::Command(program) => {
            let source = Address { host: config.source.host.clone(), port: config.source.port };
            let target = Address { host: config.target.host.clone(), port: config.target.port };
            Ok(vec![Ward::Program(Program::new(program.clone(), source, target))])
        }
        RouteKind::MultiHost => Ok(Vec::new()),
    }
}

/// A database of the upgrade, by its name and its number on the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Database {
    /// Its oid on the source: short, stable, and safe in the name of a slot.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

impl World {
    /// Describes the world of one upgrade. Passwords are fetched; no server is contacted. `guards` is who runs the guards of
    /// poolers where none answers.
    ///
    /// # Errors
    /// Every [`WorldError`] at once.
    pub async fn describe(config: Config, id: String, guards: Launch) -> Result<Self, Vec<WorldError>> {
        let mut errors = Vec::new();
        let s = &config.source;
        let what = format!("the source's role `{}`", s.user);
        let password = password(&s.password, &s.host, s.port, &s.user, what).await.unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        let wards = wards(&config).await.unwrap_or_else(|more| {
            errors.extend(more);
            Vec::new()
        });
        let account = Account::for_servers(config.provider.os_user.as_deref());
        let account = match account {
            Ok(account) if errors.is_empty() => account,
            Ok(_) => return Err(errors),
            Err(error) => {
                errors.push(error.into());
                return Err(errors);
            }
        };
        let application_name = format!("pgleap {id}");
        let source = Endpoint { host: s.host.clone(), port: s.port, user: s.user.clone(), password };
        // the copy brings the source's roles and passwords along
        let target = Endpoint { host: config.target.host.clone(), port: config.target.port, ..source.clone() };
        let identity = config.route.identity.as_ref();
        let route =
            Route::new(&config.route, wards, config.state_dir.clone(), guards, identity).map_err(|e| vec![e.into()])?;
        let source = Arc::new(Cluster::new(Side::Source, source, &application_name));
        let target = Arc::new(Cluster::new(Side::Target, target, &application_name));
        Ok(Self {
            standbys: Mutex::default(),
            source,
            target,
            id,
            account,
            route,
            hot: tokio::sync::Mutex::default(),
            config,
        })
    }

    /// Returns the cluster of that side.
    pub fn cluster(&self, side: Side) -> &Arc<Cluster> {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    /// Returns the standby of `side` at that address.
    pub fn standby(&self, side: Side, at: &Address) -> Arc<Cluster> {
        let mut standbys = self.standbys.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(Cluster::standby(self.cluster(side), at.host.clone(), at.port));
        standbys.entry((side, at.clone())).or_insert_with(made).clone()
    }

    /// Returns the name of the publication, in every database of both clusters.
    pub fn publication(&self) -> String {
        format!("pgleap_{}", self.id)
    }

    /// Returns the name of the slot on `from` and of the subscription on the other side that carry `database`.
    pub fn stream(&self, from: Side, database: &Database) -> String {
        let direction = match from {
            Side::Source => "fwd",
            Side::Target => "rev",
        };
        format!("pgleap_{}_{}_{direction}", self.id, database.oid)
    }

    /// Returns the name of the slot on a fenced cluster that shows who still wrote there.
    pub fn audit_slot(&self, database: &Database) -> String {
        format!("pgleap_{}_{}_audit", self.id, database.oid)
    }

    /// Returns the directories of this upgrade.
    pub fn places(&self) -> Places {
        let provider = &self.config.provider;
        Places {
            work: provider.work_dir.clone(),
            data: self.config.target.data_dir.clone(),
            copy: provider.standby.clone().unwrap_or_else(|| provider.work_dir.join("copy")),
        }
    }
}

/// The directories of an upgrade on this host.
#[derive(Debug, Clone)]
pub struct Places {
    work: PathBuf,
    /// The target's data directory.
    pub data: PathBuf,
    copy: PathBuf,
}

impl Places {
    /// Holds everything else of the upgrade on this host.
    pub fn work(&self) -> &PathBuf {
        &self.work
    }
    /// The copy's data directory: below the work directory, or that of the standby that is used up.
    pub fn copy(&self) -> &PathBuf {
        &self.copy
    }
    /// Sockets that only the servers' user can reach: where the quarantined copy listens.
    pub fn sockets(&self) -> PathBuf {
        self.work.join("s")
    }
    /// Logs of servers and tools.
    pub fn logs(&self) -> PathBuf {
        self.work.join("log")
    }
    /// Passwords for the two clusters' subscriptions and for the base backup, readable by the servers' user alone.
    pub fn passfile(&self) -> PathBuf {
        self.work.join("passfile")
    }
    /// Says whose these directories are.
    pub fn claim(&self) -> PathBuf {
        self.work.join("upgrade-id")
    }
}

/// Makes a step's failure from one of the local tools'.
pub fn local_failure(error: impl std::error::Error) -> StepError {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(cause) = inner {
        text.push_str(&format!(": {cause}"));
        inner = cause.source();
    }
    StepError::blocked(text, "remove the cause, then `pgleap resume`; or `pgleap unwind`")
}

/// Makes a step's failure from an operating system's error on `path`.
pub fn io_failure(what: &str, path: &std::path::Path, error: std::io::Error) -> StepError {
    StepError::blocked(format!("cannot {what} `{}`", path.display()), "remove the cause, then `pgleap resume`")
        .because(error.to_string())
}
