//! Files and directories that belong to an account.
//!
//! Survives: being killed while writing (a reader sees the old file or the new one, never a part), running as root.
//! Does not: change the owner of what exists already.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Account;

/// What directories made only to hold another one get: others may pass, only the account may write.
const PARENT_MODE: u32 = 0o755;

impl Account {
    /// Makes a directory that belongs to this account, with all missing parents; an existing one stays as it is.
    ///
    /// `mode` is the last directory's, whatever the umask; parents get 0755.
    ///
    /// # Errors
    /// What the system says, with the path in question in the message.
    pub fn create_dir(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        let path = path.as_ref();
        if path.is_dir() {
            return Ok(());
        }
        let missing: Vec<&Path> =
            path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            let mode = if dir == path { mode } else { PARENT_MODE };
            self.create_one(dir, mode).map_err(|error| at(dir, error))?;
        }
        // A file in the directory's place leaves nothing to be made, and is no directory.
        if path.is_dir() { Ok(()) } else { Err(at(path, io::ErrorKind::NotADirectory.into())) }
    }

    fn create_one(&self, dir: &Path, mode: u32) -> io::Result<()> {
        match DirBuilder::new().mode(mode).create(dir) {
            Ok(()) => {
                std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))?;
                self.take(dir)
            }
            // Made by somebody else in the meantime.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a file that belongs to this account, durably and at once: an existing one is replaced as a whole.
    ///
    /// # Errors
    /// What the system says, with the path in the message; the file is then as it was.
    pub fn write_file(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>, mode: u32) -> io::Result<()> {
        let path = path.as_ref();
        let temporary = beside(path);
        let written = self.write_new(&temporary, contents.as_ref(), mode).and_then(|()| {
            std::fs::rename(&temporary, path)?;
            // The new name is durable only once its directory is.
            File::open(parent_of(path))?.sync_all()
        });
        written.map_err(|error| {
            // What matters is the error above; a left-over temporary file does no harm.
            let _ = std::fs::remove_file(&temporary);
            at(path, error)
        })
    }

    fn write_new(&self, path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
        // Readable by nobody else until it has its owner: it may hold a password.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(contents)?;
        self.take(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()
    }
}

fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    parent_of(path).join(format!(".{name}.{}.{count}.tmp", std::process::id()))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(crate) fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn directories_are_made_with_their_parents_and_belong_to_the_account() {
        let account = Account::for_servers(None).unwrap();
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("a/b/c");
        account.create_dir(&leaf, 0o700).unwrap();
        for (dir, mode) in [(root.path().join("a"), 0o755), (root.path().join("a/b"), 0o755), (leaf.clone(), 0o700)] {
            let metadata = std::fs::metadata(&dir).unwrap();
            assert_eq!((metadata.uid(), metadata.mode() & 0o777), (account.uid, mode), "{}", dir.display());
        }
        account.create_dir(&leaf, 0o755).unwrap();
        assert_eq!(std::fs::metadata(&leaf).unwrap().mode() & 0o777, 0o700, "an existing one stays as it is");
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_an_error_that_names_it() {
        let account = Account::for_servers(None).unwrap();
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(account.create_dir(&file, 0o700).unwrap_err().to_string().contains("file"));
        assert!(account.create_dir(file.join("below"), 0o700).is_err());
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it() {
        let account = Account::for_servers(None).unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("conf");
        account.write_file(&path, "one", 0o644).unwrap();
        account.write_file(&path, "two", 0o600).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (account.uid, 0o600));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_no_temporary_one() {
        let account = Account::for_servers(None).unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("conf");
        std::fs::create_dir(&path).unwrap();
        assert!(account.write_file(&path, "x", 0o600).is_err(), "a directory cannot be replaced by a file");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
