//! The target's settings: the source's, as far as the new major knows them, and what replication needs.

use std::{collections::BTreeSet, path::Path};

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

const NEEDED: [(&str, u64); 5] = [
    ("max_replication_slots", 10),
    ("max_wal_senders", 10),
    ("max_logical_replication_workers", 4),
    ("max_worker_processes", 8),
    ("max_active_replication_origins", 10),
];

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
/// `known` are the names that the target's major has; `databases` is how many subscriptions it must carry; `own` are
/// the operator's, which win; paths of certificates that are relative to the source's data directory become absolute.
pub fn map(
    carried: &[Carried],
    known: &BTreeSet<String>,
    databases: u64,
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
        let known =
            ["work_mem", "max_wal_senders", "wal_level", "ssl_cert_file", "archive_mode", "port", "log_directory"];
        let known = known.iter().map(|name| (*name).to_owned()).collect();
        let own: Vec<_> = own.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        map(&carried, &known, 3, 5433, Path::new("/old"), &own)
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
