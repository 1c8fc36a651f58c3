//! What is decided before anything is touched: how the upgrade is done, how long it takes, what it costs.
//!
//! Facts are read once from the live cluster; everything else is a pure function of them, so that a plan can be made from
//! facts that were saved weeks ago, and tested without a server.

mod collect;
pub mod facts;

pub use collect::collect;
pub use facts::{Engine, Facts, Saved, SavedFinding};
