//! Makes an empty cluster of the target's major that pg_upgrade can fill.

use std::{collections::BTreeMap, path::PathBuf};

use pgleap_local::{Auth, InitOptions, LocaleOptions, LocaleProvider, Server, StopMode};
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::{PrepareDatabases, copy::Copy, disposable::Disposable};
use crate::world::{Cx, World, io_failure, local_failure};

/// Runs initdb with the source's encoding, locale, checksums and WAL segment size.
pub struct InitTarget {
    /// The target's major version.
    pub major: u16,
}

/// Written into the data directory when initdb has succeeded, and removed before anything else is done with it.
const EMPTY: &str = "pgleap.empty";

/// Locale columns differ by major: they are read by name from the row as JSON.
const TEMPLATE0: &str = "
    SELECT pg_catalog.to_jsonb(d)::text, pg_catalog.pg_encoding_to_char(d.encoding)::text,
           pg_catalog.current_setting('data_checksums') = 'on',
           (SELECT bytes_per_wal_segment FROM pg_catalog.pg_control_init())
      FROM pg_catalog.pg_database AS d WHERE datname = 'template0'";

impl InitTarget {
    /// Returns the target's server.
    ///
    /// # Errors
    /// Blocked, if its programs are not on this host or its directory is not this upgrade's.
    pub fn server(world: &World) -> Result<Server, StepError> {
        let installation =
            pgleap_local::find(world.config.target.version, &world.config.provider.bindirs).map_err(local_failure)?;
        let data_dir = Disposable::target(world)?.path().to_owned();
        // in the data directory: it outlives the upgrade's own directories
        let log = data_dir.join("log/startup.log");
        Ok(Server { installation, account: world.account.clone(), data_dir, log })
    }

    /// Empties the target's data directory and makes a cluster in it that fits the copy's.
    ///
    /// # Errors
    /// Blocked, with initdb's last words.
    pub async fn make(cx: &Cx<'_>) -> Result<(), StepError> {
        let world = cx.world;
        let facts = cx.output::<PrepareDatabases>()?;
        let copy = Copy::of(world, facts.major(), &facts.bootstrap_superuser)?;
        let session = copy.session(world, &world.config.source.database).await?;
        let row = session.query_one(TEMPLATE0, &[]).await?;
        let columns: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(row.get(0)).map_err(|e| session.unexpected(e, "a row as JSON"))?;
        let text = |name: &str| columns.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let provider = match text("datlocprovider").as_deref() {
            Some("i") => LocaleProvider::Icu,
            Some("b") => LocaleProvider::Builtin,
            _ => LocaleProvider::Libc,
        };
        let options = InitOptions {
            superuser: facts.bootstrap_superuser,
            encoding: Some(row.get(1)),
            locale: Some(LocaleOptions {
                lc_collate: text("datcollate"),
                lc_ctype: text("datctype"),
                // before 15 there was only one, and initdb of 14 has no option for it
                provider: (provider != LocaleProvider::Libc).then_some(provider),
                provider_locale: text("datlocale").or_else(|| text("daticulocale")),
                icu_rules: text("daticurules"),
            }),
            checksums: row.get(2),
            wal_segment_mb: u32::try_from(row.get::<_, i32>(3) >> 20).ok(),
            auth: Auth::Trust,
            allow_group_access: false,
        };
        let server = Self::server(world)?;
        server.stop(StopMode::Immediate, std::time::Duration::from_secs(60)).await.map_err(local_failure)?;
        Disposable::target(world)?.remove()?;
        server.init(&options).await.map_err(local_failure)?;
        let mark = Self::mark(world)?;
        world.account.write_file(&mark, "", 0o600).map_err(|e| io_failure("write", &mark, e))
    }

    fn mark(world: &World) -> Result<PathBuf, StepError> {
        Ok(Disposable::target(world)?.path().join(EMPTY))
    }

    /// Whether the cluster there is whole, and as initdb left it.
    pub(super) fn is_empty(world: &World) -> Result<bool, StepError> {
        Ok(Self::mark(world)?.exists())
    }

    /// Notes that the cluster is about to be filled: from here on it is not as initdb left it.
    pub(super) fn touch(world: &World) -> Result<(), StepError> {
        let mark = Self::mark(world)?;
        std::fs::remove_file(&mark).map_err(|e| io_failure("remove", &mark, e))
    }
}

impl Step<World> for InitTarget {
    type Output = ();
    const NAME: StepName = StepName("provision.init_target");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        format!("make an empty cluster of PostgreSQL {} that fits the copy", self.major)
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<()>, StepError> {
        if Self::is_empty(cx.world)? {
            return Ok(Observed::Done(()));
        }
        Ok(match Self::server(cx.world)?.major_on_disk() {
            Some(_) => Observed::Partial("an unfinished cluster is there".to_owned()),
            None => Observed::Absent,
        })
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        Self::make(cx).await
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let server = Self::server(cx.world)?;
        server.stop(StopMode::Immediate, std::time::Duration::from_secs(60)).await.map_err(local_failure)?;
        Disposable::target(cx.world)?.remove()
    }
}
