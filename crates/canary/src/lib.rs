//! Honest clients: they write, remember what the server acknowledged, and measure every stall.
//!
//! A [`Canary`] runs a number of clients against one database, usually through a pooler, the way an application would:
//! several statements in a transaction, reads of its own writes, savepoints, rollbacks. Each client keeps a ledger of the
//! transactions whose COMMIT was acknowledged. [`audit`] later compares a ledger with any database and says what was
//! lost, what was applied twice, and what is there although nobody committed it.
//!
//! Honest means: an error is counted before it is retried; latency counts from the moment at which a transaction was due,
//! not from the moment at which a slow server let it begin; and a COMMIT whose answer never came is neither a success nor
//! a failure but *unknown*, and is reported apart.
//!
//! Survives: servers and poolers that restart, refuse, stall or vanish; being killed itself, when a ledger file is kept.
//! Does not survive: a role that may not write into the schema `pgleap_canary`; a database without that schema. Connects
//! without TLS.

mod audit;
mod book;
mod canary;
mod client;
mod error;
mod ledger;
mod meter;
mod ranges;
mod render;
mod report;
mod schema;
mod session;
mod timeline;
mod transaction;

pub use audit::{Audit, Example, audit};
pub use canary::{Canary, CanaryConfig};
pub use error::CanaryError;
pub use ledger::{ClientLedger, Ledger};
pub use ranges::Ranges;
pub use render::render;
pub use report::{FailureKind, Latency, PeriodReport, Report, SCHEMA_VERSION, Stats};
pub use schema::{prepare, remove};
pub use timeline::{Timeline, Window};
