//! A remedy that pgleap can apply by itself, as data: what is pasted and what is applied are made of the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pg::ident;

/// One change of the source that removes the cause of a finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "fix", rename_all = "snake_case")]
pub enum Fix {
    /// What identifies the rows of a table.
    ReplicaIdentity {
        /// Its database.
        database: String,
        /// The table, as SQL writes it.
        table: String,
        /// A usable unique index, by its bare name; `FULL` without one.
        index: Option<String>,
    },
    /// When a trigger fires.
    Trigger {
        /// Its database.
        database: String,
        /// Its table, as SQL writes it.
        table: String,
        /// The trigger, as SQL writes it.
        trigger: String,
        /// What it becomes.
        mode: TriggerMode,
    },
    /// A setting of the whole cluster.
    Setting {
        /// Its name.
        name: String,
        /// What it becomes.
        value: String,
        /// It takes effect with a restart, which is the operator's.
        restart: bool,
        /// A physical standby whose own value is lower stops replaying.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        standbys_first: bool,
    },
}

/// `pg_trigger.tgenabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerMode {
    /// Fires for ordinary sessions: `O`.
    Enable,
    /// Never fires: `D`.
    Disable,
}

impl Fix {
    /// Returns a change of a setting that a reload brings into effect.
    pub fn reload(name: &str, value: impl ToString) -> Self {
        Self::Setting { name: name.to_owned(), value: value.to_string(), restart: false, standbys_first: false }
    }

    /// Returns a change of a setting that the operator's restart brings into effect.
    pub fn restart(name: &str, value: impl ToString) -> Self {
        Self::Setting { name: name.to_owned(), value: value.to_string(), restart: true, standbys_first: false }
    }

    /// Makes it a change that the source's standbys need before the source.
    #[must_use]
    pub fn on_standbys_first(self) -> Self {
        match self {
            Self::Setting { name, value, restart, .. } => Self::Setting { name, value, restart, standbys_first: true },
            other => other,
        }
    }

    /// Returns the database in which it is applied; `None` for the whole cluster.
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::ReplicaIdentity { database, .. } | Self::Trigger { database, .. } => Some(database),
            Self::Setting { .. } => None,
        }
    }

    /// Returns the name of the setting that it changes.
    pub fn setting(&self) -> Option<&str> {
        match self {
            Self::Setting { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether a restart of the source must follow, by the operator.
    pub fn needs_restart(&self) -> bool {
        matches!(self, Self::Setting { restart: true, .. })
    }

    /// Whether the source's standbys need it before the source does.
    pub fn needs_standbys_first(&self) -> bool {
        matches!(self, Self::Setting { standbys_first: true, .. })
    }

    /// Returns the statement.
    pub fn sql(&self) -> String {
        match self {
            Self::ReplicaIdentity { table, index: Some(index), .. } => {
                format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {};", ident::quote(index))
            }
            Self::ReplicaIdentity { table, index: None, .. } => format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"),
            Self::Trigger { table, trigger, mode: TriggerMode::Enable, .. } => {
                format!("ALTER TABLE {table} ENABLE TRIGGER {trigger};")
            }
            Self::Trigger { table, trigger, mode: TriggerMode::Disable, .. } => {
                format!("ALTER TABLE {table} DISABLE TRIGGER {trigger};")
            }
            Self::Setting { name, value, .. } => {
                // a number stands as it is, everything else as a text
                let number = value.parse::<i64>().is_ok();
                let value = if number { value.clone() } else { ident::literal(value) };
                format!("ALTER SYSTEM SET {name} = {value};")
            }
        }
    }
}

/// Returns fixes as a script for psql: each database entered once.
pub(super) fn script(fixes: &[Fix]) -> String {
    let mut by_database: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
    for fix in fixes {
        let tail = match fix {
            Fix::Setting { standbys_first: true, .. } => {
                "  -- on each standby first, and restart it; then here, and restart the source"
            }
            Fix::Setting { restart: true, .. } => "  -- then restart the source",
            Fix::Setting { restart: false, .. } => " SELECT pg_reload_conf();",
            _ => "",
        };
        by_database.entry(fix.database()).or_default().push(format!("{}{tail}", fix.sql()));
    }
    let mut lines = Vec::new();
    for (database, statements) in by_database {
        lines.extend(database.map(|database| format!("\\c {}", ident::quote(database))));
        lines.extend(statements);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_enters_each_database_once_and_says_what_takes_a_restart() {
        let identity = |table: &str, index: Option<&str>| Fix::ReplicaIdentity {
            database: "App".into(),
            table: table.into(),
            index: index.map(str::to_owned),
        };
        let fixes = [
            identity("public.a", Some("Odd")),
            Fix::restart("wal_level", "logical"),
            identity("public.b", None),
            Fix::reload("max_slot_wal_keep_size", -1),
        ];
        assert_eq!(
            script(&fixes),
            "ALTER SYSTEM SET wal_level = 'logical';  -- then restart the source\n\
             ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();\n\
             \\c \"App\"\n\
             ALTER TABLE public.a REPLICA IDENTITY USING INDEX \"Odd\";\n\
             ALTER TABLE public.b REPLICA IDENTITY FULL;"
        );
    }
}
