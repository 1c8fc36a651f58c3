//! Guards: a pause that ends by itself.
//!
//! PgBouncer keeps a pause when whoever asked for it dies, until its clients die of it. So every pause is held by a guard, a
//! small process beside the pooler, on a lease. It knows two addresses, old and new, and one rule: when the lease is over and
//! no decision was received, clients go on at the old address. A decision that was received is finished, also by a guard
//! that was killed and started again: it keeps a note of each pause, written before PAUSE is sent.

pub mod client;
pub mod keeper;
pub mod launch;
pub mod note;
pub mod protocol;
pub mod service;
pub mod tls;
pub mod ward;

pub use client::GuardClient;
pub use keeper::Keeper;
pub use launch::Launch;
pub use service::Guard;
pub use ward::Ward;
