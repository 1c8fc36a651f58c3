//! Directories that pgleap made and may destroy.
//!
//! Everything that destroys (pg_upgrade, removal) takes a [`Disposable`], and one can be had only for a directory of this
//! upgrade's own: pg_upgrade cannot be pointed at the source.

use std::path::{Path, PathBuf};

use pgleap_saga::StepError;

use crate::world::{Places, World, io_failure};

/// A data directory that belongs to this upgrade alone.
#[derive(Debug, Clone)]
pub struct Disposable(PathBuf);

impl Disposable {
    /// Returns the copy's data directory.
    ///
    /// # Errors
    /// Blocked, if the work directory is not claimed by this upgrade.
    pub fn copy(world: &World) -> Result<Self, StepError> {
        Self::of(world, world.places().copy().clone())
    }

    /// Returns the target's data directory.
    ///
    /// # Errors
    /// Blocked, if the work directory is not claimed by this upgrade.
    pub fn target(world: &World) -> Result<Self, StepError> {
        Self::of(world, world.places().data)
    }

    fn of(world: &World, path: PathBuf) -> Result<Self, StepError> {
        if is_claimed(&world.places(), &world.id)? {
            return Ok(Self(path));
        }
        Err(StepError::blocked(
            format!("`{}` does not belong to upgrade {}", path.display(), world.id),
            "remove it by hand if nobody needs it, or configure other directories",
        ))
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes the directory with all it holds; none is fine.
    ///
    /// # Errors
    /// Blocked, if something of it cannot be removed.
    pub fn remove(&self) -> Result<(), StepError> {
        remove_all(&self.0)
    }
}

/// Removes a directory tree; none is fine.
pub(super) fn remove_all(path: &Path) -> Result<(), StepError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_failure("remove", path, e)),
        _ => Ok(()),
    }
}

/// Whether the work directory bears this upgrade's id.
pub(super) fn is_claimed(places: &Places, id: &str) -> Result<bool, StepError> {
    let claim = places.claim();
    match std::fs::read_to_string(&claim) {
        Ok(text) => Ok(text.trim() == id),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_failure("read", &claim, e)),
    }
}
