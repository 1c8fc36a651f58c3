//! The chain on real servers.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions may fail the test too")]

mod bed;
mod boundary;
mod checks;
mod command_route;
mod coverage;
#[cfg(feature = "faults")]
mod deaths;
mod drift;
mod facts;
mod fixes;
mod guard_versions;
mod guards;
mod lost_journal;
mod matrix;
mod mixed_fleet;
mod multi_host;
mod preflight;
mod preflight_footprint;
mod readers;
mod refuse;
mod rig;
mod sequences;
mod session_pooling;
#[cfg(feature = "faults")]
mod siblings;
mod standard;
mod standby;
mod steps;
mod strays;
mod survive;
mod timing;
mod unwind;
mod verify;
mod versions;
