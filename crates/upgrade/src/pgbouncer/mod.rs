//! PgBouncer: its admin console and its configuration file.

pub mod admin;
pub mod ini;
pub mod inspect;
pub mod pooler;
pub mod trial;

pub use pooler::PgBouncer;
