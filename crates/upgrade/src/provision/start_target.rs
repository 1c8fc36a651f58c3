//! Starts the upgraded cluster, closed to clients, with the source's settings and access rules.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use pgleap_local::{ServerStatus, StopMode, run};
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::{InitTarget, PrepareDatabases, settings};
use crate::world::{Cx, World, io_failure, local_failure};

/// Configures and starts the target. It must keep running: later steps find it started again if it ended.
pub struct StartTarget {
    /// The target's port.
    pub port: u16,
}

/// The target, running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// `server_version` of the target.
    pub version: String,
    /// `server_version_num` of the target.
    pub version_num: u32,
}

const START_BUDGET: Duration = Duration::from_secs(300);
const STOP_BUDGET: Duration = Duration::from_secs(300);
const DESCRIBE_BUDGET: Duration = Duration::from_secs(30);

const PLACES: &str = "
    SELECT pg_catalog.current_setting('data_directory'),
           pg_catalog.pg_read_file(pg_catalog.current_setting('hba_file')),
           pg_catalog.pg_read_file(pg_catalog.current_setting('ident_file'))";
const VERSION: &str = "
    SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')::int";

/// Opens the part of `postgresql.conf` that is ours.
const HEADING: &str = "# --- carried over by pgleap ---";

impl StartTarget {
    async fn version(cx: &Cx<'_>) -> Result<Started, StepError> {
        let session = cx.world.target.db(&cx.world.config.source.database).await?;
        let row = session.query_one(VERSION, &[]).await?;
        Ok(Started { version: row.get(0), version_num: u32::try_from(row.get::<_, i32>(1)).unwrap_or_default() })
    }

    async fn configure(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let world = cx.world;
        let server = InitTarget::server(world)?;
        let conf_path = server.data_dir.join("postgresql.conf");
        let kept = std::fs::read_to_string(&conf_path).map_err(|e| io_failure("read", &conf_path, e))?;
        let source = world.source.db(&world.config.source.database).await?;
        let rows = source.query(settings::READ, &[]).await?;
        let carried: Vec<_> =
            rows.iter().map(|row| settings::Carried { name: row.get(0), value: row.get(1) }).collect();
        let places = source.query_one(PLACES, &[]).await?;
        let source_data_dir = PathBuf::from(places.get::<_, String>(0));

        let mut describe = world.account.command(server.installation.tool("postgres"));
        describe.arg("--describe-config");
        let known = run(describe, DESCRIBE_BUDGET).await.map_err(local_failure)?;
        let mut known: BTreeSet<String> =
            known.stdout.lines().filter_map(|line| line.split('\t').next().map(str::to_owned)).collect();
        // few are left out of that list, and every major has them
        known.extend(["port", "listen_addresses", "unix_socket_directories", "wal_level"].map(str::to_owned));

        let databases = cx.output::<PrepareDatabases>()?.databases.len() as u64;
        let relations = settings::relations(&world.source, &world.config.source.database).await;
        let relations = relations.first().copied().unwrap_or_default();
        let own = &world.config.target.settings;
        let mapped = settings::map(&carried, &known, databases, relations, self.port, &source_data_dir, own);
        for (name, why) in &mapped.left_out {
            note_left_out(cx, name, why);
        }
        let kept = kept.split(HEADING).next().unwrap_or_default().trim_end().to_owned();
        let write = |name: &str, text: &str| {
            server.write_in_data_dir(name, text).map_err(|e| io_failure("write", &server.data_dir.join(name), e))
        };
        write("postgresql.conf", &format!("{kept}\n\n{HEADING}\n{}", mapped.conf))?;
        write("pg_hba.conf", places.get(1))?;
        write("pg_ident.conf", places.get(2))
    }
}

/// Notes a setting that the operator may miss; those of the source's own place are no loss.
fn note_left_out(cx: &Cx<'_>, name: &str, why: &str) {
    if !why.contains("source's own place") && !why.contains("set by pgleap") {
        cx.note(format!("setting `{name}` is not carried over: {why}"));
    }
}

impl Step<World> for StartTarget {
    type Output = Started;
    const NAME: StepName = StepName("provision.start_target");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;
    const STANDING: bool = true;

    fn summary(&self) -> String {
        format!("start the target on port {}, with the source's settings, closed to clients", self.port)
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<Started>, StepError> {
        let server = InitTarget::server(cx.world)?;
        match server.running() {
            None => Ok(Observed::Absent),
            Some(running) if running.status != ServerStatus::Ready => {
                Ok(Observed::Partial("the target is starting or stopping".to_owned()))
            }
            Some(running) if running.port != self.port => {
                Ok(Observed::Partial(format!("the target runs on port {}, for pg_upgrade", running.port)))
            }
            Some(_) => Ok(Observed::Done(Self::version(cx).await?)),
        }
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Started, StepError> {
        let server = InitTarget::server(cx.world)?;
        cx.world.target.forget().await;
        // one that pg_upgrade or a dead predecessor left half way
        server.stop(StopMode::Fast, STOP_BUDGET).await.map_err(local_failure)?;
        self.configure(cx).await?;
        server.start(&[], START_BUDGET).await.map_err(local_failure)?;
        Self::version(cx).await
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        cx.world.target.forget().await;
        InitTarget::server(cx.world)?.stop(StopMode::Fast, STOP_BUDGET).await.map_err(local_failure)
    }
}
