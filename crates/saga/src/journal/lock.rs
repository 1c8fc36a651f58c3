//! One writer per journal: a lock file that says who holds it.
//!
//! The kernel drops the lock with the process, however that dies; the file stays, so that nobody can lock a deleted one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::JournalError;

/// Longest wait for a new holder to have written its process id.
const PID_WAIT: Duration = Duration::from_secs(1);

pub(super) struct WriterLock {
    _held: Flock<File>,
}

impl WriterLock {
    pub(super) fn take(journal: &Path) -> Result<Self, JournalError> {
        let mut path = journal.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = |source| JournalError::Lock { path: path.clone(), source };
        let deadline = Instant::now() + PID_WAIT;
        loop {
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut held) => {
                    held.set_len(0).and_then(|()| write!(held, "{}", std::process::id())).map_err(failed)?;
                    return Ok(Self { _held: held });
                }
                Err((mut file, Errno::EWOULDBLOCK)) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).map_err(failed)?;
                    match text.trim().parse() {
                        Ok(pid) => return Err(JournalError::Locked { pid }),
                        // The holder is between taking the lock and writing its id.
                        Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                        Err(_) => return Err(failed(io::Error::other("held by a process that does not say its id"))),
                    }
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
    }
}
