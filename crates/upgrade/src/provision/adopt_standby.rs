//! Takes an existing physical standby for the copy: no terabyte is copied.

use std::time::Duration;

use pgleap_local::StopMode;
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::{PrepareDatabases, copy::Copy};
use crate::world::{Cx, World, io_failure, local_failure};

/// Stops a standby of the source, so that it can be recovered exactly to the boundary. It is used up by the upgrade.
///
/// Taken back before it was promoted, it is started again as the standby that it was.
pub struct AdoptStandby {
    /// Its data directory, for the summary.
    pub data_dir: String,
}

/// In the work directory: the standby was running when it was found.
const WAS_RUNNING: &str = "standby-was-running";
const STOP_BUDGET: Duration = Duration::from_secs(600);
const START_BUDGET: Duration = Duration::from_secs(300);

impl AdoptStandby {
    fn copy(cx: &Cx<'_>) -> Result<Copy, StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        Copy::of(cx.world, facts.major(), &facts.bootstrap_superuser)
    }
}

impl Step<World> for AdoptStandby {
    type Output = ();
    const NAME: StepName = StepName("provision.adopt_standby");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        format!("stop the standby in `{}` and use it up as the copy", self.data_dir)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        // that it may be used is checked by `run`, each time
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        let server = Self::copy(cx)?.server;
        let refuse = |why: String| {
            StepError::fatal(
                format!("`{}` cannot be used as the copy: {why}", self.data_dir),
                "name the data directory of a physical standby of the source under `provider.standby`, or none",
            )
        };
        if server.major_on_disk() != Some(facts.major()) {
            return Err(refuse(format!("it holds no cluster of PostgreSQL {}", facts.major())));
        }
        let control = server.control_data().await.map_err(local_failure)?;
        let of = |name: &str| control.get(name).cloned().unwrap_or_default();
        let system = of("Database system identifier");
        if system != facts.system_identifier {
            return Err(refuse(format!(
                "its system identifier is {system}, the source's is {}",
                facts.system_identifier
            )));
        }
        if !server.data_dir.join("standby.signal").exists() {
            return Err(refuse("it is no standby: `standby.signal` is missing".to_owned()));
        }
        if server.running().is_some() {
            let mark = cx.world.places().work().join(WAS_RUNNING);
            cx.world.account.write_file(&mark, "", 0o600).map_err(|e| io_failure("write", &mark, e))?;
        }
        server.stop(StopMode::Fast, STOP_BUDGET).await.map_err(local_failure)
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        if cx.try_output::<PrepareDatabases>()?.is_none() {
            return Ok(());
        }
        let server = Self::copy(cx)?.server;
        if !server.data_dir.join("standby.signal").exists() {
            if server.is_initialized() {
                server.stop(StopMode::Fast, STOP_BUDGET).await.map_err(local_failure)?;
                cx.warn(format!("the standby in `{}` was used up: build it anew", self.data_dir));
            }
            return Ok(());
        }
        // one that recovers towards the boundary is not the standby that it was
        server.stop(StopMode::Fast, STOP_BUDGET).await.map_err(local_failure)?;
        if cx.world.places().work().join(WAS_RUNNING).exists() {
            server.start(&[], START_BUDGET).await.map_err(local_failure)?;
        }
        Ok(())
    }
}
