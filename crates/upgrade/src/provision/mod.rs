//! Making the target: a copy of the source, stopped exactly at the boundary, and upgraded.
//!
//! Slot first, then the copy: the slots hold every change after the boundary, the copy everything before it.

pub mod adopt_standby;
pub mod base_backup;
pub mod boundary;
pub mod claim_directories;
pub mod copy;
pub mod disposable;
pub mod fix_boundary;
pub mod init_target;
pub mod prepare_databases;
pub mod prove_boundary;
pub mod quarantine_copy;
pub mod rebuild_indexes;
pub mod recover_copy;
pub mod settings;
pub mod start_target;
pub mod update_extensions;
pub mod upgrade_copy;

pub use adopt_standby::AdoptStandby;
pub use base_backup::BaseBackup;
pub use claim_directories::ClaimDirectories;
pub use fix_boundary::FixBoundary;
pub use init_target::InitTarget;
pub use prepare_databases::PrepareDatabases;
pub use prove_boundary::{ProveCopy, ProveTarget};
pub use quarantine_copy::QuarantineCopy;
pub use rebuild_indexes::RebuildIndexes;
pub use recover_copy::RecoverCopy;
pub use start_target::StartTarget;
pub use update_extensions::UpdateExtensions;
pub use upgrade_copy::UpgradeCopy;
