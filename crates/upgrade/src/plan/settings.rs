//! Settings of the source that have to be changed before an upgrade by logical replication, and which of them take a restart.

use serde::{Deserialize, Serialize};

use super::facts::{Engine, Facts};
use crate::preflight::limits;

/// A setting to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// What it is.
    pub now: String,
    /// What it should be.
    pub wanted: String,
    /// It takes effect with a restart of the source.
    pub restart: bool,
    /// What asks for it.
    pub why: String,
}

impl Change {
    /// Returns the statement or the command that makes it.
    pub fn how(&self, engine: Engine) -> String {
        match engine {
            Engine::SelfManaged => format!("ALTER SYSTEM SET {} = {};", self.name, self.wanted),
            Engine::Aurora | Engine::Rds => {
                let (name, value) = match self.name.as_str() {
                    "wal_level" => ("rds.logical_replication", "1"),
                    name => (name, self.wanted.as_str()),
                };
                let apply = if self.restart { "pending-reboot" } else { "immediate" };
                format!("ParameterName={name},ParameterValue={value},ApplyMethod={apply}")
            }
            Engine::OtherManaged => format!("{} = {}", self.name, self.wanted),
        }
    }
}

/// Returns what has to be changed; limits by the formula of the preflight.
pub fn changes(facts: &Facts) -> Vec<Change> {
    let databases = facts.databases.len() as u64;
    let mut changes = Vec::new();
    let mut change = |name: &str, now: String, wanted: String, restart: bool, why: &str| {
        changes.push(Change { name: name.to_owned(), now, wanted, restart, why: why.to_owned() });
    };
    if let Some(level) = facts.settings.get("wal_level").filter(|level| *level != "logical") {
        change("wal_level", level.clone(), "logical".into(), true, "changes are decoded from WAL");
    }
    for limit in limits::needed(databases, facts.in_use(), facts.major()) {
        let Some(now) = facts.number(limit.setting).filter(|now| *now < limit.needed) else { continue };
        change(limit.setting, now.to_string(), limit.needed.to_string(), true, limit.why);
    }
    if let Some(limit) = facts.settings.get("max_slot_wal_keep_size").filter(|limit| *limit != "-1") {
        change(
            "max_slot_wal_keep_size",
            format!("{limit} MB"),
            "-1".into(),
            false,
            "a slot past it is lost, and all begins again",
        );
    }
    if let Some(seconds) = facts.number("idle_replication_slot_timeout").filter(|seconds| *seconds > 0) {
        change(
            "idle_replication_slot_timeout",
            format!("{seconds} s"),
            "0".into(),
            false,
            "nobody reads the slots while the copy is upgraded",
        );
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::{DatabaseFacts, tests::ordinary};

    #[test]
    fn cluster_that_is_ready_needs_no_change() {
        assert_eq!(changes(&ordinary()), []);
    }

    #[test]
    fn limits_follow_the_number_of_databases_and_what_is_in_use() {
        let mut facts = ordinary();
        facts.databases = vec![DatabaseFacts::default(); 6];
        facts.slots = 2;
        facts.logical_workers = 1;
        facts.workers = 2;
        facts.settings.insert("wal_level".into(), "replica".into());
        facts.settings.insert("max_slot_wal_keep_size".into(), "1024".into());
        let changes = changes(&facts);
        let seen: Vec<_> = changes.iter().map(|c| (c.name.as_str(), c.wanted.as_str(), c.restart)).collect();
        assert_eq!(
            seen,
            [
                ("wal_level", "logical", true),
                ("max_replication_slots", "15", true),
                ("max_logical_replication_workers", "7", true),
                ("max_worker_processes", "9", true),
                ("max_slot_wal_keep_size", "-1", false),
            ]
        );
        assert_eq!(changes[0].how(Engine::SelfManaged), "ALTER SYSTEM SET wal_level = logical;");
        assert!(changes[0].how(Engine::Aurora).starts_with("ParameterName=rds.logical_replication,ParameterValue=1,"));
    }

    #[test]
    fn origins_have_a_limit_of_their_own_from_18_on() {
        let mut facts = ordinary();
        facts.settings.insert("max_active_replication_origins".into(), "0".into());
        assert_eq!(changes(&facts), []);
        facts.version_num = 180_001;
        assert_eq!(changes(&facts)[0].name, "max_active_replication_origins");
    }
}
