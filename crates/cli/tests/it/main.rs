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
mod hosts;
mod inputs;
#[cfg(feature = "faults")]
mod kills;
#[cfg(feature = "faults")]
mod orphans;
mod planning;
#[cfg(feature = "aws")]
mod prices;
#[cfg(feature = "faults")]
mod programs;
mod reports;
mod route_check;
mod scene;
mod stops;
#[cfg(feature = "faults")]
mod sweep;
mod twin;
mod usage;
mod waits;
