//! What can be known of one PgBouncer without changing anything: its console, its settings, its file.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use nix::unistd::{AccessFlags, access};
use pgleap_saga::StepError;
use serde::{Deserialize, Serialize};

use super::{
    PgBouncer,
    admin::{Admin, AdminError, Entry},
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
        Ok(Inspection {
            version: admin.version().await?,
            is_admin: is_admin(&admin).await?,
            entries: admin.entries().await?,
            settings: settings.collect(),
            ini: pgbouncer.pooler.ini.clone(),
            file: file(pgbouncer, source).await,
            server_pids: servers.iter().filter_map(|row| row.get("remote_pid")?.parse().ok()).collect(),
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
