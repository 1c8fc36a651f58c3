//! Runs pg_upgrade, from the copy to the target; never from the source, as only a [`Disposable`] is taken.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    time::Duration,
};

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

/// How much of a list, or of a log, is part of a failure.
const REPORT_CHARS: usize = 800;
const REPORT_LINES: usize = 12;

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

/// Returns the beginnings of the lists that pg_upgrade left about what it refuses (`loadable_libraries.txt` …), and the error in each
/// log of what it ran: these files go with the target.
fn reports(roots: &[std::path::PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<_> = roots.to_vec();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = match path.extension().and_then(|extension| extension.to_str()) {
                Some("txt") => lines(&path).take(6).collect::<Vec<_>>().join("; "),
                Some("log") => match failure(lines(&path)) {
                    Some(text) => text,
                    None => continue,
                },
                _ => continue,
            };
            found.push(format!("{name}: {}", text.chars().take(REPORT_CHARS).collect::<String>()));
        }
    }
    found.sort();
    found
}

/// Returns a file's lines, none if it cannot be read.
fn lines(path: &Path) -> impl Iterator<Item = String> {
    let file = std::fs::File::open(path).map(BufReader::new).ok();
    let lines = file.into_iter().flat_map(|file| file.split(b'\n').map_while(Result::ok));
    lines.map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Returns the error that pg_restore or psql ended with, and the statement, in one line; none of a log of something else.
fn failure(lines: impl Iterator<Item = String>) -> Option<String> {
    let begins = |line: &str| {
        line.starts_with("pg_restore: from TOC entry")
            || line.starts_with("pg_") && line.contains(": error: ")
            || line.starts_with("psql:") && line.contains(": ERROR: ")
    };
    // psql writes the statement before what became of it
    let (mut before, mut lines) = (String::new(), lines);
    let first = loop {
        let line = lines.next()?;
        if begins(&line) {
            break line;
        }
        before = line;
    };
    // a statement may say how to log in elsewhere
    let tells = |line: &String| {
        let line = line.trim();
        let noise = line.is_empty() || line == "^" || line.starts_with("--") || line.contains("binary_upgrade_");
        let secret = line.to_lowercase().contains("password") || line.contains("://");
        !noise && !secret && line != "pg_restore: while PROCESSING TOC:"
    };
    let all = [before, first].into_iter().chain(lines).filter(tells).take(REPORT_LINES);
    Some(without_options(all.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join(" ")))
}

/// Leaves out a statement whose options may be credentials, whatever they are called.
fn without_options(mut report: String) -> String {
    let statement = report.find("Command was");
    let may_tell = |statement: &str| {
        let statement = statement.to_uppercase();
        [" SERVER ", " USER MAPPING ", " SUBSCRIPTION "].iter().any(|object| statement.contains(object))
    };
    if let Some(at) = statement.filter(|at| may_tell(&report[*at..])) {
        report.truncate(at);
    }
    report
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

    #[test]
    fn logs_are_read_for_the_error_and_its_statement_and_never_for_a_password() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("20261122T025529.463/log");
        std::fs::create_dir_all(&logs).unwrap();
        let restore = "pg_restore: creating VIEW \"public.v\"\npg_restore: while PROCESSING TOC:\n\
                       pg_restore: from TOC entry 214; 1259 16384 VIEW v postgres\n\
                       pg_restore: error: could not execute query: ERROR:  column b.gone does not exist\n\
                       LINE 14:  SELECT b.gone,\n                 ^\nCommand was: \n-- For binary upgrade, must preserve\n\
                       SELECT pg_catalog.binary_upgrade_set_next_pg_type_oid('16386'::pg_catalog.oid);\n\n\nCREATE VIEW v AS\n";
        let long = format!("{restore} SELECT '{}' FROM b;\n", "é".repeat(2 * REPORT_CHARS));
        std::fs::write(logs.join("pg_upgrade_dump_5.log"), long).unwrap();
        let globals = "SET\nALTER ROLE app WITH LOGIN PASSWORD 'SCRAM-SHA-256$4096:x';\n\
                       psql:dump/pg_upgrade_dump_globals.sql:36: ERROR:  invalid name \"my-app.tenant\"\n\
                       DETAIL:  Names have dots.\n";
        std::fs::write(logs.join("pg_upgrade_utility.log"), globals).unwrap();
        std::fs::write(logs.join("pg_upgrade_server.log"), "2026-11-22 UTC [1] ERROR:  column b.gone\n").unwrap();
        std::fs::write(dir.path().join("loadable_libraries.txt"), "one\ntwo\n").unwrap();
        let keys = "CREATE USER MAPPING FOR app SERVER s3 OPTIONS (aws_secret_access_key 'k')";
        let server = format!("refused Command was: {keys};");
        assert_eq!(without_options(server), "refused ");
        let reports = reports(&[dir.path().to_owned()]);
        assert_eq!(reports.len(), 3, "{reports:#?}");
        assert_eq!(reports[0], "loadable_libraries.txt: one; two");
        let begin = "pg_upgrade_dump_5.log: pg_restore: from TOC entry 214; 1259 16384 VIEW v postgres pg_restore: error: could not \
                     execute query: ERROR:  column b.gone does not exist LINE 14:  SELECT b.gone, Command was: CREATE VIEW v AS \
                     SELECT 'éé";
        assert!(reports[1].starts_with(begin) && reports[1].chars().count() < REPORT_CHARS + 50, "{reports:#?}");
        let psql = "psql:dump/pg_upgrade_dump_globals.sql:36: ERROR:  invalid name \"my-app.tenant\" DETAIL:  Names have dots.";
        assert_eq!(reports[2], format!("pg_upgrade_utility.log: {psql}"));
    }
}
