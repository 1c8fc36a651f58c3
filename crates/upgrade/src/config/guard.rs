//! `guard.toml`: what the guard of a host watches over, and who may call it.

use std::path::{Path, PathBuf};

use super::{ConfigErrors, Pooler, parse, read_identity, read_pooler, reader::Reader};
use crate::guard::tls::Identity;

/// The configuration of a guard that is a service.
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// Address and port to listen on.
    pub listen: String,
    /// Where it keeps its notes of pauses.
    pub notes: PathBuf,
    /// Who it is, and who may call.
    pub identity: Identity,
    /// This host's PgBouncer processes; siblings of one port each by their own socket.
    pub poolers: Vec<Pooler>,
}

impl GuardConfig {
    /// Reads the file; relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem that the text has.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        super::load(path, Self::parse)
    }

    /// Reads the text of a configuration; `base` is what relative paths start from.
    ///
    /// # Errors
    /// Every problem, a line each.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<String>> {
        let mut root = Reader::new("", parse(text)?, base);
        let listen = root.text("listen").unwrap_or_default();
        if listen.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            root.problem("listen", "must be an address and a port, such as \"10.0.0.5:7432\"");
        }
        let notes = root.required_path("notes");
        let mut tls = root.table("tls");
        let identity = read_identity(&mut tls);
        root.absorb(tls);
        let mut poolers: Vec<Pooler> = Vec::new();
        for mut entry in root.tables("pgbouncer") {
            let pooler = read_pooler(&mut entry, None);
            if poolers.iter().any(|other| other.console() == pooler.console()) {
                entry.problem("admin", "names the same console as another: siblings need a socket each");
            }
            poolers.push(pooler);
            root.absorb(entry);
        }
        if poolers.is_empty() {
            root.problem("pgbouncer", "is missing: name each PgBouncer by a [[pgbouncer]] table");
        }
        match root.finish() {
            problems if problems.is_empty() => Ok(Self { listen, notes, identity, poolers }),
            problems => Err(problems),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        listen = "127.0.0.1:7432"
        notes = "notes"
        [tls]
        certificate = "guard.pem"
        key = "guard.key"
        authority = "ca.pem"
        [[pgbouncer]]
        admin = "host=/run/pgbouncer port=6432 user=pgbouncer"
        ini = "/etc/pgbouncer/pgbouncer.ini"
    "#;

    #[test]
    fn guard_config_reads_who_may_call_and_what_is_watched() {
        let config = GuardConfig::parse(GOOD, Path::new("/base")).unwrap();
        assert_eq!(config.identity.authority, Path::new("/base/ca.pem"));
        assert_eq!(config.poolers[0].console(), "/run/pgbouncer:6432");
    }

    #[test]
    fn guard_config_reports_every_mistake_at_once() {
        let twice = GOOD.split_once("[[pgbouncer]]").unwrap().1;
        let text = GOOD.replace("7432", "port").replace("key = ", "kee = ") + "[[pgbouncer]]" + twice;
        let problems = GuardConfig::parse(&text, Path::new("/")).unwrap_err().join("\n");
        for expected in ["`listen` must be", "`tls.key` is missing", "`tls.kee` is not a key", "names the same console"]
        {
            assert!(problems.contains(expected), "missing: {expected}\nin:\n{problems}");
        }
    }
}
