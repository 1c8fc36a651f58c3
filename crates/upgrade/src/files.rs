//! Files that are replaced in one step, so that a reader sees the old text or the new one.

use std::{
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use pgleap_saga::StepError;

use crate::world::io_failure;

/// What a file that is replaced outlives. A sync is a write to the disk that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlives {
    /// The death of this process. After that of its host the file may be empty, or not there.
    Process,
    /// That of its host too: it has the old text or the new one then, and the new one once [`keep`] was called.
    Host,
}

/// Replaces a file, durably; owner and mode are kept. A file that is not there yet is made for this user alone.
///
/// # Errors
/// Blocked.
pub fn replace(path: &Path, text: &str) -> Result<(), StepError> {
    swap(path, text, Outlives::Host)?;
    keep(directory_of(path))
}

/// Replaces a file; owner and mode are kept. A file that is not there yet is made for this user alone.
///
/// # Errors
/// Blocked.
pub fn swap(path: &Path, text: &str, outlives: Outlives) -> Result<(), StepError> {
    let mut next = path.to_owned().into_os_string();
    next.push(".pgleap-next");
    let next = PathBuf::from(next);
    let write = || -> std::io::Result<()> {
        let old = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            old => Some(old?),
        };
        let mut file = std::fs::File::create(&next)?;
        file.set_permissions(std::fs::Permissions::from_mode(old.as_ref().map_or(0o600, MetadataExt::mode)))?;
        if let Some(old) = old {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        if outlives == Outlives::Host {
            file.sync_all()?;
        }
        std::fs::rename(&next, path)
    };
    write().map_err(|error| io_failure("replace", path, error))
}

/// Returns where a file is.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent == Path::new("") => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// Waits until the files that were swapped in a directory are what a crash of the host leaves.
///
/// # Errors
/// Blocked.
pub fn keep(directory: &Path) -> Result<(), StepError> {
    let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| io_failure("sync", directory, error))
}

/// Does what waits for the disk where nobody else waits for it: a guard of many poolers has one thread.
///
/// # Errors
/// What it said.
pub async fn aside(work: impl FnOnce() -> Result<(), StepError> + Send + 'static) -> Result<(), StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StepError::transient("pgleap ends, and a file was not replaced")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_keeps_owner_and_mode_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgbouncer.ini");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        // nobody but root can give a file away
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), Some(12346)).unwrap();
        }
        let of = |file: std::fs::Metadata| (file.uid(), file.gid(), file.mode() & 0o777);
        let before = of(std::fs::metadata(&path).unwrap());
        assert_eq!(before.2, 0o640);
        replace(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(of(std::fs::metadata(&path).unwrap()), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
