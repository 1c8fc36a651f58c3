//! Logical replication from one cluster to the other: publication, slot, subscription, origin, and catching up.

pub mod advance_origins;
pub mod analyze;
pub mod catch_up;
pub mod create_publications;
pub mod create_slots;
pub mod create_subscriptions;
pub mod enable;
pub mod health;
pub mod show_read_only;
pub mod slot;
pub mod subscription;
pub mod watched;

pub use advance_origins::AdvanceOrigins;
pub use analyze::Analyze;
pub use catch_up::CatchUp;
pub use create_publications::CreatePublications;
pub use create_slots::CreateSlots;
pub use create_subscriptions::CreateSubscriptions;
pub use enable::EnableSubscriptions;
pub use show_read_only::ShowReadOnly;
pub use watched::Watched;
