//! The kernel against worlds that are maps in memory, and, where a process must die, directories.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy allows them in test functions, not in their helpers"
)]

mod deaths;
mod journal;
mod lost_journal;
mod outputs;
mod plans;
mod processes;
mod retries;
mod sections;
mod stops;
mod unwinding;
mod world;
