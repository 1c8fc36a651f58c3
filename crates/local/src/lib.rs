//! PostgreSQL and PgBouncer processes on this machine: found, started, watched and stopped.
//!
//! Knows nothing of upgrades. [`Server`] and [`PoolerSpec`] are descriptions, not handles: whoever holds one can
//! start, inspect or stop the process, also after the program that started it has died. Only short-lived tools
//! (through [`Account::command`] and [`run`]) die with their parent.
//!
//! Survives: being run as root (servers then run as another [`Account`]), stale pid files, reused process ids,
//! processes nobody reaps. Does not: serve Windows.

mod account;
mod binaries;
mod command;
mod conf;
mod init;
mod owned_files;
mod pooler;
mod ports;
mod postmaster;
mod process;
mod server;
mod stop_on_drop;

pub use account::{Account, AccountError};
pub use binaries::{BinariesError, Icu, Installation, find, find_pgbouncer, installed, setup_roots};
pub use command::{CommandError, Output, run, run_with_input, run_with_lines};
pub use conf::quote as quote_conf;
pub use init::{Auth, InitOptions, LocaleOptions, LocaleProvider};
pub use pooler::{Pooler, PoolerError, PoolerSpec};
pub use ports::free_port;
pub use postmaster::{Running, ServerStatus};
pub use server::{Server, ServerError, StopMode};
pub use stop_on_drop::{KillOnDrop, StopOnDrop};
