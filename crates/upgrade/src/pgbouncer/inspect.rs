//! What can be known of one PgBouncer without changing anything: its console, its settings, its file.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use nix::unistd::{AccessFlags, access};
use pgleap_saga::StepError;
use serde::{Deserialize, Serialize};

use super::{
    PgBouncer,
    admin::{Admin, AdminError, Entry, Shown},
    ini::{Address, Rewritten},
};

/// A PgBouncer, as whoever stands beside it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Its version as it says it.
    pub version: String,
    /// The role that entered may pause it.
    pub is_admin: bool,
    /// Its database entries.
    pub entries: Vec<Entry>,
    /// SHOW CONFIG.
    pub settings: BTreeMap<String, String>,
    /// The file that holds its entries.
    pub ini: PathBuf,
    /// What is in it.
    pub file: File,
    /// The processes of servers that its connections lead to.
    #[serde(default)]
    pub server_pids: Vec<i32>,
    /// How long transactions took on average in its last `stats_period`, in microseconds, by entry.
    #[serde(default)]
    pub mean_transaction_us: BTreeMap<String, u64>,
}

/// The settings by which clients that wait are sent away: PgBouncer's janitor counts the time of a wait against both.
pub const PATIENCE: [&str; 2] = ["query_wait_timeout", "query_timeout"];

impl Inspection {
    /// Returns after how many seconds `setting` makes it give up, if that is before a wait of `longest` is over; 0 is never.
    pub fn gives_up(&self, setting: &str, longest: Duration) -> Option<f64> {
        let patience: f64 = self.settings.get(setting)?.parse().ok()?;
        (patience > 0.0 && patience <= longest.as_secs_f64()).then_some(patience)
    }
}

/// The configuration files, as the switchover will want them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum File {
    /// One of them cannot be read, and why.
    Unreadable(String),
    /// They can.
    Read {
        /// Its entries that lead to the source.
        leading: Vec<String>,
        /// New files can be put in the place of all that hold one.
        replaceable: bool,
    },
}

/// Why nothing can be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unseen {
    /// The console cannot be entered.
    Unreachable(StepError),
    /// It does not answer what is asked.
    Silent(StepError),
}

/// An answer takes a PgBouncer milliseconds.
const BUDGET: Duration = Duration::from_secs(5);

/// Only an admin is told that this is no database; nothing is resumed.
const ADMINS_ONLY: &str = "RESUME \"pgleap: no such database\"";

/// Looks at a PgBouncer whose entries should lead to `source`.
///
/// # Errors
/// [`Unseen`].
pub async fn inspect(pgbouncer: &PgBouncer, source: &Address) -> Result<Inspection, Unseen> {
    let admin = pgbouncer.admin().await.map_err(|error| Unseen::Unreachable(error.into()))?;
    let look = async {
        let settings = admin.show("CONFIG").await?.into_iter().filter_map(|mut row| {
            let key = row.remove("key")?;
            Some((key, row.remove("value").unwrap_or_default()))
        });
        let servers = admin.show("SERVERS").await?;
        let stats = admin.show("STATS").await?;
        let mean = |row: &Shown| Some((row.get("database")?.clone(), row.get("avg_xact_time")?.parse().ok()?));
        Ok(Inspection {
            version: admin.version().await?,
            is_admin: is_admin(&admin).await?,
            entries: admin.entries().await?,
            settings: settings.collect(),
            ini: pgbouncer.pooler.ini.clone(),
            file: file(pgbouncer, source).await,
            server_pids: servers.iter().filter_map(|row| row.get("remote_pid")?.parse().ok()).collect(),
            mean_transaction_us: stats.iter().filter_map(mean).collect(),
        })
    };
    look.await.map_err(|error: AdminError| Unseen::Silent(error.into()))
}

/// Tells an admin from somebody in `stats_users`, who may SHOW almost everything.
async fn is_admin(admin: &Admin) -> Result<bool, AdminError> {
    match admin.command(ADMINS_ONLY, BUDGET).await {
        // every refusal of the console bears the same code: its text is all there is
        Err(AdminError::Refused { source, .. }) if source.as_db_error().is_some() => {
            Ok(source.as_db_error().is_none_or(|db| !db.message().contains("admin access needed")))
        }
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    }
}

async fn file(pgbouncer: &PgBouncer, source: &Address) -> File {
    let ini = match pgbouncer.ini().await {
        Err(error) => return File::Unreadable(error.cause.unwrap_or(error.message)),
        Ok(ini) => ini,
    };
    let replaceable = |file: &Rewritten| {
        let directory = file.path.parent().unwrap_or(std::path::Path::new("/"));
        access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
    };
    File::Read {
        leading: ini.leading_to(source).into_iter().map(str::to_owned).collect(),
        replaceable: ini.files().iter().all(replaceable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_must_outlast_the_longest_wait() {
        let gives_up = |patience: &str| {
            let seen = Inspection {
                version: "1.24.1".into(),
                is_admin: true,
                entries: Vec::new(),
                settings: [("query_timeout".to_owned(), patience.to_owned())].into(),
                ini: "pgbouncer.ini".into(),
                file: File::Unreadable(String::new()),
                server_pids: Vec::new(),
                mean_transaction_us: BTreeMap::new(),
            };
            seen.gives_up("query_timeout", Duration::from_millis(2500))
        };
        assert_eq!((gives_up("0"), gives_up("2.6"), gives_up("")), (None, None, None), "0 waits for ever");
        assert_eq!((gives_up("2.5"), gives_up("1")), (Some(2.5), Some(1.0)));
    }
}
