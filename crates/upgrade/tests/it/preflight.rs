//! Preflight against real servers and poolers: each check sees what is wrong, and is silent when nothing is.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions may fail the test too")]

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use pgleap_local::{Account, Auth, InitOptions, KillOnDrop, PoolerSpec, Server, StopMode, StopOnDrop, free_port};
use pgleap_upgrade::{
    Config, World,
    guard::Launch,
    preflight::{self, Finding, Report, Severity},
};
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use crate::preflight_footprint::passed_on;

pub const LONG: Duration = Duration::from_secs(60);
pub const PASSWORD: &str = "correct horse";

/// Settings under which two databases can be upgraded.
const SOUND: &[(&str, &str)] = &[("wal_level", "logical"), ("max_prepared_transactions", "5"), ("autovacuum", "off")];

/// A source of its own, in a directory that goes with the test.
pub struct Bed {
    pub server: StopOnDrop,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

fn settings(dir: &Path, port: u16, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let port = port.to_string();
    let dir = dir.to_string_lossy();
    let own = [
        ("port", port.as_str()),
        ("unix_socket_directories", &dir),
        ("listen_addresses", "127.0.0.1"),
        ("fsync", "off"),
    ];
    own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Bed {
    /// Starts a source of that major; `None`, with a word, if there is none on this machine.
    pub async fn start(major: u16, auth: Auth) -> Option<Self> {
        Self::start_with(major, InitOptions { auth, ..InitOptions::default() }).await
    }

    /// The same, made by initdb with these options.
    pub async fn start_with(major: u16, options: InitOptions) -> Option<Self> {
        let Ok(installation) = pgleap_local::find(major, &[]) else {
            eprintln!("skipped: PostgreSQL {major} is not installed");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("pglp-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let account = Account::for_servers(None).unwrap();
        let own = dir.path().join("old");
        account.create_dir(&own, 0o755).unwrap();
        let server = Server { installation, account, data_dir: own.join("data"), log: own.join("server.log") };
        let server = StopOnDrop(server);
        server.init(&options).await.unwrap();
        let port = free_port().unwrap();
        server.start(&settings(&own, port, SOUND), LONG).await.unwrap();
        Some(Self { server, port, dir })
    }

    pub async fn restart(&self, more: &[(&str, &str)]) {
        self.server.stop(StopMode::Fast, LONG).await.unwrap();
        let own = self.dir.path().join("old");
        self.server.start(&settings(&own, self.port, more), LONG).await.unwrap();
    }

    /// Its own settings and these.
    pub fn settings_with(&self, more: &[(String, String)]) -> Vec<(String, String)> {
        let mut all = settings(&self.dir.path().join("old"), self.port, &[]);
        all.extend(more.iter().cloned());
        all
    }

    pub async fn client(&self, database: &str) -> Client {
        let text = format!(
            "host=127.0.0.1 port={} user=postgres password='{PASSWORD}' dbname={database} application_name=batch",
            self.port
        );
        let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    }

    pub async fn run(&self, database: &str, statements: &[&str]) {
        let client = self.client(database).await;
        for statement in statements {
            client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    pub fn pooler(&self, bin: PathBuf, name: &str) -> PoolerSpec {
        PoolerSpec {
            bin,
            dir: self.dir.path().join(name),
            port: free_port().unwrap(),
            account: self.server.account.clone(),
            databases: vec![("app".into(), "127.0.0.1".into(), self.port, "app".into())],
            users: vec![("postgres".into(), PASSWORD.into()), ("reader".into(), PASSWORD.into())],
            admin_users: vec!["postgres".into()],
            pool_mode: "transaction".into(),
            extra: vec![("stats_users".into(), "reader".into()), ("server_login_retry".into(), "1".into())],
        }
    }

    /// What an operator would write for this source and that pooler.
    pub fn wishes(&self, pooler: &PoolerSpec) -> Wishes {
        self.wishes_for(pooler, target_of(self.server.installation.major))
    }

    /// The same, for that target.
    pub fn wishes_for(&self, pooler: &PoolerSpec, target: u16) -> Wishes {
        Wishes {
            dsn: format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port),
            target,
            target_port: free_port().unwrap(),
            data_dir: self.path("new/data"),
            work_dir: self.path("work"),
            pooler: format!("host=127.0.0.1 port={} user=postgres", pooler.port),
            ini: pooler.describe().ini_path.to_string_lossy().into_owned(),
            // neither the free disk of the test's machine nor its speed matters
            budgets: "retained_wal = \"1MiB\"\ncatch_up = \"1s\"".into(),
            ..Wishes::default()
        }
    }
}

/// A `pgleap.toml`.
#[derive(Default, Clone)]
pub struct Wishes {
    pub dsn: String,
    pub source: String,
    pub target: u16,
    pub target_port: u16,
    /// More of `[target]`.
    pub target_more: String,
    pub settings: String,
    pub data_dir: String,
    pub work_dir: String,
    pub provider: String,
    pub pooler: String,
    pub ini: String,
    pub budgets: String,
    /// What clients of that PgBouncer see, if they do not wait.
    pub clients: String,
    /// Another route than that PgBouncer.
    pub route: String,
}

impl Wishes {
    pub async fn check(&self) -> Report {
        preflight::check(&self.world().await).await
    }

    pub async fn world(&self) -> World {
        let Self { dsn, source, target, target_port, target_more, settings, data_dir, work_dir, .. } = self;
        let Self { provider, pooler, ini, budgets, clients, .. } = self;
        let password = format!("password = {{ command = [\"echo\", \"{PASSWORD}\"] }}");
        let source = if source.contains("password") { source.clone() } else { format!("{password}\n{source}") };
        let route = match self.route.as_str() {
            "" => {
                format!(
                    "kind = \"pgbouncer\"\n{clients}\n[[route.pgbouncer]]\nadmin = \"{pooler}\"\nini = \"{ini}\"\n{password}"
                )
            }
            other => other.to_owned(),
        };
        let text = format!(
            "[source]\ndsn = \"{dsn}\"\n{source}\n[target]\nversion = {target}\nport = {target_port}\n\
             data_dir = \"{data_dir}\"\nsettings = {{ {settings} }}\n{target_more}\n\
             [provider]\nkind = \"self_managed\"\nwork_dir = \"{work_dir}\"\n{provider}\n\
             [route]\n{route}\n[budgets]\n{budgets}"
        );
        let config = Config::parse(&text, Path::new("/")).unwrap();
        World::describe(config, "7f3a".into(), Launch::Task).await.unwrap_or_else(|errors| panic!("{errors:?}"))
    }
}

pub fn ids(report: &Report) -> BTreeSet<&'static str> {
    report.findings.iter().map(|finding| finding.id).collect()
}

#[track_caller]
pub fn finding<'a>(report: &'a Report, id: &str) -> &'a Finding {
    report.findings.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no `{id}` in {report:#?}"))
}

/// Asserts that there is no such finding.
#[track_caller]
pub fn assert_silent(report: &Report, id: &str) {
    let found = report.findings.iter().find(|finding| finding.id == id);
    assert!(found.is_none(), "{found:#?}");
}

#[track_caller]
pub fn assert_says(report: &Report, id: &str, severity: Severity, words: &[&str]) {
    let finding = finding(report, id);
    assert_eq!(finding.severity, severity, "{finding:#?}");
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let all = [finding.message.clone(), part(&finding.cause), part(&finding.remedy)].join("\n");
    words.iter().for_each(|word| assert!(all.contains(word), "`{word}` is missing in {finding:#?}"));
}

/// Every PgBouncer of this machine.
pub fn poolers() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = pgleap_local::find_pgbouncer(&[]).into_iter().collect();
    let root = std::env::var_os("PGLEAP_PG_DIR").map_or_else(|| "/var/lib/pgleap/pg".into(), PathBuf::from);
    let below = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path().join("bin/pgbouncer"));
    found.extend(below.filter(|program| program.is_file()));
    found.dedup();
    if found.is_empty() {
        eprintln!("skipped: PgBouncer is not installed");
    }
    found
}

/// Tables of every kind that has an identity, or needs none.
pub const GOOD_TABLES: &[&str] = &[
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TYPE pair AS (a int, b text)",
    "CREATE DOMAIN short AS varchar(10)",
    "CREATE TABLE keyed (a int PRIMARY KEY, j json)",
    "CREATE TABLE keyed_full (a int PRIMARY KEY, j json); ALTER TABLE keyed_full REPLICA IDENTITY FULL",
    "CREATE TABLE full_comparable (t text, v varchar(5), c char(3), m mood, p pair, s short, i int[], r int4range, n inet, \
     ci cidr, b bytea, u uuid, j jsonb, ts timestamptz, x xid, g name, ps pair[]); \
     ALTER TABLE full_comparable REPLICA IDENTITY FULL",
    "CREATE TABLE by_index (a int NOT NULL UNIQUE, j json); \
     ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a_key",
    "CREATE TABLE parted (a int, b int) PARTITION BY RANGE (a); \
     CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9); ALTER TABLE parted_1 REPLICA IDENTITY FULL",
    "CREATE UNLOGGED TABLE unlogged_empty (a int)",
    // there is always a partition for today's rows, or there has been none for long
    "CREATE TABLE endless (at date PRIMARY KEY) PARTITION BY RANGE (at); \
     CREATE TABLE endless_1 PARTITION OF endless FOR VALUES FROM ('2000-01-01') TO (MAXVALUE); \
     CREATE TABLE caught (at timestamptz PRIMARY KEY) PARTITION BY RANGE (at); \
     CREATE TABLE caught_1 PARTITION OF caught DEFAULT; \
     CREATE TABLE ended (at timestamp PRIMARY KEY) PARTITION BY RANGE (at); \
     CREATE TABLE ended_1 PARTITION OF ended FOR VALUES FROM ('2000-01-01') TO ('2000-02-01')",
    // row-level security that holds for others than the owner, for a superuser, or for who bypasses it
    "CREATE ROLE landlord; CREATE ROLE warden BYPASSRLS; \
     CREATE TABLE let (a int PRIMARY KEY); ALTER TABLE let OWNER TO landlord; ALTER TABLE let ENABLE ROW LEVEL SECURITY; \
     GRANT SELECT ON let TO warden; \
     CREATE TABLE guarded (a int PRIMARY KEY); ALTER TABLE guarded OWNER TO warden; \
     ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY; \
     CREATE ROLE chief SUPERUSER; CREATE TABLE of_all (a int PRIMARY KEY); ALTER TABLE of_all OWNER TO chief; \
     ALTER TABLE of_all ENABLE ROW LEVEL SECURITY; ALTER TABLE of_all FORCE ROW LEVEL SECURITY; REVOKE ALL ON of_all FROM chief",
    // functions that find what they name without a search_path, or do not run where changes are applied
    "CREATE FUNCTION qualified(a int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS \
     'BEGIN /* FROM keyed */ RETURN length(a::text) > 0 OR EXISTS (SELECT FROM public.keyed); -- qualified(1)\n END'; \
     CREATE FUNCTION own_path(a int) RETURNS bool LANGUAGE sql IMMUTABLE SET search_path = public AS 'SELECT qualified(a)'; \
     CREATE FUNCTION loose(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT keyed.a FROM keyed'; \
     CREATE TABLE checked (a int PRIMARY KEY CHECK (qualified(a)), b int DEFAULT loose(1)); \
     CREATE INDEX checked_b ON checked (own_path(b)); CREATE VIEW loosely AS SELECT loose(1)",
    // none of these fires where changes are applied
    "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
     CREATE TRIGGER ordinary AFTER INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION audit(); \
     CREATE TRIGGER off AFTER INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE keyed DISABLE TRIGGER off; \
     CREATE TRIGGER of_statements AFTER INSERT ON keyed EXECUTE FUNCTION audit(); \
     ALTER TABLE keyed ENABLE ALWAYS TRIGGER of_statements; \
     CREATE RULE rewritten AS ON INSERT TO keyed WHERE false DO ALSO NOTHING; \
     ALTER TABLE keyed ENABLE ALWAYS RULE rewritten; \
     CREATE TRIGGER of_unlogged AFTER INSERT ON unlogged_empty FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE unlogged_empty ENABLE ALWAYS TRIGGER of_unlogged; \
     CREATE TABLE child (a int PRIMARY KEY REFERENCES keyed)",
];

const BAD_TABLES: &[&str] = &[
    "CREATE SCHEMA \"Odd\"",
    "CREATE TABLE \"Odd\".\"No Key\" (a int)",
    "CREATE TABLE with_unique (a int NOT NULL UNIQUE, b int UNIQUE, c int)",
    "CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE)",
    "CREATE TABLE deferred_full (b int, \"A\" int, j json, PRIMARY KEY (\"A\", b) DEFERRABLE); \
     ALTER TABLE deferred_full REPLICA IDENTITY FULL",
    "CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
    "CREATE TABLE keyless_json (a int, j json)",
    "CREATE TABLE parted_bad (a int) PARTITION BY RANGE (a); \
     CREATE TABLE parted_bad_1 PARTITION OF parted_bad FOR VALUES FROM (0) TO (9)",
    "CREATE TABLE lost_index (a int NOT NULL); CREATE UNIQUE INDEX gone ON lost_index (a); \
     ALTER TABLE lost_index REPLICA IDENTITY USING INDEX gone; DROP INDEX gone",
    "CREATE DOMAIN area AS box; CREATE TYPE spot AS (p point, n int)",
    "CREATE TABLE full_domain (d area); ALTER TABLE full_domain REPLICA IDENTITY FULL",
    "CREATE TABLE full_row (r spot, a int); ALTER TABLE full_row REPLICA IDENTITY FULL",
    "CREATE TABLE full_array (x xml[], a int); ALTER TABLE full_array REPLICA IDENTITY FULL",
    "CREATE UNLOGGED TABLE scratch (a int); INSERT INTO scratch SELECT generate_series(1, 300); ANALYZE scratch",
    "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far; \
     CREATE FOREIGN TABLE elsewhere (a int) SERVER away",
    "SELECT lo_create(0)",
    "CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
     CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION on_ddl()",
    "CREATE TRIGGER \"To Outbox\" AFTER INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE keyed ENABLE ALWAYS TRIGGER \"To Outbox\"; \
     CREATE TRIGGER on_replica BEFORE UPDATE ON \"Odd\".\"No Key\" FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE \"Odd\".\"No Key\" ENABLE REPLICA TRIGGER on_replica; \
     CREATE TRIGGER emptied AFTER TRUNCATE ON keyed EXECUTE FUNCTION audit(); \
     ALTER TABLE keyed ENABLE ALWAYS TRIGGER emptied; \
     CREATE TRIGGER of_all AFTER INSERT ON parted FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE parted ENABLE ALWAYS TRIGGER of_all; ALTER TABLE parted_1 ENABLE ALWAYS TRIGGER of_all; \
     CREATE TRIGGER of_one AFTER INSERT ON parted FOR EACH ROW EXECUTE FUNCTION audit(); \
     ALTER TABLE parted_1 ENABLE ALWAYS TRIGGER of_one",
    "CREATE MATERIALIZED VIEW summary AS SELECT 1 AS a",
    "CREATE SUBSCRIPTION sleeps CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
    "CREATE SUBSCRIPTION runs CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false); \
     ALTER SUBSCRIPTION runs ENABLE",
    "CREATE DATABASE shut ALLOW_CONNECTIONS false",
    "CREATE DATABASE other",
    "BEGIN; CREATE TABLE pending (a int PRIMARY KEY); PREPARE TRANSACTION 'it''s left'",
];

const UNSOUND: &[(&str, &str)] = &[
    ("wal_level", "replica"),
    ("max_replication_slots", "1"),
    ("max_wal_senders", "2"),
    ("max_logical_replication_workers", "0"),
    ("max_worker_processes", "1"),
    ("max_slot_wal_keep_size", "64MB"),
    ("max_prepared_transactions", "5"),
];

/// Returns the target's major for a source of that major.
pub fn target_of(major: u16) -> u16 {
    [17, 18, 19].into_iter().find(|target| *target > major).unwrap()
}

/// How the programs of this machine happen to be is beside the point, and defaults change between any two majors.
pub const UP_TO_THE_MACHINE: [&str; 4] =
    ["version.known_bug", "pooler.scram_iterations", "binaries.minor_differs", "setting.default_changes"];

/// First all is well, then everything is wrong at once: one pass finds it all, and nothing else.
async fn sound_then_unsound(major: u16) {
    if let Err(error) = pgleap_local::find(target_of(major), &[]) {
        eprintln!("skipped: {error}");
        return;
    }
    let Some(bin) = poolers().into_iter().next() else { return };
    let Some(bed) = Bed::start(major, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    bed.run("app", GOOD_TABLES).await;
    let spec = bed.pooler(bin, "pool");
    let _pooler = KillOnDrop(spec.start().await.unwrap());
    let wishes = bed.wishes(&spec);

    let report = wishes.check().await;
    assert!(report.is_clear(), "{report:#?}");
    let rest: Vec<_> = report.findings.iter().filter(|finding| !UP_TO_THE_MACHINE.contains(&finding.id)).collect();
    assert!(rest.is_empty(), "{rest:#?}");

    bed.run("app", BAD_TABLES).await;
    let space = bed.dir.path().join("space");
    bed.server.account.create_dir(&space, 0o700).unwrap();
    bed.run("app", &[&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display())]).await;
    let mut unsound = UNSOUND.to_vec();
    if major >= 18 {
        unsound.extend([("max_active_replication_origins", "0"), ("idle_replication_slot_timeout", "1d")]);
    }
    bed.restart(&unsound).await;
    let busy = bed.client("app").await;
    busy.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let until = Instant::now() + LONG;
    while !busy.query_one("SELECT clock_timestamp() - now() > interval '1.1 s'", &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    std::fs::create_dir_all(bed.dir.path().join("work/already")).unwrap();
    let report = Wishes {
        source: "databases = [\"app\", \"missing\"]".into(),
        budgets: "long_transaction = \"1s\"\nretained_wal = \"4000000TiB\"".into(),
        ..wishes
    }
    .check()
    .await;
    assert_everything_was_found(&report, &bed, major);
}

fn assert_everything_was_found(report: &Report, bed: &Bed, major: u16) {
    use Severity::{Blocker, Note, Warning};
    let says = |id, severity, words: &[&str]| assert_says(report, id, severity, words);
    says("wal_level.not_logical", Blocker, &["`replica`", "ALTER SYSTEM SET wal_level = 'logical'", "restart"]);
    says(
        "replication_slots.too_few",
        Blocker,
        &["`max_replication_slots` is 1", "max_replication_slots = 3;", "restart"],
    );
    says("wal_senders.too_few", Blocker, &["is 2", "max_wal_senders = 3;"]);
    says("logical_workers.too_few", Blocker, &["max_logical_replication_workers = 1;"]);
    says("worker_processes.too_few", Blocker, &["max_worker_processes = 2;"]);
    says("slot_retention.limited", Warning, &["64.0 MiB", "max_slot_wal_keep_size = -1"]);
    says("prepared_transaction.open", Blocker, &["it's left", "ROLLBACK PREPARED 'it''s left'", "\\c \"app\""]);
    says("transaction.long", Warning, &["role `postgres`", "`batch`", "pg_terminate_backend("]);
    says("client.superuser", Warning, &["`postgres`", "batch"]);
    says("tablespace.unsupported", Blocker, &["fast", "DROP TABLESPACE \"fast\""]);
    says("subscription.active", Blocker, &["runs in app", "ALTER SUBSCRIPTION \"runs\" DISABLE"]);
    says("subscription.not_carried", Warning, &["sleeps in app"]);
    says("database.unknown", Blocker, &["`missing`"]);
    says("database.closed", Blocker, &["`shut`", "ALLOW_CONNECTIONS true"]);
    says("database.not_kept_up", Warning, &["`other`", "`postgres`"]);
    says("directory.not_empty", Blocker, &[&bed.path("work"), "1 entry"]);
    says("retained_wal.exceeds_disk", Warning, &["/s", "free", "retained_wal = "]);
    says("unlogged_table.emptied", Warning, &["about 300 rows", "public.scratch", "SET LOGGED"]);
    says("foreign_table.elsewhere", Note, &["public.elsewhere on away"]);
    says("large_object.not_replicated", Warning, &["1 large object"]);
    says("event_trigger.enabled", Note, &["watcher on ddl_command_end"]);
    says(
        "trigger.fires_on_apply",
        Warning,
        &[
            "database `app` has 5 triggers",
            "`\"Odd\".\"No Key\".on_replica (REPLICA)`",
            "`public.keyed.\"To Outbox\" (ALWAYS)`, `public.keyed.emptied (ALWAYS)`",
            "`public.parted.of_all (ALWAYS)`, `public.parted_1.of_one (ALWAYS)`",
            "\\c \"app\"\nALTER TABLE \"Odd\".\"No Key\" DISABLE TRIGGER on_replica;",
            "ALTER TABLE public.keyed ENABLE TRIGGER \"To Outbox\";",
            "ALTER TABLE public.parted_1 ENABLE TRIGGER of_one;",
        ],
    );
    says("materialized_view.goes_stale", Note, &["REFRESH MATERIALIZED VIEW public.summary"]);
    says(
        "replica_identity.missing",
        Blocker,
        &[
            "6 tables of database `app`",
            "ALTER TABLE \"Odd\".\"No Key\" REPLICA IDENTITY FULL;",
            "ALTER TABLE public.with_unique REPLICA IDENTITY USING INDEX \"with_unique_a_key\";",
            "ALTER TABLE public.deferred REPLICA IDENTITY FULL;",
            "1 of them is deferrable",
            "ALTER TABLE public.nothing REPLICA IDENTITY USING INDEX \"nothing_pkey\";",
            "ALTER TABLE public.keyless_json ADD PRIMARY KEY (…);  -- j json cannot be compared",
            "ALTER TABLE public.parted_bad_1 REPLICA IDENTITY FULL;",
        ],
    );
    says("replica_identity.index_missing", Blocker, &["public.lost_index"]);
    says(
        "replica_identity.no_equality",
        Blocker,
        &[
            "4 tables",
            "the primary key of 1 of them is deferrable",
            "CREATE UNIQUE INDEX CONCURRENTLY deferred_f_identity_",
            "ON public.deferred_full (\"A\", b);  -- its primary key is deferrable\nALTER TABLE public.deferred_full REPLICA",
            "public.full_array (x xml[])",
            "public.full_domain (d public.area)",
            "public.full_row (r public.spot)",
        ],
    );
    // the text lists five; the whole list, with what pgleap can apply of it, is in the finding
    let missing = finding(report, "replica_identity.missing");
    assert_eq!((missing.database.as_deref(), missing.objects.len()), (Some("app"), 6), "{missing:#?}");
    assert_eq!((missing.numbers["tables"].as_u64(), missing.fixes.len()), (Some(6), 5), "all but the one with json");
    assert_eq!(finding(report, "trigger.fires_on_apply").fixes.len(), 5);
    assert!(finding(report, "prepared_transaction.open").by_hand.is_some_and(|why| why.contains("coordinator")));
    // from 15 to 17 none changes that 15 has
    if major != 15 {
        says("setting.default_changes", Note, &["another default", "under [target]"]);
    }
    let minor = bed.server.installation.version.split_once('.').and_then(|(_, minor)| minor.parse::<u16>().ok());
    if major == 13 && minor.is_some_and(|minor| minor < 21) {
        says("version.known_bug", Warning, &["the source's PostgreSQL 13.", "install the latest minor"]);
    }
    let mut more = UP_TO_THE_MACHINE.to_vec();
    if major >= 18 {
        says("replication_origins.too_few", Blocker, &["max_active_replication_origins = 3;"]);
        says("slot_retention.times_out", Warning, &["86400 s"]);
        more.extend(["replication_origins.too_few", "slot_retention.times_out"]);
    }
    // the 26 kinds that every major has, and no other
    let others: Vec<_> = ids(report).into_iter().filter(|id| !more.contains(id)).collect();
    assert_eq!(others.len(), 26, "{others:#?}");
}

#[tokio::test]
async fn preflight_is_clear_on_a_sound_13_and_finds_every_problem_of_an_unsound_one() {
    sound_then_unsound(13).await;
}

#[tokio::test]
async fn preflight_is_clear_on_a_sound_15_and_finds_every_problem_of_an_unsound_one() {
    sound_then_unsound(15).await;
}

#[tokio::test]
async fn preflight_is_clear_on_a_sound_17_and_finds_every_problem_of_an_unsound_one() {
    sound_then_unsound(17).await;
}

#[tokio::test]
async fn preflight_is_clear_on_a_sound_18_and_finds_every_problem_of_an_unsound_one() {
    sound_then_unsound(18).await;
}

#[tokio::test]
async fn preflight_is_clear_on_every_other_sound_major_and_finds_every_problem_of_an_unsound_one() {
    if std::env::var_os("PGLEAP_TEST_MATRIX").is_none() {
        return;
    }
    for major in [14, 16] {
        sound_then_unsound(major).await;
    }
}

#[tokio::test]
async fn source_that_cannot_be_entered_is_a_finding_that_says_why() {
    let Some(bed) = Bed::start(15, Auth::ScramSha256 { password: PASSWORD.into() }).await else { return };
    let Some(bin) = poolers().into_iter().next() else { return };
    let spec = bed.pooler(bin, "pool");
    let wishes = bed.wishes(&spec);
    let with = |source: &str| Wishes { source: source.into(), ..wishes.clone() };

    let report = with("password = { command = [\"echo\", \"wrong\"] }").check().await;
    assert_says(
        &report,
        "source.wrong_password",
        Severity::Blocker,
        &["role `postgres`", "password authentication failed"],
    );
    assert!(!format!("{report:?}").contains(PASSWORD), "{report:?}");
    assert_says(&report, "pooler.unreachable", Severity::Blocker, &["`postgres`"]);

    let report = with("# no password").check().await;
    assert_says(&report, "source.no_password", Severity::Blocker, &["[source] password ="]);

    let other_database = wishes.dsn.replace("dbname=postgres", "dbname=nowhere");
    let report = Wishes { dsn: other_database, ..wishes.clone() }.check().await;
    assert_says(&report, "source.database_unknown", Severity::Blocker, &["`nowhere`"]);

    let closed = wishes.dsn.replace(&format!("port={}", bed.port), &format!("port={}", free_port().unwrap()));
    let report = Wishes { dsn: closed, ..wishes.clone() }.check().await;
    assert_says(&report, "source.unreachable", Severity::Blocker, &["refused"]);

    let hba = bed.server.data_dir.join("pg_hba.conf");
    bed.server.account.write_file(&hba, "host all postgres 127.0.0.1/32 scram-sha-256\n", 0o600).unwrap();
    bed.run("postgres", &["CREATE ROLE stranger LOGIN", "SELECT pg_reload_conf()"]).await;
    let until = Instant::now() + LONG;
    let stranger = Wishes { dsn: wishes.dsn.replace("user=postgres", "user=stranger"), ..wishes.clone() };
    loop {
        let report = stranger.check().await;
        if ids(&report).contains("source.login_refused") {
            assert_says(&report, "source.login_refused", Severity::Blocker, &["role `stranger`", "pg_hba.conf"]);
            break;
        }
        assert!(Instant::now() < until, "{report:#?}");
    }
}

#[tokio::test]
async fn role_without_rights_and_a_standby_are_told_what_is_missing() {
    let Some(bed) = Bed::start(15, Auth::Trust).await else { return };
    let Some(bin) = poolers().into_iter().next() else { return };
    bed.run("postgres", &["CREATE ROLE \"Modest\" LOGIN", "CREATE DATABASE app"]).await;
    let spec = bed.pooler(bin, "pool");
    let _pooler = KillOnDrop(spec.start().await.unwrap());
    let wishes = bed.wishes(&spec);

    let modest = Wishes { dsn: wishes.dsn.replace("user=postgres", "user=Modest"), ..wishes.clone() }.check().await;
    assert_says(&modest, "role.not_superuser", Severity::Blocker, &["`Modest`", "ALTER ROLE \"Modest\" SUPERUSER"]);
    assert_says(&modest, "role.sees_little", Severity::Warning, &["GRANT pg_monitor TO \"Modest\""]);
    let blockers: Vec<_> = modest.blockers().map(|finding| finding.id).collect();
    assert_eq!(blockers, ["role.not_superuser"], "the lack of rights is said once: {modest:#?}");

    // one client comes through the pooler, one past it
    bed.run("postgres", &["CREATE ROLE reader LOGIN"]).await;
    let open = |port: u16, role: &str| {
        let text =
            format!("host=127.0.0.1 port={port} user={role} password='{PASSWORD}' dbname=app application_name=report");
        async move {
            let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
            tokio::spawn(async move { drop(connection.await) });
            client.batch_execute("BEGIN").await.unwrap();
            client
        }
    };
    let (_past, _through) = (open(bed.port, "Modest").await, open(spec.port, "reader").await);
    let until = Instant::now() + LONG;
    let report = loop {
        let report = wishes.check().await;
        if ids(&report).contains("client.past_poolers") {
            break report;
        }
        assert!(Instant::now() < until, "{report:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let past = &["1 session past the poolers: `Modest` in app from 127.0.0.1 (report)"];
    assert_says(&report, "client.past_poolers", Severity::Warning, past);

    // a server that waits for WAL that nobody sends
    bed.server.stop(StopMode::Fast, LONG).await.unwrap();
    let signal = bed.server.data_dir.join("standby.signal");
    bed.server.account.write_file(&signal, "", 0o600).unwrap();
    let own = bed.dir.path().join("old");
    bed.server.start(&settings(&own, bed.port, SOUND), LONG).await.unwrap();
    let standby = wishes.check().await;
    let blockers: Vec<_> = standby.blockers().map(|finding| finding.id).collect();
    assert_eq!(blockers, ["source.in_recovery"], "{standby:#?}");
    assert_says(&standby, "source.in_recovery", Severity::Blocker, &["name the primary in `source.dsn`"]);
}

/// Weeks before, and on a server whose superuser is somebody else.
#[tokio::test]
async fn role_with_no_more_than_the_grants_of_its_remedy_looks_at_everything() {
    for major in [13, 15, 18] {
        let Some(bed) = Bed::start(major, Auth::Trust).await else { continue };
        bed.run("postgres", &["CREATE ROLE \"Looker\" LOGIN", "CREATE DATABASE app"]).await;
        bed.run("app", GOOD_TABLES).await;
        let sound = bed.wishes(&bed.pooler("pgbouncer".into(), "pool"));
        let wishes = Wishes { dsn: sound.dsn.replace("user=postgres", "user=Looker"), ..sound };
        let report = wishes.check().await;
        assert!(ids(&report).contains("check.unanswered"), "{report:#?}");
        let remedy = finding(&report, "role.sees_little").remedy.clone().unwrap();
        let grants: Vec<_> = remedy.lines().filter(|line| line.starts_with("GRANT")).collect();
        bed.run("postgres", &grants).await;
        let report = wishes.check().await;
        for id in ["role.sees_little", "check.unanswered", "database.unreachable"] {
            assert_silent(&report, id);
        }
        // the next major may not be here
        let blockers = report.blockers().map(|finding| finding.id).filter(|id| *id != "binaries.missing");
        assert_eq!(blockers.collect::<Vec<_>>(), ["pooler.unreachable", "role.not_superuser"], "{report:#?}");

        // pg_cron shows each role its own jobs alone
        let jobs = [
            "CREATE SCHEMA cron; CREATE TABLE cron.job (jobid bigint PRIMARY KEY, command text, username text, active bool)",
            "INSERT INTO cron.job VALUES (1, 'CALL nightly()', 'app', true); GRANT USAGE ON SCHEMA cron TO \"Looker\"",
            "ALTER TABLE cron.job ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON cron.job USING (username = CURRENT_USER)",
            "GRANT SELECT ON cron.job TO \"Looker\"",
        ];
        bed.run("app", &jobs).await;
        let report = wishes.check().await;
        let says = ["check `scheduled_jobs` could not look", "row-level security policy for table \"job\""];
        assert_says(&report, "check.unanswered", Severity::Note, &says);
        bed.run("postgres", &["ALTER ROLE \"Looker\" BYPASSRLS"]).await;
        assert_says(&wishes.check().await, "job.runs_twice", Severity::Blocker, &["CALL nightly()"]);
    }
}

#[tokio::test]
async fn host_without_room_port_or_reach_is_found() {
    let Some(bed) = Bed::start(15, Auth::Trust).await else { return };
    let Some(bin) = poolers().into_iter().next() else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    let spec = bed.pooler(bin, "pool");
    let _pooler = KillOnDrop(spec.start().await.unwrap());
    let wishes = bed.wishes(&spec);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = bed.dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    // nothing is written: a file of holes stands for a cluster too large for any disk
    let row = bed.client("app").await;
    let oid: u32 = row.query_one("SELECT oid FROM pg_database WHERE datname = 'app'", &[]).await.unwrap().get(0);
    drop(row);
    let holes = bed.server.data_dir.join(format!("base/{oid}/holes"));
    std::fs::File::create(&holes).unwrap().set_len(15 << 40).unwrap();
    let report = Wishes {
        target: 15,
        target_port: taken.local_addr().unwrap().port(),
        data_dir: bed.path("closed/data"),
        work_dir: bed.path(&"w".repeat(90)),
        provider: "transfer = \"swap\"".into(),
        ..wishes.clone()
    }
    .check()
    .await;
    assert_says(&report, "target.port_in_use", Severity::Blocker, &["127.0.0.1:"]);
    assert_says(&report, "disk.too_small", Severity::Blocker, &["TiB", "free"]);
    assert_says(&report, "socket_path.too_long", Severity::Blocker, &["107"]);
    assert_says(&report, "version.not_newer", Severity::Blocker, &["15"]);
    assert_says(&report, "transfer.unsupported", Severity::Blocker, &["swap"]);
    if nix::unistd::geteuid().is_root() {
        assert_says(&report, "directory.closed", Severity::Blocker, &[&closed.to_string_lossy(), "chmod o+x"]);
    }
    std::fs::remove_file(holes).unwrap();

    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        let work_dir = format!("/dev/shm/pglp-{}", bed.port);
        let elsewhere = Wishes { work_dir: work_dir.clone(), ..wishes.clone() };
        let report = elsewhere.check().await;
        assert_says(&report, "directory.file_systems_differ", Severity::Blocker, &["/dev/shm", "transfer = \"copy\""]);
        let report = Wishes { provider: "transfer = \"copy\"".into(), ..elsewhere }.check().await;
        assert!(!ids(&report).contains("directory.file_systems_differ"), "{report:#?}");
        assert!(!Path::new(&work_dir).exists(), "preflight makes nothing");
    }

    // the server lives on in its directory, which is not where it says
    let moved = bed.dir.path().join("old/moved");
    std::fs::rename(&bed.server.data_dir, &moved).unwrap();
    let report = wishes.check().await;
    std::fs::rename(&moved, &bed.server.data_dir).unwrap();
    assert_says(&report, "source.not_on_this_host", Severity::Blocker, &["old/data"]);

    if nix::unistd::geteuid().is_root() {
        let report = Wishes { provider: "os_user = \"nobody\"".into(), ..wishes.clone() }.check().await;
        assert_says(&report, "source.other_owner", Severity::Warning, &["`nobody`"]);
    }
}

/// pg_upgrade restores every database, those too that nobody named.
#[tokio::test]
async fn what_fails_pg_upgrade_is_found_in_databases_beside_the_upgrade() {
    let Some(bed) = Bed::start(13, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app", "CREATE DATABASE aside", "CREATE ROLE barman"]).await;
    bed.run("aside", &["CREATE TABLE odd (r regproc)", "CREATE TABLE no_key (a int)"]).await;
    let wishes = bed.wishes_for(&bed.pooler("pgbouncer".into(), "pool"), 18);
    let wishes = Wishes { source: "databases = [\"app\"]".into(), ..wishes };
    let before = wishes.check().await;
    assert_silent(&before, "version.grant_fails");
    let finding = finding(&before, "version.object_refused");
    assert_eq!(finding.database.as_deref(), Some("aside"), "{finding:#?}");
    assert_silent(&before, "replica_identity.missing");
    let grant = "GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean) TO barman";
    bed.run("template1", &[grant]).await;
    let report = wishes.check().await;
    assert_says(&report, "version.grant_fails", Severity::Blocker, &["pg_start_backup"]);
    assert!(report.findings.iter().any(|found| found.database.as_deref() == Some("template1")), "{report:#?}");
}

/// `all` does not mean replication; the password is that of every other login.
#[tokio::test]
async fn source_that_refuses_replication_is_found_before_slots_keep_anything() {
    let Some(bed) = Bed::start(15, Auth::ScramSha256 { password: PASSWORD.into() }).await else { return };
    let wishes = bed.wishes(&bed.pooler("pgbouncer".into(), "pool"));
    assert_silent(&wishes.check().await, "replication.refused");
    let rules = bed.server.data_dir.join("pg_hba.conf");
    let text = std::fs::read_to_string(&rules).unwrap();
    let kept: Vec<_> = text.lines().filter(|line| !line.contains("replication")).collect();
    std::fs::write(&rules, kept.join("\n") + "\n").unwrap();
    bed.restart(&[]).await;
    let report = wishes.check().await;
    let says = [
        "role `postgres` in for replication",
        "no pg_hba.conf entry for replication connection from host",
        "host replication \"postgres\" samehost scram-sha-256",
    ];
    assert_says(&report, "replication.refused", Severity::Blocker, &says);
    let host = pgleap_upgrade::preflight::check_host(&wishes.world().await).await;
    assert_says(&host, "replication.refused", Severity::Blocker, &[]);
    // the remedy, as it is written
    std::fs::write(&rules, kept.join("\n") + "\nhost replication \"postgres\" samehost scram-sha-256\n").unwrap();
    bed.run("postgres", &["SELECT pg_reload_conf()"]).await;
    assert_silent(&wishes.check().await, "replication.refused");
}

/// Every PgBouncer, set up in every wrong way.
#[tokio::test]
async fn pooler_that_would_fail_the_switchover_is_found() {
    let Some(bed) = Bed::start(15, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    let holding = bed.client("app").await;
    holding.batch_execute("SELECT pg_advisory_lock(7)").await.unwrap();
    for (number, bin) in poolers().into_iter().enumerate() {
        let mut spec = bed.pooler(bin.clone(), &format!("pool{number}"));
        spec.pool_mode = "session".into();
        spec.databases.push(("app_by_other".into(), "127.0.0.2".into(), bed.port, "app".into()));
        spec.extra.retain(|(name, _)| name != "server_login_retry");
        for (patience, seconds) in [("query_wait_timeout", "1"), ("query_timeout", "1"), ("client_login_timeout", "2")]
        {
            spec.extra.push((patience.into(), seconds.into()));
        }
        spec.extra.push(("stats_period".into(), "1".into()));
        let pooler = KillOnDrop(spec.start().await.unwrap());
        let wishes = bed.wishes(&spec);

        let reader = wishes.pooler.replace("user=postgres", "user=reader");
        let report = Wishes { pooler: reader, ..wishes.clone() }.check().await;
        assert_says(&report, "pooler.not_admin", Severity::Blocker, &["`reader`", "admin_users = reader"]);

        // which program it is makes no difference to these
        if number == 0 {
            let silent = Arc::new(Mutex::new(("pgbouncer", 600)));
            let behind = |port: u16| wishes.pooler.replace(&format!("port={}", spec.port), &format!("port={port}"));
            let port = passed_on(spec.port, silent, |_| {}).await;
            let report = Wishes { pooler: behind(port), ..wishes.clone() }.check().await;
            assert_says(&report, "pooler.silent", Severity::Blocker, &["does not say what is asked"]);

            let older = |answer: &mut [u8]| {
                let named = b"PgBouncer 1.";
                if let Some(at) = answer.windows(named.len()).position(|part| part == named) {
                    answer[at + named.len() - 2] = b'0';
                }
            };
            let port = passed_on(spec.port, Arc::new(Mutex::new(("", 0))), older).await;
            let report = Wishes { pooler: behind(port), ..wishes.clone() }.check().await;
            assert_says(&report, "pooler.too_old", Severity::Blocker, &["is version 0.", "1.18 is the oldest"]);
        }

        if !nix::unistd::geteuid().is_root() {
            let dir = Path::new(&wishes.ini).parent().unwrap();
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o555)).unwrap();
            let report = wishes.check().await;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
            assert_says(&report, "pooler.ini_not_writable", Severity::Blocker, &["cannot be replaced"]);
        }

        // unknown before 1.21
        let tracks = console(&spec).await.simple_query("SET max_prepared_statements = 0").await.is_ok();
        console(&spec).await.simple_query("PAUSE app").await.unwrap();
        let report = Wishes { ini: bed.path("absent.ini"), ..wishes.clone() }.check().await;
        assert_says(&report, "pooler.query_wait_timeout", Severity::Blocker, &["after 1 s", "lease are 2.5 s"]);
        assert_says(&report, "pooler.query_timeout", Severity::Blocker, &["after 1 s", "query_timeout = 120"]);
        assert_says(&report, "pooler.client_login_timeout", Severity::Warning, &["within 2 s"]);
        assert_says(&report, "pooler.server_login_retry", Severity::Warning, &["for 15 s", "server_login_retry = 1"]);
        assert_says(&report, "pooler.session_pooling", Severity::Warning, &["`app`", "clients = \"reconnect\""]);
        assert_silent(&report, "pooler.prepared_statements");
        assert_says(&report, "session_state.held", Severity::Note, &["1 advisory lock", "which its client sees"]);
        assert_says(&report, "pooler.other_address", Severity::Warning, &["app_by_other (127.0.0.2:"]);
        assert_says(&report, "pooler.paused", Severity::Blocker, &["`app`", "RESUME \"app\""]);
        assert_says(&report, "pooler.ini_unreadable", Severity::Blocker, &["absent.ini"]);
        console(&spec).await.simple_query("RESUME app").await.unwrap();

        // the file no longer holds what the process was started with
        let text = std::fs::read_to_string(&pooler.ini_path).unwrap();
        let star = text.replacen("app = ", "* = ", 1);
        assert_ne!(text, star);
        std::fs::write(&pooler.ini_path, star).unwrap();
        let report = wishes.check().await;
        assert_says(&report, "pooler.entry_not_in_ini", Severity::Blocker, &["`app`"]);
        assert_says(&report, "pooler.wildcard", Severity::Blocker, &["`*`"]);
        std::fs::write(&pooler.ini_path, text).unwrap();

        let by_name = wishes.dsn.replace("host=127.0.0.1", "host=localhost");
        let report = Wishes { dsn: by_name, ..wishes.clone() }.check().await;
        let place = format!("127.0.0.1:{}/app", bed.port);
        assert_says(&report, "pooler.leads_elsewhere", Severity::Blocker, &["localhost:", &place]);

        console(&spec).await.simple_query("SET pool_mode = 'transaction'").await.unwrap();
        let report = Wishes { clients: "clients = \"reconnect\"".into(), ..wishes.clone() }.check().await;
        assert_says(&report, "pooler.cut_for_nothing", Severity::Warning, &["no entry", "pools by session"]);

        assert_says(&report, "session_state.held", Severity::Note, &["which its client sees"]);
        let report = wishes.check().await;
        assert_says(&report, "session_state.held", Severity::Warning, &["clients keep theirs"]);
        if tracks {
            let says = ["`max_prepared_statements` is 0", "max_prepared_statements = 200", "until it connects anew"];
            assert_says(&report, "pooler.prepared_statements", Severity::Note, &says);
            console(&spec).await.simple_query("SET max_prepared_statements = 100").await.unwrap();
        }
        let report = wishes.check().await;
        assert_silent(&report, "pooler.prepared_statements");

        assert_silent(&report, "pooler.transactions_slow");
        let client = login(&spec, "app").await;
        let busy =
            tokio::spawn(
                async move { while client.simple_query("BEGIN; SELECT pg_sleep(0.1); COMMIT").await.is_ok() {} },
            );
        let budgets = format!("{}\nwrite_pause = \"200ms\"", wishes.budgets);
        let impatient = Wishes { budgets, ..wishes.clone() };
        let until = tokio::time::Instant::now() + LONG;
        let slow = loop {
            let report = impatient.check().await;
            if ids(&report).contains("pooler.transactions_slow") || tokio::time::Instant::now() > until {
                break report;
            }
        };
        let says = ["in the last 1 s by PgBouncer", "`app: 0.1 s`; the write pause is 0.2 s"];
        assert_says(&slow, "pooler.transactions_slow", Severity::Note, &says);
        busy.abort();

        let version = console(&spec).await.simple_query("SHOW VERSION").await.unwrap();
        let tracks = format!("{version:?}").contains("1.26");
        if tracks {
            assert_says(&report, "pooler.scram_iterations", Severity::Warning, &[]);
        } else {
            assert_silent(&report, "pooler.scram_iterations");
        }
        assert!(!ids(&report).iter().any(|id| ["pooler.paused", "pooler.not_admin", "pooler.wildcard"].contains(id)));
    }
}

async fn console(spec: &PoolerSpec) -> Client {
    login(spec, "pgbouncer").await
}

async fn login(spec: &PoolerSpec, entry: &str) -> Client {
    let text = format!("host=127.0.0.1 port={} user=postgres password='{PASSWORD}' dbname={entry}", spec.port);
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}
