//! Real servers and poolers. What is not installed is skipped, with a line that says so.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions may fail the test too")]

mod dies_with_parent;
mod poolers;
mod servers;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgleap_local::{Account, Installation, Server};

const LONG: Duration = Duration::from_secs(60);

/// A directory servers can reach, gone with the test.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Room {
        let dir = tempfile::Builder::new().prefix("pgl-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Room(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A server below this directory, in a directory that belongs to its account.
    fn server(&self, installation: &Installation) -> Server {
        let account = Account::for_servers(None).unwrap();
        let dir = self.path().join(installation.major.to_string());
        account.create_dir(&dir, 0o755).unwrap();
        Server {
            installation: installation.clone(),
            account,
            data_dir: dir.join("data"),
            log: dir.join("log/server.log"),
        }
    }

    /// Settings that keep a server to itself: a port of its own, its socket below this directory.
    fn private(&self, server: &Server, port: u16) -> Vec<(String, String)> {
        let socket_dir = server.data_dir.parent().unwrap().to_str().unwrap().to_string();
        [
            ("port", port.to_string()),
            ("unix_socket_directories", socket_dir),
            ("listen_addresses", "127.0.0.1".to_string()),
            ("fsync", "off".to_string()),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .to_vec()
    }
}

/// The first of these majors that is installed.
fn any_of(majors: &[u16]) -> Option<Installation> {
    let found = majors.iter().find_map(|major| pgleap_local::find(*major, &[]).ok());
    if found.is_none() {
        eprintln!("skipped: none of PostgreSQL {majors:?} is installed");
    }
    found
}

/// Every PgBouncer on this machine.
fn all_poolers() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = pgleap_local::find_pgbouncer(&[]).into_iter().collect();
    let root = std::env::var_os("PGLEAP_PG_DIR").map_or_else(|| "/var/lib/pgleap/pg".into(), PathBuf::from);
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let program = entry.path().join("bin/pgbouncer");
        if program.is_file() && !found.contains(&program) {
            found.push(program);
        }
    }
    if found.is_empty() {
        eprintln!("skipped: PgBouncer is not installed");
    }
    found
}
