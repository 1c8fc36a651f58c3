//! Where PostgreSQL and PgBouncer are installed.
//!
//! A directory is judged by running `postgres --version` in it, never by its name. Survives: half-removed packages
//! (a `postgres` without `pg_ctl` is passed over), links from a directory on `PATH` into the real one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Majors looked for by [`installed`] in places that are named after the major.
const MAJORS: std::ops::RangeInclusive<u16> = 10..=24;

/// Why a program was not found.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// No directory held this major.
    #[error("PostgreSQL {major} is not installed; looked in {}; `scripts/setup {major}` brings it", list(searched))]
    NotFound {
        /// The major that was wanted.
        major: u16,
        /// Every directory that was looked at, in order.
        searched: Vec<PathBuf>,
    },
    /// No PgBouncer that runs.
    #[error("PgBouncer is not installed; looked for {}; `scripts/setup demo` brings it", list(searched))]
    NoPooler {
        /// Every path that was looked at, in order.
        searched: Vec<PathBuf>,
    },
}

/// One PostgreSQL major's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The major version, such as 15.
    pub major: u16,
    /// The whole version as the server says it: `15.18`, `19rc1`.
    pub version: String,
    /// The directory that holds `postgres`, `pg_ctl`, `initdb` and the rest.
    pub bindir: PathBuf,
}

impl Installation {
    /// Returns the path of one of this installation's programs; it is not checked that it exists.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// Asks the `postgres` in `bindir` for its version; `None` if there is none that answers.
    pub fn at(bindir: &Path) -> Option<Installation> {
        let postgres = bindir.join("postgres");
        // Behind a link, initdb and pg_upgrade sit beside the real program and perhaps not beside the link.
        let real = std::fs::canonicalize(&postgres).ok()?;
        let bindir = if bindir.join("pg_ctl").exists() { bindir } else { real.parent()? };
        if !bindir.join("pg_ctl").exists() {
            return None;
        }
        let (major, version) = parse_version(&version_output(&postgres)?)?;
        Some(Installation { major, version, bindir: bindir.to_path_buf() })
    }
}

/// Which ICU a server was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icu {
    /// It loads the library of this major, such as 72.
    Linked(u16),
    /// None: it refuses collations of that provider.
    Without,
}

impl Installation {
    /// Reads which ICU the server was built with; `None` if its file does not say, as one linked statically does not.
    pub fn icu(&self) -> Option<Icu> {
        let program = std::fs::read(self.tool("postgres")).ok()?;
        icu_of(&program)
    }
}

/// The name of the library that is loaded, or the message of a server that has none.
fn icu_of(program: &[u8]) -> Option<Icu> {
    const LIBRARY: &[u8] = b"libicui18n.";
    const WITHOUT: &[u8] = b"ICU is not supported in this build";
    let mut without = false;
    for (at, _) in program.iter().enumerate().filter(|(_, byte)| **byte == b'l' || **byte == b'I') {
        let rest = &program[at..];
        without |= rest.starts_with(WITHOUT);
        if let Some(version) = rest.strip_prefix(LIBRARY) {
            let version = version.strip_prefix(b"so.").unwrap_or(version);
            let digits = version.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let major = std::str::from_utf8(&version[..digits]).ok().and_then(|digits| digits.parse().ok());
            if let Some(major) = major {
                return Some(Icu::Linked(major));
            }
        }
    }
    without.then_some(Icu::Without)
}

/// Finds the programs of one major.
///
/// Looks in `extra` first (each a directory of programs, or a root with `<major>/bin` below it), then in
/// `$PGLEAP_PG_DIR/<major>/bin`, where `scripts/setup` puts things by default, in the places of Debian's, Red Hat's
/// and Homebrew's packages, and on `PATH`.
///
/// # Errors
/// [`BinariesError::NotFound`] with every directory that was looked at.
pub fn find(major: u16, extra: &[PathBuf]) -> Result<Installation, BinariesError> {
    let searched = candidates(major, extra);
    match searched.iter().filter_map(|dir| Installation::at(dir)).find(|found| found.major == major) {
        Some(found) => Ok(found),
        None => Err(BinariesError::NotFound { major, searched }),
    }
}

/// Finds every major there is, lowest first; of two installations of one major, the one [`find`] returns.
pub fn installed(extra: &[PathBuf]) -> Vec<Installation> {
    let mut found = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    for major in MAJORS {
        for dir in candidates(major, extra).into_iter().filter(|dir| seen.insert(dir.clone())) {
            if let Some(installation) = Installation::at(&dir) {
                found.entry(installation.major).or_insert(installation);
            }
        }
    }
    found.into_values().collect()
}

/// Finds a PgBouncer: in `extra` (each the program or its directory), `$PGLEAP_PGBOUNCER`, on `PATH`, in
/// `/usr/sbin`, and below `$PGLEAP_PG_DIR` or the default place of `scripts/setup` as `pgbouncer-*/bin/pgbouncer`.
///
/// # Errors
/// [`BinariesError::NoPooler`] with every path that was looked at.
pub fn find_pgbouncer(extra: &[PathBuf]) -> Result<PathBuf, BinariesError> {
    let mut searched: Vec<PathBuf> = extra
        .iter()
        .cloned()
        .chain(std::env::var_os("PGLEAP_PGBOUNCER").filter(|path| !path.is_empty()).map(PathBuf::from))
        .map(|path| if path.is_dir() { path.join("pgbouncer") } else { path })
        .collect();
    searched.extend(path_dirs().into_iter().map(|dir| dir.join("pgbouncer")));
    searched.push("/usr/sbin/pgbouncer".into());
    for root in setup_roots() {
        let mut below: Vec<PathBuf> = std::fs::read_dir(&root)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("pgbouncer-"))
            .map(|entry| entry.path().join("bin/pgbouncer"))
            .collect();
        below.sort();
        searched.append(&mut below);
    }
    match searched.iter().find(|path| version_output(path).is_some_and(|text| text.contains("PgBouncer"))) {
        Some(found) => Ok(found.clone()),
        None => Err(BinariesError::NoPooler { searched }),
    }
}

fn candidates(major: u16, extra: &[PathBuf]) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for dir in extra {
        dirs.push(dir.clone());
        dirs.push(dir.join(major.to_string()).join("bin"));
    }
    dirs.extend(setup_roots().into_iter().map(|root| root.join(major.to_string()).join("bin")));
    dirs.push(format!("/usr/lib/postgresql/{major}/bin").into());
    dirs.push(format!("/usr/pgsql-{major}/bin").into());
    dirs.push(format!("/opt/homebrew/opt/postgresql@{major}/bin").into());
    dirs.push(format!("/usr/local/opt/postgresql@{major}/bin").into());
    dirs.extend(path_dirs());
    dirs
}

/// Returns where `scripts/setup` puts what it brings: the place it was told, then its defaults for root or for others.
pub fn setup_roots() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let mut roots: Vec<PathBuf> = set("PGLEAP_PG_DIR").into_iter().collect();
    let shared = PathBuf::from("/var/lib/pgleap/pg");
    match cache.map(|cache| cache.join("pgleap/pg")) {
        // What lies in root's home cannot be read by the account that servers run as.
        Some(own) if !nix::unistd::geteuid().is_root() => roots.extend([own, shared]),
        _ => roots.push(shared),
    }
    roots
}

fn path_dirs() -> Vec<PathBuf> {
    std::env::split_paths(std::env::var_os("PATH").as_deref().unwrap_or(OsStr::new(""))).collect()
}

fn version_output(program: &Path) -> Option<String> {
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → (15, "15.18"); also `19rc1` and `18devel`.
fn parse_version(text: &str) -> Option<(u16, String)> {
    let version = text.strip_prefix("postgres (PostgreSQL)")?.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version[..digits].parse().ok()?, version.to_string()))
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icu_is_told_by_the_library_that_a_server_loads() {
        assert_eq!(icu_of(b"\0libicuuc.so.76\0libicui18n.so.76\0"), Some(Icu::Linked(76)));
        assert_eq!(icu_of(b"/opt/libicui18n.72.dylib\0"), Some(Icu::Linked(72)));
        assert_eq!(icu_of(b"\0ICU is not supported in this build\0"), Some(Icu::Without));
        assert_eq!(icu_of(b"\0libicui18n.so\0"), None);
    }

    use std::os::unix::fs::PermissionsExt;

    fn fake(dir: &Path, name: &str, says: &str) {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        let read = |text| parse_version(text).map(|(major, version)| format!("{major} {version}"));
        assert_eq!(read("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").as_deref(), Some("15 15.18"));
        assert_eq!(read("postgres (PostgreSQL) 19rc1\n").as_deref(), Some("19 19rc1"));
        assert_eq!(read("pg_ctl (PostgreSQL) 15.18\n"), None);
    }

    #[test]
    fn a_directory_is_judged_by_what_its_postgres_says_not_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("77/bin");
        fake(&bin, "postgres", "postgres (PostgreSQL) 76.1");
        fake(&bin, "pg_ctl", "");
        let extra = [root.path().to_path_buf()];
        let error = find(77, &extra).unwrap_err();
        assert!(error.to_string().contains("scripts/setup 77"), "{error}");
        assert!(error.to_string().contains("77/bin"), "{error}");
        assert_eq!(find(76, &[bin]).unwrap().version, "76.1");
    }

    #[test]
    fn a_postgres_without_pg_ctl_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        fake(root.path(), "postgres", "postgres (PostgreSQL) 77.1");
        assert!(find(77, &[root.path().to_path_buf()]).is_err());
    }

    #[test]
    fn a_link_leads_to_the_directory_with_the_other_programs() {
        let root = tempfile::tempdir().unwrap();
        let (real, links) = (root.path().join("real"), root.path().join("links"));
        fake(&real, "postgres", "postgres (PostgreSQL) 77.1");
        fake(&real, "pg_ctl", "");
        std::fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink(real.join("postgres"), links.join("postgres")).unwrap();
        assert_eq!(find(77, &[links]).unwrap().bindir, std::fs::canonicalize(real).unwrap());
    }

    #[test]
    fn a_pgbouncer_is_taken_from_its_directory_or_by_its_own_path() {
        let root = tempfile::tempdir().unwrap();
        fake(root.path(), "pgbouncer", "PgBouncer 9.9");
        let program = root.path().join("pgbouncer");
        assert_eq!(find_pgbouncer(&[root.path().to_path_buf()]).unwrap(), program);
        assert_eq!(find_pgbouncer(std::slice::from_ref(&program)).unwrap(), program);
    }
}
