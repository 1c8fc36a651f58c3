//! The ways to a new major version, as data: what each asks for and what it gives.
//!
//! Sources: the decision matrix and the factor table that the project was founded on, each line checked against AWS's and
//! PostgreSQL's documentation; where they differ, docs/plan.md says how.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::facts::Engine;

/// A way to a new major version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A physical copy at a known position, upgraded, and logical replication from there: pgleap's own.
    CloneLogical,
    /// Amazon's Blue/Green Deployments.
    BlueGreen,
    /// As the first, but the copy is restored from a snapshot.
    SnapshotLogical,
    /// An empty cluster of the new major, filled by logical replication.
    LogicalCopy,
    /// `pg_upgrade` on the cluster that serves.
    InPlace,
}

/// How much of a person's work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// A few commands.
    Low,
    /// A few commands, and work around them.
    Medium,
    /// Many steps by hand, each of which can go wrong.
    High,
}

/// What a second cluster takes in storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// There is no second cluster.
    None,
    /// What is changed on either side since the copy.
    CopyOnWrite,
    /// All of it again.
    Full,
}

/// What is true of a method wherever it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Which.
    pub method: Method,
    /// Work, if done by hand with the provider's tools.
    pub by_hand: Effort,
    /// Whether each step can be looked at, held and repeated.
    pub full_control: bool,
    /// Whether clients are served while the target is made.
    pub serves_meanwhile: bool,
    /// Whether the target may follow for days before writes are moved.
    pub follows: bool,
    /// Whether writes made after the switchover survive a return.
    pub keeps_writes_on_return: bool,
    /// The way back before writes are moved.
    pub back_before: &'static str,
    /// The way back after it.
    pub back_after: &'static str,
}

/// Every method, the spine first.
pub const PROFILES: [Profile; 5] = [
    Profile {
        method: Method::CloneLogical,
        by_hand: Effort::High,
        full_control: true,
        serves_meanwhile: true,
        follows: true,
        keeps_writes_on_return: true,
        back_before: "drop the copy; the source never stopped serving",
        back_after: "the switchover the other way, with every write made meanwhile",
    },
    Profile {
        method: Method::BlueGreen,
        by_hand: Effort::Low,
        full_control: false,
        serves_meanwhile: true,
        follows: true,
        keeps_writes_on_return: false,
        back_before: "delete the deployment; blue never stopped serving",
        back_after: "none that keeps the writes made on green; replication back to blue must be built by hand beforehand",
    },
    Profile {
        method: Method::SnapshotLogical,
        by_hand: Effort::High,
        full_control: true,
        serves_meanwhile: true,
        follows: true,
        keeps_writes_on_return: true,
        back_before: "drop the copy; the source never stopped serving",
        back_after: "reverse replication, if it was set up before the first write",
    },
    Profile {
        method: Method::LogicalCopy,
        by_hand: Effort::High,
        full_control: true,
        serves_meanwhile: true,
        follows: true,
        keeps_writes_on_return: true,
        back_before: "drop the target; the source never stopped serving",
        back_after: "reverse replication, if it was set up before the first write",
    },
    Profile {
        method: Method::InPlace,
        by_hand: Effort::Low,
        full_control: false,
        serves_meanwhile: false,
        follows: false,
        keeps_writes_on_return: false,
        back_before: "do not begin",
        back_after: "restore the backup taken before; writes made since are lost",
    },
];

/// The first minor of each major from which Blue/Green can go to a higher major, for Aurora and RDS alike.
///
/// Source: RDS User Guide, PostgreSQL replication methods for blue/green deployments. From 16.1 on all do.
pub const BLUE_GREEN_FROM: [(u16, u16); 6] = [(11, 21), (12, 16), (13, 12), (14, 9), (15, 4), (16, 1)];

/// The first minor of each major that has `aurora_volume_logical_start_lsn()`; from 16 on all have.
///
/// Source: Aurora User Guide, Using logical replication to perform a major version upgrade.
pub const BOUNDARY_FROM: [(u16, u16); 6] = [(10, 20), (11, 15), (12, 10), (13, 6), (14, 3), (15, 2)];

/// Returns whether a version is at or past the first minor of its major; majors past the table always are.
pub fn at_least(table: &[(u16, u16)], major: u16, minor: u16) -> bool {
    match table.iter().find(|(of, _)| *of == major) {
        Some((_, first)) => minor >= *first,
        None => table.last().is_some_and(|(last, _)| major > *last),
    }
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 5] =
        [Self::CloneLogical, Self::BlueGreen, Self::SnapshotLogical, Self::LogicalCopy, Self::InPlace];

    /// Returns the name by which configuration and JSON call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CloneLogical => "clone_logical",
            Self::BlueGreen => "blue_green",
            Self::SnapshotLogical => "snapshot_logical",
            Self::LogicalCopy => "logical_copy",
            Self::InPlace => "in_place",
        }
    }

    /// Finds a method by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// Returns what is true of it wherever it is used.
    pub fn profile(self) -> &'static Profile {
        match self {
            Self::CloneLogical => &PROFILES[0],
            Self::BlueGreen => &PROFILES[1],
            Self::SnapshotLogical => &PROFILES[2],
            Self::LogicalCopy => &PROFILES[3],
            Self::InPlace => &PROFILES[4],
        }
    }

    /// Whether this pgleap can run it there. Everything else it only advises on.
    pub fn is_run_by_pgleap(self, engine: Engine) -> bool {
        self == Self::CloneLogical && engine == Engine::SelfManaged
    }

    /// Returns how much work it is there.
    pub fn effort(self, engine: Engine, global_database: bool) -> Effort {
        match self {
            _ if self.is_run_by_pgleap(engine) => Effort::Low,
            // secondary Regions are made and watched as well
            Self::BlueGreen if global_database => Effort::Medium,
            _ => self.profile().by_hand,
        }
    }

    /// Returns what its second cluster takes.
    pub fn storage(self, engine: Engine) -> Storage {
        match self {
            Self::InPlace => Storage::None,
            Self::CloneLogical | Self::BlueGreen if engine == Engine::Aurora => Storage::CopyOnWrite,
            _ => Storage::Full,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CloneLogical => "clone + logical replication",
            Self::BlueGreen => "AWS Blue/Green",
            Self::SnapshotLogical => "snapshot + logical replication",
            Self::LogicalCopy => "logical copy",
            Self::InPlace => "pg_upgrade in place",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_profile_and_is_found_by_its_name() {
        for method in Method::ALL {
            assert_eq!(method.profile().method, method);
            assert_eq!(Method::from_name(method.name()), Some(method));
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
        assert_eq!(Method::from_name("teleport"), None);
    }

    #[test]
    fn first_minors_are_those_of_the_manual_and_later_majors_need_none() {
        let can = |major, minor| at_least(&BLUE_GREEN_FROM, major, minor);
        assert!(can(11, 21) && can(14, 9) && can(15, 4) && can(16, 1) && can(17, 0));
        assert!(!can(11, 20) && !can(14, 8) && !can(15, 3) && !can(10, 99));
        assert!(at_least(&BOUNDARY_FROM, 15, 2) && !at_least(&BOUNDARY_FROM, 15, 1) && at_least(&BOUNDARY_FROM, 16, 0));
    }

    /// The factor table of the founding document, row by row, clone + logical by hand against Blue/Green.
    #[test]
    fn factor_table_holds_row_by_row() {
        let (manual, blue_green) = (Method::CloneLogical.profile(), Method::BlueGreen.profile());
        // Control: full / AWS managed
        assert!(manual.full_control && !blue_green.full_control);
        // Complexity: high / low; what pgleap runs itself is no longer by hand
        assert_eq!((manual.by_hand, blue_green.by_hand), (Effort::High, Effort::Low));
        assert_eq!(Method::CloneLogical.effort(Engine::SelfManaged, false), Effort::Low);
        assert_eq!(Method::CloneLogical.effort(Engine::Aurora, false), Effort::High);
        // Monitoring: manual queries / guardrails. Switchover: many steps / one command. Production risk: higher / lower, by the
        // number of steps that somebody types. All three are the work that is by hand, and end where pgleap does it
        assert!(manual.by_hand > Method::CloneLogical.effort(Engine::SelfManaged, false));
        // Learning value: high / low. Nothing is chosen by it, so there is no field for it
        // Version support: "any version" is not so on Aurora, where the boundary function has its first minors
        assert!(!at_least(&BOUNDARY_FROM, 11, 14) && at_least(&BLUE_GREEN_FROM, 11, 21));
        // Validation period: days or weeks / shorter; green follows as long as one pays for it, too
        assert!(manual.follows && blue_green.follows);
        // Cost: the same, on Aurora: both are clones
        assert_eq!(Method::CloneLogical.storage(Engine::Aurora), Method::BlueGreen.storage(Engine::Aurora));
        // Rollback: "simple (don't switch)" is true before the switchover only, and of both
        assert!(manual.keeps_writes_on_return && !blue_green.keeps_writes_on_return);
        assert!(blue_green.back_before.starts_with("delete") && blue_green.back_after.starts_with("none"));
    }
}
