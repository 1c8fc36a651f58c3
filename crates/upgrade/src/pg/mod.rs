//! PostgreSQL itself: sessions, positions, names, decoding. No step of the chain lives here.

pub mod access;
pub mod cluster;
pub mod decode;
pub mod hba;
pub mod ident;
pub mod lsn;
pub mod marker;
pub mod secret;
pub mod session;
pub mod signpost;

pub use cluster::{Cluster, Endpoint, Side};
pub use lsn::Lsn;
pub use secret::Secret;
pub use session::{PgError, Session};
