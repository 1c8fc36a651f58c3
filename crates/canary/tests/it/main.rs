//! The canary against real servers: it has to see what is wrong, and only that.

// The configured exception is for test functions; all that is here is a test's.
#![allow(clippy::unwrap_used)]

mod bed;
mod faults;
mod killed;
mod pooled;
mod verdicts;
