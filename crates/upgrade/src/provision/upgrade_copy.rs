//! Runs pg_upgrade, from the copy to the target; never from the source, as only a [`Disposable`] is taken.

use std::{path::Path, time::Duration};

use pgleap_local::{CommandError, Server, StopMode, run_with_lines};
use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName, fault_point};
use serde::{Deserialize, Serialize};

use super::{InitTarget, PrepareDatabases, copy::Copy, disposable::Disposable};
use crate::{
    config::Transfer,
    world::{Cx, World, local_failure},
};

/// Checks, then upgrades the copy.
///
/// Survives being killed: until its last act pg_upgrade in link mode leaves the copy usable, so a target that it began to
/// fill is made anew and filled again. In swap mode it does not, and the chain unwinds.
pub struct UpgradeCopy {
    /// The target's major version.
    pub major: u16,
    /// How files are moved.
    pub transfer: Transfer,
}

/// What pg_upgrade did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// How files were moved.
    pub transfer: Transfer,
    /// How long it took.
    pub seconds: u64,
}

const BUDGET: Duration = Duration::from_secs(24 * 3600);
const STOP_BUDGET: Duration = Duration::from_secs(120);

/// Written into the target's data directory when pg_upgrade has succeeded.
const DONE: &str = "pgleap.upgraded";

struct Upgrade<'a> {
    world: &'a World,
    old: Disposable,
    new: Disposable,
    copy: Copy,
    target: Server,
    user: String,
}

impl Upgrade<'_> {
    /// Stops the copy; one whose server crashed recovers first, as pg_upgrade takes only what was shut down in order.
    async fn shut_down_cleanly(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        self.copy.stop(StopMode::Fast).await?;
        let control = self.copy.server.control_data().await.map_err(local_failure)?;
        if control.get("Database cluster state").is_some_and(|state| state == "shut down") {
            return Ok(());
        }
        drop(self.copy.session(cx.world, &cx.world.config.source.database).await?);
        self.copy.stop(StopMode::Fast).await
    }

    /// Runs pg_upgrade; what it says is shown line by line, and its own log lines are part of a failure.
    async fn run(&self, cx: &Cx<'_>, transfer: Transfer, check: bool) -> Result<(), StepError> {
        let logs = self.world.places().logs();
        let work = logs.join("pg_upgrade");
        self.world.account.create_dir(&work, 0o700).map_err(|e| crate::world::io_failure("make", &work, e))?;
        let mut command = self.world.account.command(self.target.installation.tool("pg_upgrade"));
        command.current_dir(&work);
        command.arg("--old-datadir").arg(self.old.path()).arg("--new-datadir").arg(self.new.path());
        command.arg("--old-bindir").arg(&self.copy.server.installation.bindir);
        command.arg("--new-bindir").arg(&self.target.installation.bindir);
        command.arg("--socketdir").arg(self.world.places().sockets()).arg("--username").arg(&self.user);
        // both servers listen on the private socket alone, one after the other
        command.args(["--old-port", "50432", "--new-port", "50433"]);
        let hba = format!("-c hba_file={}", logs.join("copy_hba.conf").display());
        let conf = format!("-c config_file={}", logs.join("copy.conf").display());
        command
            .arg("--old-options")
            .arg(format!("{conf} {hba} -c archive_mode=off -c max_logical_replication_workers=0"));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        command.arg("--jobs").arg(cores.to_string());
        match transfer {
            Transfer::Auto | Transfer::Link => command.arg("--link"),
            Transfer::Clone => command.arg("--clone"),
            Transfer::Swap => command.arg("--swap"),
            Transfer::Copy => &mut command,
        };
        if check {
            command.arg("--check");
        }
        let outcome = run_with_lines(command, BUDGET, |line| {
            let text = line.trim_end_matches(['.', ' ']);
            if !text.is_empty() {
                cx.progress(Progress { text: format!("pg_upgrade: {text}"), ..Progress::default() });
            }
        })
        .await;
        outcome.map(|_| ()).map_err(|error| self.explain(error, &work, check))
    }

    fn explain(&self, error: CommandError, work: &Path, check: bool) -> StepError {
        let what = if check { "pg_upgrade --check refuses this upgrade" } else { "pg_upgrade failed" };
        let mut said = match &error {
            CommandError::Failed { output, .. } => interesting(&output.stdout),
            _ => error.to_string(),
        };
        for log in reports(&[self.new.path().join("pg_upgrade_output.d"), work.to_owned()]) {
            said.push_str(&format!(" | {log}"));
        }
        StepError::fatal(what, "remove what it names on the source, then `pgleap run` again").because(said)
    }
}

/// Keeps the lines of pg_upgrade's output that are not about a check that passed.
fn interesting(output: &str) -> String {
    let boring = |line: &&str| !line.trim().is_empty() && !line.trim_end().ends_with("ok") && !line.starts_with('-');
    let lines: Vec<_> = output.lines().filter(boring).map(str::trim).collect();
    lines[lines.len().saturating_sub(12)..].join(" ")
}

/// Returns the beginnings of the lists that pg_upgrade left about what it refuses (`loadable_libraries.txt` …).
fn reports(roots: &[std::path::PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<_> = roots.to_vec();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "txt") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                found.push(format!("{name}: {}", text.lines().take(6).collect::<Vec<_>>().join("; ")));
            }
        }
    }
    found
}

impl UpgradeCopy {
    fn upgrade<'a>(&self, cx: &Cx<'a>) -> Result<Upgrade<'a>, StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        Ok(Upgrade {
            world: cx.world,
            old: Disposable::copy(cx.world)?,
            new: Disposable::target(cx.world)?,
            copy: Copy::of(cx.world, facts.major(), &facts.bootstrap_superuser)?,
            target: InitTarget::server(cx.world)?,
            user: facts.bootstrap_superuser,
        })
    }
}

impl Step<World> for UpgradeCopy {
    type Output = Upgraded;
    const NAME: StepName = StepName("provision.upgrade_copy");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("upgrade the copy to PostgreSQL {} by pg_upgrade ({})", self.major, transfer_name(self.transfer))
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<Upgraded>, StepError> {
        let upgrade = self.upgrade(cx)?;
        let done = upgrade.new.path().join(DONE);
        if let Ok(text) = std::fs::read_to_string(&done) {
            let upgraded = serde_json::from_str(&text).map_err(|e| {
                StepError::blocked(
                    format!("`{}` cannot be read: {e}", done.display()),
                    "`pgleap unwind`, then run again",
                )
            })?;
            return Ok(Observed::Done(upgraded));
        }
        // files may be on the new side only after pg_upgrade has put the old control file aside
        let control = upgrade.old.path().join("global/pg_control");
        Ok(if control.exists() {
            Observed::Absent
        } else {
            Observed::Partial("pg_upgrade was interrupted while it moved files".to_owned())
        })
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Upgraded, StepError> {
        let upgrade = self.upgrade(cx)?;
        let transfer = match self.transfer {
            Transfer::Auto => Transfer::Link,
            chosen => chosen,
        };
        // an interrupted pg_upgrade leaves its servers running
        upgrade.target.stop(StopMode::Immediate, STOP_BUDGET).await.map_err(local_failure)?;
        upgrade.copy.stop(StopMode::Fast).await?;
        let control = upgrade.old.path().join("global/pg_control");
        let aside = upgrade.old.path().join("global/pg_control.old");
        if !control.exists() {
            if transfer == Transfer::Swap {
                return Err(StepError::fatal(
                    "pg_upgrade --swap was interrupted: the copy cannot be used any more",
                    "`pgleap run` makes another copy",
                ));
            }
            // the new cluster was never started, so the old files are as they were
            std::fs::rename(&aside, &control).map_err(|e| crate::world::io_failure("put back", &control, e))?;
        }
        if !InitTarget::is_empty(cx.world)? {
            // nobody knows what an earlier attempt put there: it is made anew
            InitTarget::make(cx).await?;
        }
        upgrade.shut_down_cleanly(cx).await?;
        InitTarget::touch(cx.world)?;
        let started = std::time::Instant::now();
        upgrade.run(cx, transfer, true).await?;
        fault_point!("provision.upgrade_copy.after_check");
        upgrade.run(cx, transfer, false).await?;
        let upgraded = Upgraded { transfer, seconds: started.elapsed().as_secs() };
        fault_point!("provision.upgrade_copy.before_mark");
        let done = upgrade.new.path().join(DONE);
        let text = serde_json::to_string(&upgraded).unwrap_or_default();
        cx.world.account.write_file(&done, text, 0o600).map_err(|e| crate::world::io_failure("write", &done, e))?;
        Ok(upgraded)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

/// Returns the word of `pgleap.toml` for it.
fn transfer_name(transfer: Transfer) -> &'static str {
    match transfer {
        Transfer::Auto | Transfer::Link => "hard links",
        Transfer::Copy => "full copy",
        Transfer::Clone => "copy on write",
        Transfer::Swap => "directories exchanged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_passed_are_left_out_of_a_failure() {
        let output = "Performing Consistency Checks\n-----------------------------\nChecking cluster versions   ok\n\
                      Checking for presence of required libraries   fatal\n\nYour installation references loadable libraries\n";
        assert_eq!(
            interesting(output),
            "Performing Consistency Checks Checking for presence of required libraries   fatal \
             Your installation references loadable libraries"
        );
    }
}
