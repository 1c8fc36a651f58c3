//! Makes the directories of the upgrade on this host, and marks them as its own.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::disposable::{Disposable, is_claimed, remove_all};
use crate::{
    pg::secret::passfile_line,
    world::{Cx, World, io_failure},
};

/// Claims the work directory and the target's data directory: both must be absent or empty before.
pub struct ClaimDirectories {
    /// The target's data directory, for the summary.
    pub data_dir: String,
}

impl Step<World> for ClaimDirectories {
    type Output = ();
    const NAME: StepName = StepName("provision.claim_directories");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        format!("make the target's directories on this host: `{}`", self.data_dir)
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<()>, StepError> {
        let places = cx.world.places();
        if !is_claimed(&places, &cx.world.id)? {
            return Ok(Observed::Absent);
        }
        let complete = [places.sockets(), places.logs(), places.passfile(), places.data.clone()];
        match complete.iter().find(|path| !path.exists()) {
            Some(missing) => Ok(Observed::Partial(format!("`{}` is not there yet", missing.display()))),
            None => Ok(Observed::Done(())),
        }
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let world = cx.world;
        let places = world.places();
        if !is_claimed(&places, &world.id)? {
            for path in [places.work(), &places.data] {
                let empty = match std::fs::read_dir(path) {
                    Ok(mut entries) => entries.next().is_none(),
                    Err(e) => e.kind() == std::io::ErrorKind::NotFound,
                };
                if !empty {
                    return Err(StepError::blocked(
                        format!("`{}` is there already, and not empty", path.display()),
                        "name directories that pgleap may make, under `target.data_dir` and `provider.work_dir`",
                    ));
                }
            }
        }
        let account = &world.account;
        let made = |path: &std::path::Path, mode| {
            account.create_dir(path, mode).map_err(|e| io_failure("make directory", path, e))
        };
        made(places.work(), 0o700)?;
        let claim = places.claim();
        account.write_file(&claim, world.id.as_bytes(), 0o600).map_err(|e| io_failure("write", &claim, e))?;
        made(&places.sockets(), 0o700)?;
        made(&places.logs(), 0o700)?;
        made(&places.data, 0o700)?;
        let lines: String = [&world.source, &world.target]
            .into_iter()
            .filter_map(|cluster| {
                let e = &cluster.endpoint;
                e.password.as_ref().map(|password| passfile_line(&e.host, e.port, &e.user, password))
            })
            .collect();
        let passfile = places.passfile();
        account.write_file(&passfile, lines.as_bytes(), 0o600).map_err(|e| io_failure("write", &passfile, e))
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        if is_claimed(&cx.world.places(), &cx.world.id)? {
            Disposable::target(cx.world)?.remove()?;
        }
        release(cx.world)
    }
}

/// Removes the work directory and all it holds; one that is not this upgrade's is left alone.
///
/// # Errors
/// Blocked, if something of it cannot be removed.
pub fn release(world: &World) -> Result<(), StepError> {
    let places = world.places();
    if !is_claimed(&places, &world.id)? {
        return Ok(());
    }
    // the claim goes last: until then a second try still knows that the rest is ours
    // a standby that was used up is its owner's to remove: it is not below the work directory
    for path in [places.work().join("copy"), places.sockets(), places.logs()] {
        remove_all(&path)?;
    }
    remove_all(places.work())
}
