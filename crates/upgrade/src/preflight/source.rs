//! The source as the checks see it: what most of them need is read once.

use std::{
    collections::BTreeMap,
    error::Error as _,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use pgleap_local::{Icu, Installation};
use tokio::sync::OnceCell;
use tokio_postgres::error::SqlState;

use super::{
    Finding, PATIENCE,
    about::{About, Applied, Topic, blocker},
    statements::Statements,
};
use crate::{
    config::Databases,
    fix::setting,
    pg::{PgError, Session, ident},
    world::{Database, World},
};

pub(super) const ABOUT: About = About {
    check: "source",
    topic: Topic::Replication,
    reads: "what the source is, before anything else is asked",
    why: "A source that cannot be entered or does not answer cannot be upgraded, and every question to it stays open.",
    findings: &[
        blocker("source.unreachable", Applied::ByHand("its address and its network are the administrator's.")),
        blocker("source.silent", Applied::ByHand("what keeps it from answering has to be found first.")),
        blocker("source.wrong_password", Applied::ByHand("passwords are the operator's.")),
        blocker("source.login_refused", Applied::ByHand("who may log in is the administrator's decision.")),
        blocker("source.database_unknown", Applied::ByHand("the source's address is said in `pgleap.toml`.")),
        blocker("source.no_password", Applied::ByHand("passwords are the operator's.")),
    ],
};

/// The source, entered.
pub(super) struct Source {
    /// In the database of `source.dsn`.
    pub session: Arc<Session>,
    /// `server_version_num`, such as 150018.
    pub version_num: u32,
    /// It follows another server.
    pub in_recovery: bool,
    /// The role of `source.dsn` may do everything.
    pub is_superuser: bool,
    /// Where its files are; unknown to a role without the right to see it.
    pub data_dir: Option<PathBuf>,
    /// The databases of the upgrade, as far as they exist and can be entered.
    pub databases: Vec<Database>,
    /// The others that can be entered, templates too: they are in the copy, and pg_upgrade restores them as well.
    pub others: Vec<String>,
    /// Processes that serve connections of poolers; `None` unless every pooler was seen.
    pub pooled: Option<Vec<i32>>,
    /// Clients of some pooler keep their connections while those to servers change under them.
    pub kept_clients: bool,
    /// The programs of both majors.
    pub programs: Arc<Programs>,
    /// What roles and databases are given, by the setting's name.
    pub given: Vec<Given>,
    settings: BTreeMap<String, String>,
    /// Settings whose files say otherwise since the source was started, and what they say, as far as this role may see it.
    pending: BTreeMap<String, Option<String>>,
    statements: OnceCell<Option<Statements>>,
}

/// A setting of a role, of a database, or of a role in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub name: String,
    pub value: String,
    pub role: Option<String>,
    pub database: Option<String>,
}

impl Given {
    /// Returns whose it is, as ALTER names them.
    pub fn owner(&self) -> String {
        match (&self.role, &self.database) {
            (Some(role), Some(database)) => {
                format!("ROLE {} IN DATABASE {}", ident::quote(role), ident::quote(database))
            }
            (Some(role), None) => format!("ROLE {}", ident::quote(role)),
            (None, Some(database)) => format!("DATABASE {}", ident::quote(database)),
            (None, None) => "ROLE ALL".to_owned(),
        }
    }

    /// Returns whose it is, in words.
    pub fn place(&self) -> String {
        match (&self.role, &self.database) {
            (Some(role), Some(database)) => format!("role {role} in database {database}"),
            (Some(role), None) => format!("role {role}"),
            (None, Some(database)) => format!("database {database}"),
            (None, None) => "every role".to_owned(),
        }
    }
}

/// A setting of the whole cluster, as its files have it: pgleap's own sessions have values of their own.
pub(super) struct InFile {
    pub name: String,
    pub value: String,
    /// It is in `postgresql.auto.conf`.
    pub by_alter_system: bool,
}

/// The programs of both majors on this host. That there are none is told by `binaries`.
pub(super) struct Programs {
    /// Those that the copy runs under.
    pub source: Option<Installation>,
    /// Those that the target runs under.
    pub target: Option<Installation>,
    source_icu: OnceLock<Option<Icu>>,
    target_icu: OnceLock<Option<Icu>>,
}

impl Programs {
    fn find(world: &World, source: u16) -> Self {
        let of = |major| pgleap_local::find(major, &world.config.provider.bindirs).ok();
        let (source, target) = (of(source), of(world.config.target.version));
        Self { source, target, source_icu: OnceLock::new(), target_icu: OnceLock::new() }
    }

    /// Returns the ICU that the source's programs were built with; they are read once.
    pub fn source_icu(&self) -> Option<Icu> {
        *self.source_icu.get_or_init(|| self.source.as_ref()?.icu())
    }

    /// Returns the ICU that the target's programs were built with; they are read once.
    pub fn target_icu(&self) -> Option<Icu> {
        *self.target_icu.get_or_init(|| self.target.as_ref()?.icu())
    }
}

/// One database of the upgrade, entered.
pub(super) struct Entered {
    /// Its name.
    pub name: String,
    /// A connection to it.
    pub session: Arc<Session>,
    /// The source's major.
    pub from: u16,
    /// The target's.
    pub to: u16,
    /// Where the target will be: `host=… port=…`.
    pub target_address: String,
    /// What the operator gives the target.
    pub target_settings: Vec<(String, String)>,
    /// As [`Source::programs`].
    pub programs: Arc<Programs>,
    /// There are so few databases that something may be measured in each for a moment.
    pub may_wait: bool,
    /// As [`Source::kept_clients`].
    pub kept_clients: bool,
    /// pgleap's role applies what table owners would.
    pub run_as_owner: bool,
}

fn major_of(version_num: u32) -> u16 {
    u16::try_from(version_num / 10_000).unwrap_or_default()
}

const WHO_AND_WHAT: &str = "
    SELECT pg_catalog.current_setting('server_version_num')::int,
           pg_catalog.pg_is_in_recovery(),
           pg_catalog.current_setting('is_superuser') = 'on'";

const SETTINGS: &str = "SELECT name, setting, pending_restart FROM pg_catalog.pg_settings WHERE setting IS NOT NULL";

/// The last one counts, whatever of it was applied.
const IN_FILES: &str = "
    SELECT DISTINCT ON (name) name, setting FROM pg_catalog.pg_file_settings
     WHERE name = ANY($1::text[]) ORDER BY name, seqno DESC";

const PENDING: &str = "
    SELECT s.name, coalesce((SELECT f.setting FROM pg_catalog.pg_file_settings AS f
                              WHERE f.name = s.name ORDER BY f.seqno DESC LIMIT 1), s.boot_val)
      FROM pg_catalog.pg_settings AS s WHERE s.name = ANY($1::text[])";

/// What holds, and whether ALTER SYSTEM wrote it.
const APPLIED: &str = "
    SELECT name, setting, sourcefile = pg_catalog.current_setting('data_directory') || '/postgresql.auto.conf'
      FROM pg_catalog.pg_file_settings WHERE applied AND name = ANY($1::text[]) ORDER BY 1";

const GIVEN: &str = "
    SELECT pg_catalog.split_part(c, '=', 1), pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1), r.rolname::text,
           d.datname::text
      FROM pg_catalog.pg_db_role_setting AS s CROSS JOIN LATERAL unnest(s.setconfig) AS c
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
      LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase ORDER BY 1, 3, 4";

const DATABASES: &str = "
    SELECT oid, datname::text, datistemplate FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname";

impl Entered {
    /// Enters a database by a connection of its own; nothing is measured there.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn enter(world: &World, source: &Source, name: String) -> Result<Self, PgError> {
        let session = Arc::new(world.source.look(&name, PATIENCE).await?);
        let target = &world.config.target;
        let (programs, target_settings) = (source.programs.clone(), target.settings.clone());
        let (from, to, kept_clients) = (source.major(), target.version, source.kept_clients);
        let target_address = format!("host={} port={}", target.host, target.port);
        let run_as_owner = target.run_as_owner;
        Ok(Self {
            name,
            session,
            from,
            to,
            target_address,
            target_settings,
            programs,
            may_wait: false,
            kept_clients,
            run_as_owner,
        })
    }
}

impl Source {
    /// Enters the source.
    ///
    /// # Errors
    /// The finding that says why it cannot be entered.
    pub async fn open(world: &World) -> Result<Self, Finding> {
        let entered = world.source.look(&world.config.source.database, PATIENCE).await;
        let session = Arc::new(entered.map_err(|error| not_entered(world, &error))?);
        let read = Self::read(world, session).await;
        read.map_err(|error| {
            let finding = Finding::blocker("source.silent", "the source cannot be asked what it is");
            finding.because(error.reason().unwrap_or_else(|| error.to_string()))
        })
    }

    /// Returns those of the settings that the cluster's files give.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn in_files(&self, names: &[&str]) -> Result<Vec<InFile>, PgError> {
        let rows = self.session.query(APPLIED, &[&names]).await?;
        let read =
            |row: &tokio_postgres::Row| InFile { name: row.get(0), value: row.get(1), by_alter_system: row.get(2) };
        Ok(rows.iter().map(read).collect())
    }

    async fn read(world: &World, session: Arc<Session>) -> Result<Self, PgError> {
        let row = session.query_one(WHO_AND_WHAT, &[]).await?;
        let rows = session.query(SETTINGS, &[]).await?;
        let settings: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let waiting: Vec<String> = rows.iter().filter(|row| row.get(2)).map(|row| row.get(0)).collect();
        let pending = pending(&session, waiting).await;
        let given = session.query(GIVEN, &[]).await?;
        let given = given.iter().map(|row| Given {
            name: row.get(0),
            value: row.get(1),
            role: row.get(2),
            database: row.get(3),
        });
        let rows = session.query(DATABASES, &[]).await?;
        let (databases, others): (Vec<_>, Vec<_>) =
            rows.iter().partition(|row| match (row.get(2), &world.config.source.databases) {
                (true, _) => false,
                (false, Databases::All) => true,
                (false, Databases::Only(names)) => names.contains(&row.get(1)),
            });
        let version_num = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
        Ok(Self {
            version_num,
            in_recovery: row.get(1),
            is_superuser: row.get(2),
            data_dir: settings.get("data_directory").map(PathBuf::from),
            databases: databases.iter().map(|row| Database { oid: row.get(0), name: row.get(1) }).collect(),
            others: others.iter().map(|row| row.get(1)).collect(),
            pooled: None,
            kept_clients: false,
            programs: Arc::new(Programs::find(world, major_of(version_num))),
            given: given.collect(),
            settings,
            pending,
            statements: OnceCell::new(),
            session,
        })
    }

    /// Adds what is known from its poolers.
    pub fn behind(self, pooled: Option<Vec<i32>>, kept_clients: bool) -> Self {
        Self { pooled, kept_clients, ..self }
    }

    /// Returns where statements are counted, if they are; it is looked for once.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn statements(&self, world: &World) -> Result<Option<&Statements>, PgError> {
        self.statements.get_or_try_init(|| Statements::find(world, self)).await.map(Option::as_ref)
    }

    /// Returns the major version, such as 15.
    pub fn major(&self) -> u16 {
        major_of(self.version_num)
    }

    /// Returns the minor version, such as 18.
    pub fn minor(&self) -> u16 {
        u16::try_from(self.version_num % 10_000).unwrap_or_default()
    }

    /// Returns the names of the databases of the upgrade.
    pub fn names(&self) -> Vec<String> {
        self.databases.iter().map(|database| database.name.clone()).collect()
    }

    /// Returns a setting in its own unit; `None` if this major does not have it.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// Whether a changed value of this setting waits for a restart.
    pub fn waits_for_restart(&self, name: &str) -> bool {
        self.pending.contains_key(name)
    }

    /// Whether what waits for a restart is as much as `value`, or more.
    pub fn will_suffice(&self, name: &str, value: &str) -> bool {
        self.after_restart(name).is_some_and(|waiting| setting::suffices(waiting, value))
    }

    /// Returns what the next restart makes of a setting, if its files say otherwise than what holds and this role may see them.
    pub fn after_restart(&self, name: &str) -> Option<&str> {
        self.pending.get(name)?.as_deref()
    }

    /// Returns a setting that is a number, in its own unit; `None` if this major does not have it.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.setting(name)?.parse().ok()
    }
}

/// Reads what the files say of these; nothing of it is known to a role that may not look into them.
pub(super) async fn in_files(session: &Session, names: Vec<String>) -> BTreeMap<String, Option<String>> {
    let rows = if names.is_empty() { Ok(Vec::new()) } else { session.query(IN_FILES, &[&names]).await };
    let said: BTreeMap<String, Option<String>> =
        rows.unwrap_or_default().iter().map(|row| (row.get(0), row.get(1))).collect();
    names
        .into_iter()
        .map(|name| {
            let value = said.get(&name).cloned().flatten();
            (name, value)
        })
        .collect()
}

/// Reads what a restart makes of these: what the files say, or the default of what they say no more. Nothing is known to a role
/// that may not look into them.
async fn pending(session: &Session, names: Vec<String>) -> BTreeMap<String, Option<String>> {
    let rows = if names.is_empty() { Ok(Vec::new()) } else { session.query(PENDING, &[&names]).await };
    match rows {
        Ok(rows) => rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
        Err(_) => names.into_iter().map(|name| (name, None)).collect(),
    }
}

/// Says why the source could not be entered, in words that lead to the cure.
fn not_entered(world: &World, error: &PgError) -> Finding {
    let endpoint = &world.source.endpoint;
    let (host, port, user) = (&endpoint.host, endpoint.port, &endpoint.user);
    let reason = error.reason().unwrap_or_else(|| error.to_string());
    let place = format!("the source at {host}:{port}");
    let finding = match error.sqlstate() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => {
            Finding::blocker("source.wrong_password", format!("{place} refuses the password of role `{user}`"))
                .fix("put the right one where `source.password` takes it from")
        }
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            Finding::blocker("source.login_refused", format!("{place} does not let role `{user}` in"))
                .fix("add a line for it to the source's pg_hba.conf, then `SELECT pg_reload_conf();`")
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            let database = &world.config.source.database;
            Finding::blocker("source.database_unknown", format!("{place} has no database `{database}`"))
                .fix("name one that exists as `dbname` in `source.dsn`")
        }
        None if endpoint.password.is_none() && !is_io(error) => {
            Finding::blocker("source.no_password", format!("{place} asks for the password of role `{user}`"))
                .fix("say in `pgleap.toml` where it is: [source] password = { env = \"PGLEAP_PASSWORD\" }")
        }
        _ => Finding::blocker("source.unreachable", format!("{place} cannot be reached")),
    };
    finding.because(reason)
}

fn is_io(error: &PgError) -> bool {
    match error {
        PgError::Connect { source, .. } => source.source().is_some_and(|inner| inner.is::<std::io::Error>()),
        _ => true,
    }
}
