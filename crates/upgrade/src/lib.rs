//! The domain: how a PostgreSQL cluster gets to a new major version while it keeps serving.
//!
//! A folder for each phase, a file for each step or check. Knows no terminal and no cloud.

pub mod approvals;
pub mod chain;
pub mod config;
mod files;
pub mod finalize;
pub mod fix;
pub mod guard;
pub mod pg;
pub mod pgbouncer;
pub mod plan;
pub mod preflight;
pub mod provision;
pub mod readers;
pub mod rehearse;
pub mod replicate;
pub mod route;
pub mod standing;
pub mod switchover;
pub mod timing;
pub mod twin;
pub mod verify;
pub mod world;

pub use chain::Chain;
pub use config::Config;
pub use standing::Standing;
pub use world::World;
