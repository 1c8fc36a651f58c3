//! The target's settings: the source's, as far as the new major knows them, and what replication needs.

use std::{collections::BTreeSet, path::Path, time::Duration};

use crate::pg::{Cluster, PgError};

/// A setting of the source that is not a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Its name.
    pub name: String,
    /// Its value, with units.
    pub value: String,
}

/// Settings that were given to the source in its files or on its command line.
pub const READ: &str = "
    SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings
     WHERE source IN ('configuration file', 'command line', 'environment variable') ORDER BY name";

/// Why a setting is not carried, for those that would do harm.
fn not_carried(name: &str, value: &str) -> Option<&'static str> {
    Some(match name {
        "log_directory" if Path::new(value).is_absolute() => "two servers must not write into one log",
        "data_directory"
        | "config_file"
        | "hba_file"
        | "ident_file"
        | "external_pid_file"
        | "port"
        | "cluster_name"
        | "stats_temp_directory" => "belongs to the source's own place",
        "primary_conninfo"
        | "primary_slot_name"
        | "restore_command"
        | "promote_trigger_file"
        | "archive_cleanup_command"
        | "recovery_end_command" => "belongs to a standby",
        _ if name.starts_with("recovery_target") => "belongs to a standby",
        "archive_mode" | "archive_command" | "archive_library" => {
            "two clusters must not archive to one place: the target begins a new timeline 1"
        }
        "synchronous_standby_names" | "synchronized_standby_slots" => {
            "the target has no standbys yet, and its commits would wait for them"
        }
        "default_transaction_read_only" => "is pgleap's to set",
        // computed by the server, or given below
        "wal_level" | "max_slot_wal_keep_size" | "idle_replication_slot_timeout" | "lc_messages" => "is set by pgleap",
        _ => return None,
    })
}

/// How many locks each of `max_connections` may hold, on average.
pub const LOCKS: &str = "max_locks_per_transaction";

const NEEDED: [(&str, u64); 5] = [
    ("max_replication_slots", 10),
    ("max_wal_senders", 10),
    ("max_logical_replication_workers", 4),
    ("max_worker_processes", 8),
    ("max_active_replication_origins", 10),
];

const BUDGET: Duration = Duration::from_secs(60);
const DATABASES: &str = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn";
const RELATIONS: &str =
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')";

/// Returns how many tables, views and sequences each database of the source has, the most first: pg_dump locks all of one.
///
/// One that cannot be asked is left out: servers do start without it, and mostly it is not needed.
pub async fn relations(source: &Cluster, database: &str) -> Vec<u64> {
    let mut counts = Vec::new();
    for name in names(source, database).await.unwrap_or_default() {
        let count = async { source.open(&name, BUDGET).await?.query_one(RELATIONS, &[]).await };
        if let Ok(row) = count.await {
            counts.push(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default());
        }
    }
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

async fn names(source: &Cluster, database: &str) -> Result<Vec<String>, PgError> {
    Ok(source.db(database).await?.query(DATABASES, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Returns the `max_locks_per_transaction` with which one transaction can lock so many relations; none if any default will do.
///
/// The table of locks has room for it times `max_connections`, and some more. Half of the oldest default is left to others.
pub fn locks(relations: u64, connections: u64) -> Option<u64> {
    let each = relations.div_ceil(connections.max(1)) + 32;
    // from 19 on the default is 128: nothing is made less than that
    (each > 64).then_some(each.max(128))
}

/// The target's configuration, and what was left out of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Lines for `postgresql.conf`.
    pub conf: String,
    /// Settings that were left out, and why.
    pub left_out: Vec<(String, &'static str)>,
}

/// Returns the target's settings.
///
/// `known` are the names that the target's major has; `databases` is how many subscriptions it must carry; `relations` is how
/// many tables, views and sequences pg_dump has to lock at once; `own` are the operator's, which win; paths of certificates that are relative to the source's data directory become absolute.
pub fn map(
    carried: &[Carried],
    known: &BTreeSet<String>,
    databases: u64,
    relations: u64,
    port: u16,
    source_data_dir: &Path,
    own: &[(String, String)],
) -> Mapped {
    let mut left_out = Vec::new();
    let mut lines = Vec::new();
    let value_of = |name: &str| carried.iter().find(|c| c.name == name).map(|c| c.value.as_str());
    for Carried { name, value } in carried {
        let custom = name.contains('.');
        if let Some(why) = not_carried(name, value) {
            left_out.push((name.clone(), why));
        } else if !known.contains(name) && !custom {
            left_out.push((name.clone(), "is not a setting of the new major"));
        } else if NEEDED.iter().all(|(needed, _)| needed != name) {
            let relative = name.starts_with("ssl_") && name.ends_with("_file") && !value.is_empty();
            let value =
                if relative { source_data_dir.join(value).to_string_lossy().into_owned() } else { value.clone() };
            lines.push((name.clone(), value));
        }
    }
    for (name, least) in NEEDED {
        // one worker for each subscription, its launcher, and what the source had of them for itself
        let wanted = least.max(databases * 2 + 6);
        let value = value_of(name).and_then(|value| value.parse().ok()).unwrap_or(0).max(wanted);
        if known.contains(name) {
            lines.push((name.to_owned(), value.to_string()));
        }
    }
    let own_value = |name: &str| own.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let connections = own_value("max_connections").or_else(|| value_of("max_connections"));
    let connections = connections.and_then(|value| value.parse().ok()).unwrap_or(100);
    let had = value_of(LOCKS).and_then(|value| value.parse().ok()).unwrap_or(0);
    if let Some(wanted) = locks(relations, connections).filter(|wanted| *wanted > had) {
        lines.push((LOCKS.to_owned(), wanted.to_string()));
    }
    for (name, value) in
        [("wal_level", "logical"), ("max_slot_wal_keep_size", "-1"), ("idle_replication_slot_timeout", "0")]
    {
        if known.contains(name) {
            lines.push((name.to_owned(), value.to_owned()));
        }
    }
    lines.push(("port".to_owned(), port.to_string()));
    lines.extend(own.iter().cloned());
    let conf = lines.iter().map(|(name, value)| format!("{name} = {}\n", pgleap_local::quote_conf(value))).collect();
    Mapped { conf, left_out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(carried: &[(&str, &str)], own: &[(&str, &str)]) -> Mapped {
        let carried: Vec<_> = carried.iter().map(|(n, v)| Carried { name: (*n).into(), value: (*v).into() }).collect();
        let known = [
            "work_mem",
            "max_wal_senders",
            "wal_level",
            "ssl_cert_file",
            "archive_mode",
            "port",
            "log_directory",
            "max_connections",
            LOCKS,
        ];
        let known = known.iter().map(|name| (*name).to_owned()).collect();
        let own: Vec<_> = own.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        map(&carried, &known, 3, 12_000, 5433, Path::new("/old"), &own)
    }

    #[test]
    fn settings_that_the_new_major_lacks_or_that_would_do_harm_are_named() {
        let result = mapped(&[("work_mem", "8MB"), ("vacuum_defer_cleanup_age", "0"), ("archive_mode", "on")], &[]);
        assert!(result.conf.contains("work_mem = '8MB'"));
        assert!(!result.conf.contains("archive_mode"));
        let names: Vec<_> = result.left_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["vacuum_defer_cleanup_age", "archive_mode"]);
    }

    #[test]
    fn logs_that_are_not_beside_the_data_stay_the_sources_own() {
        let conf = |value| mapped(&[("log_directory", value)], &[]).conf;
        assert!(
            conf("log").contains("log_directory = 'log'") && !conf("/var/log/postgresql").contains("log_directory")
        );
    }

    #[test]
    fn replication_gets_what_it_needs_and_never_less_than_the_source_had() {
        assert!(mapped(&[("max_wal_senders", "3")], &[]).conf.contains("max_wal_senders = '12'"));
        assert!(mapped(&[("max_wal_senders", "50")], &[]).conf.contains("max_wal_senders = '50'"));
    }

    #[test]
    fn one_transaction_can_lock_every_table_and_nothing_is_lowered() {
        assert_eq!((locks(3200, 100), locks(3201, 100), locks(12_000, 30)), (None, Some(128), Some(432)));
        let conf = |carried: &[(&str, &str)], own: &[(&str, &str)]| {
            let conf = mapped(carried, own).conf;
            conf.lines().filter(|line| line.starts_with(LOCKS)).map(str::to_owned).next_back()
        };
        assert_eq!(conf(&[("max_connections", "30")], &[]).as_deref(), Some("max_locks_per_transaction = '432'"));
        assert_eq!(conf(&[("max_connections", "300")], &[]).as_deref(), Some("max_locks_per_transaction = '128'"));
        assert_eq!(conf(&[("max_connections", "1000")], &[]), None);
        assert_eq!(conf(&[], &[("max_connections", "20")]).as_deref(), Some("max_locks_per_transaction = '632'"));
        let had = [("max_connections", "30"), (LOCKS, "500")];
        assert_eq!(conf(&had, &[]).as_deref(), Some("max_locks_per_transaction = '500'"));
        assert_eq!(
            conf(&had[..1], &[(LOCKS, "70")]).as_deref(),
            Some("max_locks_per_transaction = '70'"),
            "it is theirs"
        );
    }

    #[test]
    fn operators_settings_come_last_and_win() {
        let conf = mapped(&[("work_mem", "8MB")], &[("work_mem", "64MB")]).conf;
        assert!(conf.find("'8MB'") < conf.find("'64MB'"));
    }

    #[test]
    fn certificates_stay_where_the_source_has_them() {
        let conf = mapped(&[("ssl_cert_file", "server.crt")], &[]).conf;
        assert!(conf.contains("ssl_cert_file = '/old/server.crt'"), "{conf}");
    }
}
