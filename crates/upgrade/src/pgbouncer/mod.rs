//! PgBouncer: its admin console and its configuration file.

pub mod admin;
pub mod ini;
pub mod inspect;
pub mod pooler;

pub use pooler::PgBouncer;
