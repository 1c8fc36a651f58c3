//! The file that postpones a pause, as long as it is there.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
};

use pgleap_saga::StepError;

/// The file, made if it was not there: a name that was mistyped must not begin it.
pub struct PostponeFile {
    path: PathBuf,
    made: bool,
}

impl PostponeFile {
    /// Sees that it is there.
    ///
    /// # Errors
    /// Blocked, if it can neither be found nor made.
    pub fn lay(path: &Path) -> Result<Self, StepError> {
        let made = match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                let message = format!("cannot make the file `{}` that postpones the pause", path.display());
                return Err(
                    StepError::blocked(message, "name another one by `--postpone-file`").because(error.to_string())
                );
            }
        };
        Ok(Self { path: path.to_owned(), made })
    }

    /// Removes what was made here: after a switchover somebody else has done so.
    pub fn pick_up(self) {
        if self.made {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_there_stays_and_one_that_was_made_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hold");
        let made = PostponeFile::lay(&path).unwrap();
        assert!(path.exists());
        PostponeFile::lay(&path).unwrap().pick_up();
        assert!(path.exists(), "it was there before");
        made.pick_up();
        assert!(!path.exists());
        assert!(PostponeFile::lay(&directory.path().join("no/such/hold")).is_err());
    }
}
