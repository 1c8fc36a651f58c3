//! The program as its users meet it: exit code, stdout and stderr together, from the built binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod bed;
mod canary;
mod commands;
mod docs;
#[cfg(feature = "faults")]
mod fleet;
#[cfg(feature = "faults")]
mod guards;
#[cfg(feature = "faults")]
mod kills;
#[cfg(feature = "faults")]
mod orphans;
mod planning;
mod reports;
mod route_check;
mod stops;
mod twin;
mod usage;
mod waits;
