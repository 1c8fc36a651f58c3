//! One PgBouncer as the checks see it: its console entered with the rights that moving clients takes.

use std::path::PathBuf;

use pgleap_saga::{Class, StepError};

use super::{
    Finding,
    about::{About, Applied, Topic, blocker},
};
use crate::{
    config::Pooler,
    pgbouncer::{
        admin::Entry,
        ini::Address,
        inspect::{File, Inspection, Unseen},
    },
    route::Member,
    world::World,
};

pub(super) const ABOUT: About = About {
    check: "pooler",
    topic: Topic::Poolers,
    reads: "each PgBouncer's console, through its guard if it is on another host",
    why: "Clients wait in the pooler during the write pause, so each must answer, and let pgleap pause it.",
    findings: &[
        blocker(
            "pooler.unreachable",
            Applied::ByHand("its address and its rights are said in `pgleap.toml` and in its own configuration."),
        ),
        blocker("guard.refuses", Applied::ByHand("its host and its configuration are its owner's.")),
        blocker("pooler.silent", Applied::ByHand("what keeps it from answering has to be found first.")),
        blocker("pooler.too_old", Applied::ByHand("packages are the administrator's.")),
        blocker("pooler.not_admin", Applied::ByHand("the pooler's configuration is its owner's.")),
    ],
};

/// The oldest that the chain was tried with.
const OLDEST: (u32, u32) = (1, 18);

/// A PgBouncer, looked at from beside it.
pub(super) struct Console<'a> {
    /// Where it is, and what the configuration says of it.
    pooler: &'a Pooler,
    /// Major and minor version.
    pub version: (u32, u32),
    /// What was seen.
    pub seen: Inspection,
}

impl<'a> Console<'a> {
    /// Looks at it, and whether the rights there suffice.
    ///
    /// # Errors
    /// The finding that says why it is of no use.
    pub async fn open(world: &World, member: &'a Member, pooler: &'a Pooler) -> Result<Self, Finding> {
        if let Err(StepError { class: Class::Blocked, message, cause, hint, .. }) = member.call_guard().await {
            let finding = cause.into_iter().fold(Finding::blocker("guard.refuses", message), Finding::because);
            return Err(hint.into_iter().fold(finding, Finding::fix));
        }
        let seen = match member.inspect(&source_address(world)).await {
            Ok(seen) => seen,
            Err(Unseen::Unreachable(error)) => {
                let message = format!("{} as `{}`", error.message, pooler.user);
                let cause = error.cause.unwrap_or_else(|| "it does not answer".to_owned());
                return Err(Finding::blocker("pooler.unreachable", message)
                    .because(cause)
                    .fix("name a role out of its `admin_users` in `route.pgbouncer.admin`"));
            }
            Err(Unseen::Silent(error)) => {
                let message = format!("PgBouncer {pooler} does not say what is asked of it");
                return Err(Finding::blocker("pooler.silent", message).because(error.to_string()));
            }
        };
        let version = parse_version(&seen.version);
        if version < OLDEST {
            let message =
                format!("PgBouncer {pooler} is version {}; 1.18 is the oldest that pgleap knows", seen.version);
            return Err(Finding::blocker("pooler.too_old", message).fix("upgrade PgBouncer"));
        }
        if !seen.is_admin {
            return Err(Finding::blocker(
                "pooler.not_admin",
                format!("`{}` may look at PgBouncer {pooler}, and not pause it", pooler.user),
            )
            .because("PAUSE, RELOAD and RESUME are for its `admin_users` alone")
            .fix(format!("admin_users = {}  ; in {}, then RELOAD", pooler.user, seen.ini.display())));
        }
        Ok(Self { pooler, version, seen })
    }

    /// Returns the pooler as the configuration names it.
    pub fn pooler(&self) -> &Pooler {
        self.pooler
    }

    /// Returns the file that holds its entries, on its host.
    pub fn ini(&self) -> &PathBuf {
        &self.seen.ini
    }

    /// Returns what is in that file.
    pub fn file(&self) -> &File {
        &self.seen.file
    }

    /// Returns the value of one of its settings.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.seen.settings.get(name).map(String::as_str)
    }

    /// Returns an entry's pool mode: its own, or that of all.
    pub fn mode<'b>(&'b self, entry: &'b Entry) -> &'b str {
        match entry.pool_mode.as_str() {
            "" => self.setting("pool_mode").unwrap_or_default(),
            own => own,
        }
    }

    /// Whether clients of some entry that leads to the source share servers' connections.
    pub fn pools_transactions(&self, world: &World) -> bool {
        self.entries_to_source(world, None).iter().any(|entry| self.mode(entry) != "session")
    }

    /// Returns the entries that lead to the source, to one of `databases` where these are known.
    pub fn entries_to_source(&self, world: &World, databases: Option<&[String]>) -> Vec<&Entry> {
        self.entries_to(&[source_address(world)], databases)
    }

    /// Returns the entries that lead to any of `addresses`, to one of `databases` where these are known.
    pub fn entries_to(&self, addresses: &[Address], databases: Option<&[String]>) -> Vec<&Entry> {
        let fits = |entry: &&Entry| {
            addresses.iter().any(|address| entry.leads_to(address))
                && databases.is_none_or(|names| names.contains(&entry.database))
        };
        self.seen.entries.iter().filter(fits).collect()
    }
}

/// Returns where entries must lead for the switchover to move them.
pub(super) fn source_address(world: &World) -> Address {
    Address { host: world.source.endpoint.host.clone(), port: world.source.endpoint.port }
}

/// Reads `1.24.1`; what cannot be read is older than everything.
fn parse_version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("1.24.1"), (1, 24));
        assert_eq!(parse_version("1.9.0dev"), (1, 9));
        assert!(parse_version("1.9.0") < OLDEST && parse_version("") < OLDEST);
        assert!(parse_version("1.18.0") >= OLDEST && parse_version("1.26.1") >= OLDEST);
    }
}
