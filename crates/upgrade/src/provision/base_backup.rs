//! Takes the physical copy, by pg_basebackup, after the slots.

use std::time::Duration;

use pgleap_local::{StopMode, run_with_lines};
use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use tokio::time::Instant;

use super::{PrepareDatabases, copy::Copy, disposable::Disposable};
use crate::world::{Cx, World, local_failure};

/// Copies the source's files while it serves.
///
/// Survives being killed at any time: a copy that is not known to be whole is removed and taken again.
pub struct BaseBackup;

/// A copy takes as long as it takes; this only ends what hangs.
const BUDGET: Duration = Duration::from_secs(7 * 24 * 3600);

impl BaseBackup {
    fn copy(cx: &Cx<'_>) -> Result<Copy, StepError> {
        let facts = cx.output::<PrepareDatabases>()?;
        Copy::of(cx.world, facts.major(), &facts.bootstrap_superuser)
    }
}

impl Step<World> for BaseBackup {
    type Output = ();
    const NAME: StepName = StepName("provision.base_backup");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "copy the source's files by pg_basebackup, while it serves".to_owned()
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<()>, StepError> {
        // pg_basebackup writes no mark of its own that says "whole": only this journal knows
        Ok(match Disposable::copy(cx.world) {
            Ok(copy) if copy.path().exists() => Observed::Partial("an unfinished copy is there".to_owned()),
            _ => Observed::Absent,
        })
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let world = cx.world;
        let copy = Self::copy(cx)?;
        copy.stop(StopMode::Immediate).await?;
        let directory = Disposable::copy(world)?;
        directory.remove()?;
        let source =
            world.source.endpoint.conninfo(None, Some(&world.places().passfile()), &world.source.application_name);
        let mut command = world.account.command(copy.server.installation.tool("pg_basebackup"));
        command.args(["--wal-method=stream", "--checkpoint=fast", "--progress", "--verbose", "--no-password"]);
        command.arg("--pgdata").arg(directory.path()).arg("--dbname").arg(source);
        let started = Instant::now();
        run_with_lines(command, BUDGET, |line| {
            if let Some((done, total)) = parse_progress(line) {
                cx.progress(progress(done, total, started.elapsed()));
            }
        })
        .await
        .map_err(local_failure)?;
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        if cx.try_output::<PrepareDatabases>()?.is_some() {
            Self::copy(cx)?.stop(StopMode::Immediate).await?;
        }
        Disposable::copy(cx.world)?.remove()
    }
}

/// Reads `  34567/123456 kB (28%), 0/1 tablespace …`; returns bytes.
fn parse_progress(line: &str) -> Option<(u64, u64)> {
    let (counts, _) = line.trim().split_once(" kB")?;
    let (done, total) = counts.split_once('/')?;
    Some((done.parse::<u64>().ok()? * 1024, total.parse::<u64>().ok()? * 1024))
}

fn progress(done: u64, total: u64, elapsed: Duration) -> Progress {
    #[expect(clippy::cast_precision_loss, reason = "bytes for a progress display")]
    let (done_f, total_f) = (done as f64, total.max(done) as f64);
    let rate = done_f / elapsed.as_secs_f64().max(0.001);
    let left = (total_f - done_f) / rate;
    Progress {
        text: "copying the source's files".to_owned(),
        done: Some(done),
        total: Some(total.max(done)),
        unit: "bytes",
        // as long as nothing came, nothing was measured
        rate_per_s: (done > 0).then_some(rate),
        // the log streamed beside it, and a busy disk, add to it
        eta_s: (done > 0).then_some((left, left * 1.5)),
        lag_bytes: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_foretold_until_something_came() {
        let of = |done| progress(done, 4 << 30, Duration::from_secs(2));
        assert_eq!((of(0).done, of(0).rate_per_s, of(0).eta_s), (Some(0), None, None));
        assert_eq!(of(1 << 30).eta_s, Some((6.0, 9.0)));
    }

    #[test]
    fn progress_lines_give_bytes_done_and_in_all() {
        assert_eq!(parse_progress(" 34567/123456 kB (28%), 0/1 tablespace"), Some((34567 << 10, 123_456 << 10)));
        assert_eq!(parse_progress("pg_basebackup: base backup completed"), None);
    }
}
