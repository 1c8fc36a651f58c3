//! A twin: a copy of the source, upgraded, looked at, and destroyed. It tells what only a real copy can.
//!
//! Made by the steps that make the target, in directories of its own, on a private socket, with neither slots nor a marker
//! table: the source is read by one base backup, and by what asks for its statements. Survives being killed: the next
//! rehearsal takes away what was left. Does not tell how applying goes, nor the pause: there is `pgleap rehearse` for it.

mod check_indexes;
mod collect_statements;
mod compare_statistics;
mod explain;
mod query_plan;
mod report;
mod restore_schema;

pub use check_indexes::{CheckIndexes, Checked};
pub use collect_statements::{CollectStatements, Collected, Statement, split};
pub use compare_statistics::{CompareStatistics, Lacking};
pub use explain::{ExplainAfter, ExplainBefore, Explained};
pub use query_plan::{Difference, QueryPlan};
pub use report::{Report, Stage, report};
pub use restore_schema::{RestoreSchema, Restored};

use std::{path::PathBuf, time::Duration};

use pgleap_saga::{Plan, PlanState, StepError};
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    pg::{Cluster, PgError},
    preflight::acts,
    provision, replicate,
    world::World,
};

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// How many statements of pg_stat_statements, by the time they take together.
    pub top: u32,
    /// These statements instead.
    pub statements: Option<Vec<String>>,
    /// How long indexes are checked; the largest, and those that depend on a collation, come first.
    pub check_indexes: Duration,
}

/// The port in the name of the twin's socket; nothing listens on it.
const PORT: u16 = 50_434;
const LIBRARIES: &str = "SELECT pg_catalog.current_setting('shared_preload_libraries')";

/// Returns the configuration of the twin of an upgrade, as far as it takes nobody's word: enough to remove one.
pub fn config(of: &Config) -> Config {
    let mut config = of.clone();
    let beside = |path: &PathBuf, with: &str| {
        let mut path = path.clone().into_os_string();
        path.push(with);
        PathBuf::from(path)
    };
    config.provider.work_dir = beside(&of.provider.work_dir, ".twin");
    // a standby would be used up
    config.provider.standby = None;
    config.target.data_dir = beside(&of.target.data_dir, ".twin");
    config.target.port = PORT;
    config.state_dir = of.state_dir.join("twin");
    let work = &config.provider.work_dir;
    let sockets = work.join("s").display().to_string();
    config.target.host.clone_from(&sockets);
    let hba = work.join("log/copy_hba.conf").display().to_string();
    for (name, value) in [
        ("listen_addresses", ""),
        ("unix_socket_directories", &sockets),
        ("hba_file", &hba),
        ("max_logical_replication_workers", "0"),
        ("ssl", "off"),
        // it is read by one client, beside a server that needs the memory
        ("shared_buffers", "128MB"),
        ("huge_pages", "off"),
        ("autovacuum", "off"),
        ("logging_collector", "off"),
    ] {
        set(&mut config, name, value);
    }
    config
}

fn set(config: &mut Config, name: &str, value: &str) {
    config.target.settings.retain(|(own, _)| own != name);
    config.target.settings.push((name.to_owned(), value.to_owned()));
}

/// Adds what the source loads, apart from libraries that act by themselves.
///
/// # Errors
/// If the source cannot be asked.
pub async fn with_libraries(mut config: Config, source: &Cluster) -> Result<Config, PgError> {
    let session = source.db(&config.source.database).await?;
    let loaded: String = session.query_one(LIBRARIES, &[]).await?.get(0);
    let kept: Vec<_> = loaded.split(',').map(str::trim).filter(|library| !acts(library)).collect();
    set(&mut config, "shared_preload_libraries", &kept.join(", "));
    Ok(config)
}

/// Where a twin is made, as its plan carries it in the journal: what it takes to remove it, whatever the configuration says
/// by then.
#[derive(Serialize, Deserialize)]
struct Place {
    work_dir: PathBuf,
    data_dir: PathBuf,
    version: u16,
    bindirs: Vec<PathBuf>,
}

/// Returns the configuration of a twin that was made by `plan`: `today`, a twin's too, with the places of then.
pub fn made_by(today: &Config, plan: &PlanState) -> Config {
    let mut config = today.clone();
    if let Ok(place) = serde_json::from_value::<Place>(plan.params.clone()) {
        config.provider.work_dir = place.work_dir;
        config.provider.bindirs = place.bindirs;
        config.target.data_dir = place.data_dir;
        config.target.version = place.version;
    }
    config
}

/// Returns the plan that makes a twin and looks at it. It is undone whatever comes of it.
pub fn plan(id: String, config: &Config, wishes: &Wishes) -> Plan<World> {
    let target = &config.target;
    let place = Place {
        work_dir: config.provider.work_dir.clone(),
        data_dir: target.data_dir.clone(),
        version: target.version,
        bindirs: config.provider.bindirs.clone(),
    };
    Plan::new(id, "twin", serde_json::json!(place))
        .then(provision::ClaimDirectories { data_dir: target.data_dir.display().to_string() })
        .then(provision::PrepareDatabases { marker: false })
        .then(CollectStatements { top: wishes.top, given: wishes.statements.clone() })
        .then(provision::BaseBackup)
        .then(provision::QuarantineCopy)
        .then(ExplainBefore)
        .then(provision::InitTarget { major: target.version })
        .then(provision::UpgradeCopy { major: target.version, transfer: config.provider.transfer })
        .then(provision::StartTarget { port: target.port })
        .then(provision::UpdateExtensions)
        .then(provision::RebuildIndexes)
        .then(replicate::Analyze)
        .then(CompareStatistics)
        .then(ExplainAfter)
        .then(CheckIndexes { within: wishes.check_indexes })
        .then(RestoreSchema)
}

/// Why a twin is taken away when nothing went wrong.
pub fn destroyed() -> StepError {
    StepError::fatal("the twin was looked at", "`pgleap rehearse --twin` makes another")
}
