//! The copy while it is still of the source's major: quarantined, on a private socket, reached by nobody but pgleap.
//!
//! A copy must not act: no logical workers (an apply worker would take over the upstream's slot), no archiving, no
//! preloaded job schedulers, no autovacuum, no address that a client could find.

use std::{path::PathBuf, time::Duration};

use pgleap_local::{Server, StopMode};
use pgleap_saga::StepError;
use tokio::time::Instant;

use super::{disposable::Disposable, settings};
use crate::{
    pg::{Cluster, Endpoint, Session, Side},
    world::{World, io_failure, local_failure},
};

/// The port in the name of the private socket; nothing listens on it.
const PORT: u16 = 5432;
const APPEAR_BUDGET: Duration = Duration::from_secs(15);
/// Of the copy under pg_upgrade: the default.
const MAX_CONNECTIONS: u64 = 100;
/// A copy may have to replay all the log of a base backup before it lets anybody in; this only ends what hangs.
const START_BUDGET: Duration = Duration::from_secs(24 * 3600);
/// A copy may have to replay all the log of a base backup before it can stop.
const STOP_BUDGET: Duration = Duration::from_secs(600);

/// The copied cluster's server.
pub struct Copy {
    /// Its process on this host.
    pub server: Server,
    cluster: Cluster,
    sockets: PathBuf,
}

impl Copy {
    /// Describes the copy; nothing is started.
    ///
    /// # Errors
    /// Blocked, if the source's programs are not on this host or the directories are not this upgrade's.
    pub fn of(world: &World, major: u16, bootstrap_superuser: &str) -> Result<Self, StepError> {
        let places = world.places();
        let installation = pgleap_local::find(major, &world.config.provider.bindirs).map_err(local_failure)?;
        let endpoint = Endpoint {
            host: places.sockets().to_string_lossy().into_owned(),
            port: PORT,
            user: bootstrap_superuser.to_owned(),
            password: None,
        };
        Ok(Self {
            server: Server {
                installation,
                account: world.account.clone(),
                data_dir: Disposable::copy(world)?.path().to_owned(),
                log: places.logs().join("copy.log"),
            },
            cluster: Cluster::new(Side::Target, endpoint, world.source.application_name.clone()),
            sockets: places.sockets(),
        })
    }

    /// Returns the server settings that keep the copy from acting, and from being reached.
    ///
    /// What it is to have under pg_upgrade too, which starts it by itself, is in the file.
    async fn quarantine(&self, world: &World) -> Result<Vec<(String, String)>, StepError> {
        let logs = world.places().logs();
        let (conf, hba) = (logs.join("copy.conf"), logs.join("copy_hba.conf"));
        let mut text = "# the copy takes its other settings from its command line\n".to_owned();
        let relations = settings::relations(&world.source, &world.config.source.database).await;
        // pg_upgrade dumps as many databases at a time as there are processors
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if let Some(locks) = settings::locks(relations.iter().take(cores).sum(), MAX_CONNECTIONS) {
            text.push_str(&format!("{} = {locks}\n", settings::LOCKS));
        }
        for (path, text) in [(&conf, text.as_str()), (&hba, "local all all trust\n")] {
            world.account.write_file(path, text, 0o600).map_err(|e| io_failure("write", path, e))?;
        }
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let fixed = [
            ("listen_addresses", ""),
            ("max_logical_replication_workers", "0"),
            ("archive_mode", "off"),
            ("shared_preload_libraries", ""),
            ("session_preload_libraries", ""),
            ("local_preload_libraries", ""),
            ("autovacuum", "off"),
            ("logging_collector", "off"),
            ("ssl", "off"),
            ("synchronous_standby_names", ""),
            ("default_transaction_read_only", "off"),
            ("max_wal_size", "4GB"),
        ];
        let mut settings: Vec<_> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        settings.push(("config_file".into(), text(&conf)));
        settings.push(("hba_file".into(), text(&hba)));
        settings.push(("unix_socket_directories".into(), text(&self.sockets)));
        settings.push(("port".into(), PORT.to_string()));
        Ok(settings)
    }

    /// Starts the copy in recovery towards a target, and returns at once.
    ///
    /// # Errors
    /// Blocked, with the lines that its log got.
    pub async fn start_recovery(&self, world: &World, recovery: Vec<(String, String)>) -> Result<(), StepError> {
        let mut settings = self.quarantine(world).await?;
        settings.extend(recovery);
        self.server.start_without_waiting(&settings).await.map_err(local_failure)?;
        // in its first moments a server cannot be told from one that has ended
        let deadline = Instant::now() + APPEAR_BUDGET;
        while self.server.running().is_none() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Returns a session, once the copy takes connections; it is started if it does not run.
    ///
    /// # Errors
    /// Blocked, with the lines that its log got.
    pub async fn session(&self, world: &World, database: &str) -> Result<Session, StepError> {
        if self.server.running().is_none() {
            self.server.start(&self.quarantine(world).await?, START_BUDGET).await.map_err(local_failure)?;
        }
        Ok(self.cluster.open(database, Duration::from_secs(60)).await?)
    }

    /// Returns a session without starting anything; `None` while the copy takes none yet.
    ///
    /// # Errors
    /// Blocked, with the last lines of its log, if the copy has ended.
    pub async fn session_if_up(&self, database: &str) -> Result<Option<Session>, StepError> {
        match self.cluster.open(database, Duration::from_secs(60)).await {
            Ok(session) => Ok(Some(session)),
            Err(error) if self.server.running().is_some() => {
                let starting = error.is_transient();
                if starting { Ok(None) } else { Err(error.into()) }
            }
            Err(_) => Err(StepError::blocked(
                "the copy's server has ended",
                "remove the cause, then `pgleap resume`; or `pgleap unwind`",
            )
            .because(self.server.log_tail(5).join(" | "))),
        }
    }

    /// Stops the copy; not running is fine.
    ///
    /// # Errors
    /// Transient, if it has not stopped in time.
    pub async fn stop(&self, mode: StopMode) -> Result<(), StepError> {
        self.server.stop(mode, STOP_BUDGET).await.map_err(|e| StepError::transient(e.to_string()))
    }
}
