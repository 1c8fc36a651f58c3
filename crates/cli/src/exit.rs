//! What the program's exit code says.

use std::process::{ExitCode, Termination};

/// How a command ended, as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked is done.
    Done = 0,
    /// Something happened that this program did not expect; the message says what.
    Unexpected = 1,
    /// The command line, the configuration, or the moment is not right; nothing was begun.
    Usage = 2,
    /// The preflight found a blocker; nothing was touched.
    Blocker = 3,
    /// Stopped for a person, and can go on: blocked, in need of an operator, interrupted, or a switchover held.
    Stopped = 4,
    /// What was begun was taken back; the source serves.
    TakenBack = 5,
    /// Source and target differ, or a ledger's writes are not what the database holds.
    Differs = 6,
    /// Another process holds the lock on this upgrade.
    Locked = 75,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}
