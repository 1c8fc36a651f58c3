//! One PgBouncer as the checks see it: its console entered with the rights that moving clients takes.

use std::{error::Error as _, sync::Arc, time::Duration};

use super::Finding;
use crate::{
    pgbouncer::{
        admin::{Admin, AdminError, Entry, Shown},
        ini::Address,
    },
    route::Member,
    world::World,
};

/// The oldest that the chain was tried with.
const OLDEST: (u32, u32) = (1, 18);

/// An answer takes a PgBouncer milliseconds.
const BUDGET: Duration = Duration::from_secs(5);

/// Only an admin is told that this is no database; nothing is resumed.
const ADMINS_ONLY: &str = "RESUME \"pgleap: no such database\"";

/// A PgBouncer, entered.
pub(super) struct Console<'a> {
    /// Where it is, and what the configuration says of it.
    pub member: &'a Member,
    /// Major and minor version.
    pub version: (u32, u32),
    /// Its version as it says it.
    pub version_text: String,
    /// Its database entries.
    pub entries: Vec<Entry>,
    config: Vec<Shown>,
}

impl<'a> Console<'a> {
    /// Enters the console and tries whether its rights suffice.
    ///
    /// # Errors
    /// The finding that says why it is of no use.
    pub async fn open(member: &'a Member) -> Result<Self, Finding> {
        let pooler = &member.pooler;
        let admin = member.admin().await.map_err(|error| {
            let finding = Finding::blocker("pooler.unreachable", format!("{error} as `{}`", pooler.user));
            let cause = reason(&error).unwrap_or_else(|| "it does not answer".to_owned());
            finding.because(cause).fix("name a role out of its `admin_users` in `route.pgbouncer.admin`")
        })?;
        let text = version(&admin, pooler).await?;
        if !is_admin(&admin, pooler).await? {
            return Err(Finding::blocker(
                "pooler.not_admin",
                format!("`{}` may look at PgBouncer {pooler}, and not pause it", pooler.user),
            )
            .because("PAUSE, RELOAD and RESUME are for its `admin_users` alone")
            .fix(format!("admin_users = {}  ; in {}, then RELOAD", pooler.user, pooler.ini.display())));
        }
        let read = async { Ok((admin.entries().await?, admin.show("CONFIG").await?)) };
        let (entries, config) = read.await.map_err(|error: AdminError| silent(pooler, &error))?;
        Ok(Self { member, version: parse_version(&text), version_text: text, entries, config })
    }

    /// Returns the value of one of its settings.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let row = self.config.iter().find(|row| row.get("key").is_some_and(|key| key == name))?;
        row.get("value").map(String::as_str)
    }

    /// Returns the entries that lead to the source, to one of `databases` where these are known.
    pub fn entries_to_source(&self, world: &World, databases: Option<&[String]>) -> Vec<&Entry> {
        let source = source_address(world);
        let fits =
            |entry: &&Entry| entry.leads_to(&source) && databases.is_none_or(|names| names.contains(&entry.database));
        self.entries.iter().filter(fits).collect()
    }
}

/// Returns where entries must lead for the switchover to move them.
pub(super) fn source_address(world: &World) -> Address {
    Address { host: world.source.endpoint.host.clone(), port: world.source.endpoint.port }
}

/// Returns what a console's error says beyond its own first line.
pub(super) fn reason(error: &AdminError) -> Option<String> {
    let source = match error {
        AdminError::Connect { source, .. } | AdminError::Refused { source, .. } => source,
        AdminError::Silent { .. } => return None,
    };
    Some(match (source.as_db_error(), source.source()) {
        (Some(db), _) => db.message().to_owned(),
        (None, Some(inner)) => inner.to_string(),
        (None, None) => source.to_string(),
    })
}

fn silent(pooler: &crate::config::Pooler, error: &AdminError) -> Finding {
    let finding = Finding::blocker("pooler.silent", format!("PgBouncer {pooler} does not say what is asked of it"));
    finding.because(reason(error).unwrap_or_else(|| error.to_string()))
}

async fn version(admin: &Arc<Admin>, pooler: &crate::config::Pooler) -> Result<String, Finding> {
    let text = admin.version().await.map_err(|error| silent(pooler, &error))?;
    if parse_version(&text) < OLDEST {
        let message = format!("PgBouncer {pooler} is version {text}; 1.18 is the oldest that pgleap knows");
        return Err(Finding::blocker("pooler.too_old", message).fix("upgrade PgBouncer"));
    }
    Ok(text)
}

/// Tells an admin from somebody in `stats_users`, who may SHOW almost everything.
async fn is_admin(admin: &Arc<Admin>, pooler: &crate::config::Pooler) -> Result<bool, Finding> {
    match admin.command(ADMINS_ONLY, BUDGET).await {
        // every refusal of the console bears the same code: its text is all there is
        Err(AdminError::Refused { source, .. }) => {
            Ok(source.as_db_error().is_none_or(|db| !db.message().contains("admin access needed")))
        }
        Err(error) => Err(silent(pooler, &error)),
        Ok(_) => Ok(true),
    }
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
