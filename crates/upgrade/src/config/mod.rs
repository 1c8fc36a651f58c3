//! `pgleap.toml`: what the operator wants, read in one pass that reports every mistake at once.

mod approving;
pub mod guard;
pub mod planning;
mod reader;
pub mod readers;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

pub use planning::Planning;
use reader::Reader;
pub use readers::{ReaderOrder, ReaderPool, Readers};

use crate::{
    approvals::Approvals,
    guard::tls::Identity,
    pg::secret::PasswordFrom,
    pgbouncer::ini::Address,
    route::{Capabilities, Clients},
};

/// The whole configuration, checked as far as a text can be.
#[derive(Debug, Clone)]
pub struct Config {
    /// The old cluster.
    pub source: Source,
    /// The new one.
    pub target: Target,
    /// How a copy is made and upgraded.
    pub provider: SelfManaged,
    /// How clients are moved.
    pub route: Route,
    /// Where clients that only read are led.
    pub readers: Readers,
    /// Whom the fence lets pass.
    pub fence: Fence,
    /// What may be spent: time, disk, lag.
    pub budgets: Budgets,
    /// What a plan is made for.
    pub plan: Planning,
    /// Whose word is waited for.
    pub approvals: Approvals,
    /// Where the journal is kept.
    pub state_dir: PathBuf,
}

/// `[source]`
#[derive(Debug, Clone)]
pub struct Source {
    /// Host, or the directory of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The role pgleap connects as; a superuser.
    pub user: String,
    /// The database that pgleap enters first.
    pub database: String,
    /// Where its password comes from.
    pub password: Option<PasswordFrom>,
    /// Which databases are upgraded with replication.
    pub databases: Databases,
    /// Roles that come and go by themselves, such as those of dynamic credentials: no switchover is held for them. A `*` at the end
    /// stands for anything.
    pub transient_roles: Vec<String>,
}

/// Which databases are replicated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Databases {
    /// Every database that allows connections, templates apart.
    All,
    /// These.
    Only(Vec<String>),
}

/// `[target]`
#[derive(Debug, Clone)]
pub struct Target {
    /// Major version.
    pub version: u16,
    /// Host or socket directory, by which pgleap, the pooler and the old cluster reach it; the source's by default.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The data directory to be made.
    pub data_dir: PathBuf,
    /// Settings for the target's `postgresql.conf`, over those carried from the source.
    pub settings: Vec<(String, String)>,
    /// Changes are applied by pgleap's role, also where the server would have each table's owner apply them.
    pub run_as_owner: bool,
}

/// `[provider]`, kind `self_managed`
#[derive(Debug, Clone)]
pub struct SelfManaged {
    /// Where the copy, private sockets and logs are kept while the upgrade is under way.
    pub work_dir: PathBuf,
    /// How pg_upgrade moves the files.
    pub transfer: Transfer,
    /// An existing physical standby's data directory, to be used up as the copy.
    pub standby: Option<PathBuf>,
    /// The operating system's user that servers run as.
    pub os_user: Option<String>,
    /// Where to look for PostgreSQL first: bin directories, or roots with `<major>/bin` below.
    pub bindirs: Vec<PathBuf>,
}

/// How pg_upgrade moves the files of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transfer {
    /// The best this host can: link.
    Auto,
    /// Hard links: seconds, whatever the size.
    Link,
    /// A full copy.
    Copy,
    /// Copy on write, where the file system can.
    Clone,
    /// Directories exchanged, from PostgreSQL 18.
    Swap,
}

/// `[route]`
#[derive(Debug, Clone)]
pub struct Route {
    /// What stands between clients and servers.
    pub kind: RouteKind,
    /// Each PgBouncer process, for kind `pgbouncer`.
    pub poolers: Vec<Pooler>,
    /// `[route.tls]`: who pgleap is to guards on other hosts.
    pub identity: Option<Identity>,
    /// Where clients cannot be kept waiting: how long their transactions may take to end before they are cut off.
    pub finish: Duration,
}

/// What stands between clients and servers.
#[derive(Debug, Clone)]
pub enum RouteKind {
    /// PgBouncers.
    PgBouncer {
        /// What clients see: where they are pooled by session, none can be kept waiting without its connection being cut.
        clients: Clients,
    },
    /// The operator's own program.
    Command(Program),
    /// Nothing: clients know both servers, and look for the one that takes writes.
    MultiHost,
}

/// `[route]`, kind `command`
#[derive(Debug, Clone)]
pub struct Program {
    /// The program, and what it is called with.
    pub command: Vec<String>,
    /// How long each run of it may take.
    pub timeout: Duration,
    /// What clients see when it lets them wait.
    pub clients: Clients,
    /// It ends a pause by itself when its lease is over, also if this host is dead.
    pub outlives_host: bool,
}

impl Program {
    /// Returns what messages call it.
    pub fn name(&self) -> String {
        let path = Path::new(self.command.first().map_or("", String::as_str));
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }
}

impl Route {
    /// Returns what it is capable of.
    pub fn capabilities(&self) -> Capabilities {
        match &self.kind {
            RouteKind::PgBouncer { clients } => Capabilities { clients: *clients, outlives_host: false },
            RouteKind::Command(Program { clients, outlives_host, .. }) => {
                Capabilities { clients: *clients, outlives_host: *outlives_host }
            }
            RouteKind::MultiHost => Capabilities { clients: Clients::Errors, outlives_host: true },
        }
    }
}

/// Where a guard listens on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardAddress {
    /// Host name or address; its certificate must be for it.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for GuardAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// `[[route.pgbouncer]]`
#[derive(Debug, Clone)]
pub struct Pooler {
    /// Host or socket directory of its admin console.
    pub host: String,
    /// Port of its admin console.
    pub port: u16,
    /// A role out of its `admin_users`.
    pub user: String,
    /// Where that role's password comes from.
    pub password: Option<PasswordFrom>,
    /// The configuration file it was started with.
    pub ini: PathBuf,
    /// The guard on its host, if that is another one; the guard's own configuration has password and file then.
    pub guard: Option<GuardAddress>,
}

impl Pooler {
    /// Returns how it is called on its own host.
    pub fn console(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Pooler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.guard {
            Some(guard) => write!(f, "{} behind {guard}", self.console()),
            None => f.write_str(&self.console()),
        }
    }
}

/// `[fence]`
#[derive(Debug, Clone, Default)]
pub struct Fence {
    /// Superusers that may be connected at a switchover, by role or application name: no fence stops them, and they are
    /// trusted not to write. Their sessions are ended all the same; the audit finds a write, not one that comes later.
    pub tolerate: Vec<String>,
    /// Transactions that hold a pause up are ended if they are older than this; without it the switchover is held, or taken
    /// back.
    pub end_older: Option<Duration>,
}

/// `[budgets]`
#[derive(Debug, Clone)]
pub struct Budgets {
    /// The longest that clients may wait at the switchover.
    pub write_pause: Duration,
    /// How long the application waits for an answer before it gives up, if that is known.
    pub application_timeout: Option<Duration>,
    /// How often a switchover that was held, or taken back, is tried by itself.
    pub switchover_attempts: u32,
    /// How long the second attempt waits; each further wait is twice as long, up to [`crate::timing::LONGEST_BACKOFF`].
    pub switchover_backoff: Duration,
    /// How long the other side's cache may be warmed before a switchover; not at all if it is zero.
    pub warm_cache: Duration,
    /// How long the creation of a slot may wait for transactions that hold an id.
    pub slot_creation: Duration,
    /// The longest a transaction may have been open when a slot is made or pools are paused.
    pub long_transaction: Duration,
    /// How far the target may be behind for a switchover to begin, in bytes of WAL.
    pub max_lag_bytes: u64,
    /// How much WAL the slots may keep on the source, in bytes; preflight compares it with the disk's room.
    pub retained_wal_bytes: u64,
    /// How long catching up may take.
    pub catch_up: Duration,
    /// How long verification may take.
    pub verify: Duration,
    /// How many tables are compared at the same time.
    pub verify_jobs: u32,
}

/// Every mistake in a configuration, in the order of the file.
#[derive(Debug)]
pub struct ConfigErrors {
    /// The file.
    pub path: PathBuf,
    /// One line each.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "`{}` has {count} problem{}", self.path.display(), if count == 1 { "" } else { "s" })?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads the file; relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem that the text has.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        load(path, Self::parse)
    }

    /// Reads the text of a configuration; `base` is what relative paths start from.
    ///
    /// # Errors
    /// Every problem, a line each.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<String>> {
        let mut root = Reader::new("", parse(text)?, base);

        let mut source = root.table("source");
        let dsn = source.dsn("dsn", "host=127.0.0.1 port=5432 user=postgres");
        let source_part = Source {
            host: dsn.host,
            port: dsn.port,
            user: dsn.user,
            database: dsn.database,
            password: source.password(),
            databases: source.databases("databases"),
            transient_roles: source.texts("transient_roles"),
        };
        root.absorb(source);

        let mut target = root.table("target");
        let target_part = Target {
            version: target.major("version"),
            host: target.text("host").unwrap_or_else(|| source_part.host.clone()),
            port: target.port("port"),
            data_dir: target.required_path("data_dir"),
            settings: target.settings("settings"),
            run_as_owner: target.flag("run_as_owner").unwrap_or(false),
        };
        if (&target_part.host, target_part.port) == (&source_part.host, source_part.port) {
            target.problem("port", "is the source's own port: the two clusters run side by side");
        }
        root.absorb(target);

        let mut provider = root.table("provider");
        provider.kind(&["self_managed"], &["aurora", "rds", "aws_blue_green", "logical_copy"]);
        let mut default_work_dir = target_part.data_dir.clone().into_os_string();
        default_work_dir.push(".pgleap");
        let provider_part = SelfManaged {
            work_dir: provider.path("work_dir").unwrap_or_else(|| default_work_dir.into()),
            transfer: provider.choice(
                "transfer",
                Transfer::Auto,
                &[
                    ("auto", Transfer::Auto),
                    ("link", Transfer::Link),
                    ("copy", Transfer::Copy),
                    ("clone", Transfer::Clone),
                    ("swap", Transfer::Swap),
                ],
            ),
            standby: provider.path("standby"),
            os_user: provider.text("os_user"),
            bindirs: provider.paths("bindirs"),
        };
        root.absorb(provider);

        let mut route = root.table("route");
        let kind = route.kind(&["pgbouncer", "multi_host", "command"], &["dns", "aws_blue_green"]);
        let kind = match kind.as_deref() {
            Some("command") => RouteKind::Command(read_program(&mut route)),
            Some("multi_host") => RouteKind::MultiHost,
            _ => {
                let clients = [("wait", Clients::Wait), ("reconnect", Clients::Reconnect)];
                RouteKind::PgBouncer { clients: route.choice("clients", Clients::Wait, &clients) }
            }
        };
        let waits = match &kind {
            RouteKind::PgBouncer { clients } | RouteKind::Command(Program { clients, .. }) => *clients == Clients::Wait,
            RouteKind::MultiHost => false,
        };
        if waits && route.has("finish") {
            route.problem("finish", "is for routes that cut connections: here transactions go on to their ends");
        }
        let finish = route.duration("finish", "250ms", "0s", "10s");
        let mut poolers = Vec::new();
        for mut entry in route.tables("pgbouncer") {
            let guard = entry.guard("guard");
            poolers.push(read_pooler(&mut entry, guard));
            route.absorb(entry);
        }
        let identity = route.has("tls").then(|| {
            let mut tls = route.optional_table("tls");
            let identity = read_identity(&mut tls);
            route.absorb(tls);
            identity
        });
        if identity.is_none() && poolers.iter().any(|pooler| pooler.guard.is_some()) {
            route.problem("tls", "is missing: guards on other hosts are called with a certificate");
        }
        match kind {
            RouteKind::PgBouncer { .. } if poolers.is_empty() => {
                route.problem("pgbouncer", "is missing: name each PgBouncer by a [[route.pgbouncer]] table");
            }
            RouteKind::PgBouncer { .. } => {}
            _ if !poolers.is_empty() => {
                route.problem("pgbouncer", "is for kind `pgbouncer` alone: only one route is moved");
            }
            _ => {}
        }
        root.absorb(route);

        let mut readers = root.optional_table("readers");
        let writers = [(&source_part.host, source_part.port), (&target_part.host, target_part.port)];
        let writers = writers.map(|(host, port)| Address { host: host.clone(), port });
        let readers_part = Readers::read(&mut readers, &writers);
        if !readers_part.pools.is_empty() && !matches!(kind, RouteKind::PgBouncer { .. }) {
            readers.problem("pool", "needs a route of kind `pgbouncer`: no other can lead readers");
        }
        root.absorb(readers);

        let mut fence = root.optional_table("fence");
        let fence_part =
            Fence { tolerate: fence.texts("tolerate"), end_older: fence.optional_duration("end_older", "1ms", "1d") };
        root.absorb(fence);

        let mut budgets = root.optional_table("budgets");
        let budgets_part = Budgets {
            write_pause: budgets.duration("write_pause", "2s", "50ms", "60s"),
            application_timeout: budgets.optional_duration("application_timeout", "1ms", "1h"),
            switchover_attempts: budgets.count("switchover_attempts", 1, 1, 100),
            switchover_backoff: budgets.duration("switchover_backoff", "10s", "10ms", "10min"),
            warm_cache: budgets.duration("warm_cache", "60s", "0s", "1h"),
            slot_creation: budgets.duration("slot_creation", "60s", "1s", "1h"),
            long_transaction: budgets.duration("long_transaction", "30s", "1s", "1h"),
            max_lag_bytes: budgets.bytes("max_lag", "16MiB"),
            retained_wal_bytes: budgets.bytes("retained_wal", "20GiB"),
            catch_up: budgets.duration("catch_up", "12h", "1s", "30d"),
            verify: budgets.duration("verify", "12h", "1s", "30d"),
            verify_jobs: budgets.count("verify_jobs", 1, 1, 64),
        };
        if !waits && finish * 2 > budgets_part.write_pause {
            budgets.problem("write_pause", "must be at least twice `route.finish`: what comes after it takes time too");
        }
        root.absorb(budgets);

        let mut plan = root.optional_table("plan");
        let plan_part = Planning::read(&mut plan);
        root.absorb(plan);

        let mut approvals = root.optional_table("approvals");
        let approvals_part = approving::read(&mut approvals);
        root.absorb(approvals);

        let state_dir = root.path("state_dir").unwrap_or_else(|| base.join(".pgleap"));
        let config = Self {
            source: source_part,
            target: target_part,
            provider: provider_part,
            route: Route { kind, poolers, identity, finish },
            readers: readers_part,
            fence: fence_part,
            budgets: budgets_part,
            plan: plan_part,
            approvals: approvals_part,
            state_dir,
        };
        match root.finish() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(problems),
        }
    }
}

fn load<T>(path: &Path, read: fn(&str, &Path) -> Result<T, Vec<String>>) -> Result<T, ConfigErrors> {
    let fail = |problem: String| ConfigErrors { path: path.to_owned(), problems: vec![problem] };
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    // the parent of a bare file name is empty
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = std::path::absolute(parent).map_err(|e| fail(e.to_string()))?;
    read(&text, &base).map_err(|problems| ConfigErrors { path: path.to_owned(), problems })
}

fn parse(text: &str) -> Result<toml::Table, Vec<String>> {
    text.parse::<toml::Table>().map_err(|e| vec![e.to_string().trim().replace('\n', " ")])
}

/// Reads one `[[pgbouncer]]`: one with a guard elsewhere is only named here.
fn read_pooler(entry: &mut Reader, guard: Option<GuardAddress>) -> Pooler {
    let admin = entry.dsn("admin", "host=127.0.0.1 port=6432 user=pgbouncer");
    let (password, ini) = match guard {
        Some(_) => (None, PathBuf::new()),
        None => (entry.password(), entry.required_path("ini")),
    };
    Pooler { host: admin.host, port: admin.port, user: admin.user, password, ini, guard }
}

fn read_program(route: &mut Reader) -> Program {
    let mut command = route.texts("command");
    match command.first_mut() {
        Some(program) if !program.is_empty() => *program = route.based(program),
        _ => route.problem("command", "is missing: the program, and what it is called with, as a list of texts"),
    }
    let clients = [("wait", Clients::Wait), ("reconnect", Clients::Reconnect), ("errors", Clients::Errors)];
    Program {
        command,
        timeout: route.duration("timeout", "5s", "100ms", "5s"),
        clients: route.choice("clients", Clients::Wait, &clients),
        outlives_host: route.choice("outlives_host", false, &[("yes", true), ("no", false)]),
    }
}

fn read_identity(tls: &mut Reader) -> Identity {
    Identity {
        certificate: tls.required_path("certificate"),
        key: tls.required_path("key"),
        authority: tls.required_path("authority"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [source]
        dsn = "host=db1 port=5433 user=admin dbname=app"
        password = { env = "PGLEAP_PASSWORD" }
        transient_roles = ["v-*"]
        [target]
        version = 18
        port = 5434
        data_dir = "new/data"
        settings = { shared_buffers = "1GB", max_connections = 50 }
        [provider]
        kind = "self_managed"
        [route]
        kind = "pgbouncer"
        [[route.pgbouncer]]
        admin = "host=/run/pgbouncer port=6432 user=pgbouncer"
        ini = "/etc/pgbouncer/pgbouncer.ini"
        [fence]
        tolerate = ["exporter"]
        [budgets]
        write_pause = "500ms"
        max_lag = "4MiB"
    "#;

    #[test]
    fn config_reads_every_section_and_fills_in_defaults() {
        let config = Config::parse(GOOD, Path::new("/base")).unwrap();
        assert_eq!((config.source.host.as_str(), config.source.port), ("db1", 5433));
        assert_eq!(config.source.databases, Databases::All);
        assert_eq!(config.source.transient_roles, ["v-*"]);
        assert_eq!(config.target.host, "db1");
        assert_eq!(config.target.data_dir, Path::new("/base/new/data"));
        assert_eq!(
            config.target.settings,
            [("max_connections".into(), "50".into()), ("shared_buffers".into(), "1GB".into())]
        );
        assert_eq!(config.provider.work_dir, Path::new("/base/new/data.pgleap"));
        assert_eq!(config.route.poolers[0].host, "/run/pgbouncer");
        assert_eq!(config.fence.tolerate, ["exporter"]);
        assert_eq!(config.budgets.write_pause, Duration::from_millis(500));
        assert_eq!(config.budgets.max_lag_bytes, 4 << 20);
        assert_eq!(config.budgets.slot_creation, Duration::from_secs(60));
        assert_eq!(config.state_dir, Path::new("/base/.pgleap"));
        assert_eq!(config.plan, Planning::default());
    }

    #[test]
    fn config_reports_every_mistake_at_once() {
        let text = r#"
            colour = "red"
            [source]
            dsn = "host=db1 password=hunter2 bogus=1"
            databases = "some"
            [target]
            version = 12
            port = 70000
            [provider]
            kind = "aurora"
            transfer = "teleport"
            [route]
            kind = "pgbouncer"
            [fence]
            tolerate = "everybody"
            [budgets]
            write_pause = "soon"
            max_lagg = "16MiB"
        "#;
        let problems = Config::parse(text, Path::new("/base")).unwrap_err();
        let all = problems.join("\n");
        for expected in [
            "`colour` is not a key",
            "`source.dsn` must not hold a password",
            "`source.dsn` has the unknown keyword `bogus`",
            "`source.databases`",
            "`target.version`",
            "`target.port`",
            "`target.data_dir` is missing",
            "`provider.kind`",
            "`provider.transfer`",
            "`route.pgbouncer` is missing",
            "`fence.tolerate` must be a list",
            "`budgets.write_pause`",
            "`budgets.max_lagg` is not a key; did you mean `max_lag`?",
        ] {
            assert!(all.contains(expected), "missing: {expected}\nin:\n{all}");
        }
        assert!(!all.contains("hunter2"), "a password must never be repeated");
    }

    #[test]
    fn route_may_be_a_program_and_says_what_clients_see() {
        let route = |lines: &str| {
            let (before, after) = (GOOD.split_once("[route]").unwrap().0, GOOD.split_once("[fence]").unwrap().1);
            Config::parse(&format!("{before}[route]\n{lines}\n[fence]{after}"), Path::new("/base"))
        };
        let config = route("kind = \"command\"\ncommand = [\"./lb.sh\", \"lb1\"]\nclients = \"reconnect\"").unwrap();
        assert_eq!(config.route.capabilities(), Capabilities { clients: Clients::Reconnect, outlives_host: false });
        let RouteKind::Command(program) = config.route.kind else { panic!("{:?}", config.route) };
        assert_eq!(program.command, ["/base/./lb.sh", "lb1"]);
        assert_eq!(program.name(), "lb.sh");

        let pooler = "[[route.pgbouncer]]\nadmin = \"host=/ user=u\"\nini = \"/i\"";
        let by_session = route(&format!("kind = \"pgbouncer\"\nclients = \"reconnect\"\nfinish = \"100ms\"\n{pooler}"));
        assert_eq!(by_session.unwrap().route.capabilities().clients, Clients::Reconnect);
        let never = route(&format!("kind = \"pgbouncer\"\nclients = \"errors\"\n{pooler}")).unwrap_err();
        assert!(never[0].contains("`route.clients` is `errors`"), "{never:?}");

        let wrong = "kind = \"command\"\nclients = \"sleep\"\ntimeout = \"1h\"\nfinish = \"1s\"\n[[route.pgbouncer]]\n\
                     admin = \"host=/\"\nini = \"/i\"";
        let problems = route(wrong).unwrap_err().join("\n");
        for expected in [
            "`route.command` is missing",
            "`route.clients` is `sleep`",
            "`route.timeout` is `1h`",
            "`route.finish` is for routes that cut connections",
            "`route.pgbouncer` is for kind `pgbouncer` alone",
        ] {
            assert!(problems.contains(expected), "missing: {expected}\nin:\n{problems}");
        }
    }

    #[test]
    fn readers_are_read_and_each_server_must_have_a_name_of_its_own() {
        let config = Config::parse(GOOD, Path::new("/")).unwrap();
        assert!(config.readers.pools.is_empty());
        let with = |more: &str| Config::parse(&format!("{GOOD}\n[readers]\n{more}"), Path::new("/"));
        let pool = "[[readers.pool]]\nfrom = \"host=db2 port=5432\"\nto = \"host=db4 port=5432\"\n";
        let config = with(&format!("order = \"together\"\nwindow = \"90s\"\n{pool}")).unwrap();
        assert_eq!((config.readers.order, config.readers.window), (ReaderOrder::Together, Duration::from_secs(90)));
        assert_eq!(config.readers.pools[0].to, Address { host: "db4".into(), port: 5432 });
        let twice = with(&pool.repeat(2)).unwrap_err();
        assert!(twice[0].contains("`readers.pool` names db2:5432 twice"), "{twice:?}");
        let own = with(&pool.replace("db4 port=5432", "db1 port=5434")).unwrap_err();
        assert!(own[0].contains("or a cluster's own address"), "{own:?}");
        let stay = with(&format!("order = \"stay\"\n{pool}")).unwrap_err();
        assert!(stay[0].contains("`readers.roles` is missing"), "{stay:?}");
    }

    #[test]
    fn config_refuses_a_target_at_the_sources_own_address() {
        let text = GOOD.replace("port = 5434", "port = 5433");
        assert!(Config::parse(&text, Path::new("/")).unwrap_err()[0].contains("source's own port"));
    }
}
