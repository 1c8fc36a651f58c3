//! What changes in a source while somebody watches it.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions may fail the test too")]

use std::collections::BTreeSet;

use pgleap_local::Auth;
use pgleap_upgrade::preflight::{Drift, Finding, Severity::Note};
use tokio::time::Instant;

use crate::preflight::{Bed, LONG, Wishes, assert_says, assert_silent, target_of};

const BEFORE: &[&str] = &[
    "CREATE TABLE kept (a int PRIMARY KEY, b text); INSERT INTO kept VALUES (1, 'x')",
    "CREATE TABLE leaving (a int PRIMARY KEY)",
    "CREATE TABLE parted (a int PRIMARY KEY) PARTITION BY RANGE (a)",
];
/// Nothing of it is DDL that a target would miss.
const HARMLESS: &[&str] = &[
    "INSERT INTO kept SELECT n, 'y' FROM generate_series(2, 500) AS n; UPDATE kept SET b = 'z'; ANALYZE kept",
    "VACUUM FULL kept",
    "TRUNCATE leaving",
    "CREATE TEMP TABLE passing (a int)",
];
const DDL: &[&str] = &[
    "CREATE TABLE fresh (a int CHECK (a > 0))",
    "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9)",
    "ALTER TABLE kept ADD COLUMN c int",
    "CREATE INDEX by_b ON kept (b)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE mood AS ENUM ('ok')",
    "CREATE DOMAIN whole AS int; CREATE TYPE pair AS (a int, b int)",
    "CREATE SEQUENCE counting",
    "CREATE PUBLICATION others FOR TABLE kept",
    "ALTER TABLE kept ADD CONSTRAINT positive CHECK (a > 0)",
    "CREATE POLICY mine ON kept USING (true)",
    "CREATE VIEW shown AS SELECT 1 AS one",
    "DROP TABLE leaving",
];

/// Returns what was found, one for each object.
fn told(findings: &[Finding]) -> BTreeSet<(&str, &str)> {
    let of = |finding: &'_ Finding| finding.objects.len();
    assert!(
        findings.iter().all(|finding| of(finding) > 0 && finding.database.as_deref() == Some("app")),
        "{findings:#?}"
    );
    findings.iter().flat_map(|finding| finding.objects.iter().map(|name| (finding.id, name.as_str()))).collect()
}

async fn followed(major: u16) {
    let Some(bed) = Bed::start(major, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    bed.run("app", BEFORE).await;
    let wishes = Wishes {
        dsn: format!("host=127.0.0.1 port={} user=postgres dbname=postgres", bed.port),
        source: "databases = [\"app\"]".into(),
        target: target_of(major),
        target_port: 1,
        data_dir: bed.path("new/data"),
        work_dir: bed.path("work"),
        pooler: "host=127.0.0.1 port=1 user=postgres".into(),
        ini: bed.path("pgbouncer.ini"),
        budgets: "long_transaction = \"1s\"".into(),
        ..Wishes::default()
    };
    let world = wishes.world().await;
    let mut drift = Drift::begin(&world).await.unwrap();
    assert!(!drift.under_way());
    bed.run("app", HARMLESS).await;
    assert_eq!(drift.look(&world).await, []);

    bed.run("app", DDL).await;
    let all = BTreeSet::from([
        ("ddl.table_made", "public.fresh"),
        ("ddl.table_made", "public.parted_1 (partition)"),
        ("ddl.table_changed", "public.kept"),
        ("ddl.table_dropped", "public.leaving"),
        ("ddl.object_changed", "index public.by_b"),
        ("ddl.object_changed", "function public.f()"),
        ("ddl.object_changed", "enum public.mood"),
        ("ddl.object_changed", "domain public.whole"),
        ("ddl.object_changed", "type public.pair"),
        ("ddl.object_changed", "sequence public.counting"),
        ("ddl.object_changed", "publication others"),
        ("ddl.object_changed", "constraint positive of public.kept"),
        ("ddl.object_changed", "policy mine of public.kept"),
        ("ddl.object_changed", "view public.shown"),
        ("replica_identity.missing", "public.fresh"),
    ]);
    assert_eq!(told(&drift.look(&world).await), all);

    // a transaction comes, and goes
    let client = bed.client("app").await;
    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let held = async |drift: &Drift| drift.look(&world).await.iter().any(|finding| finding.id == "transaction.idle");
    let until = Instant::now() + LONG;
    while !held(&drift).await {
        assert!(Instant::now() < until, "the transaction is not told");
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(!held(&drift).await);

    // connections that are lost lose nothing of what is compared with
    bed.run("app", &["SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgleap%'"])
        .await;
    let lost = drift.look(&world).await;
    assert!(!lost.is_empty() && lost.iter().all(|finding| finding.id == "check.unanswered"), "{lost:#?}");
    drift.enter_again(&world).await.unwrap();
    bed.run("app", &["ALTER TABLE fresh ADD PRIMARY KEY (a)"]).await;
    let now = drift.look(&world).await;
    assert!(!told(&now).iter().any(|(id, _)| *id == "replica_identity.missing"), "{now:#?}");
    assert!(
        told(&now).is_superset(&all.iter().filter(|(id, _)| id.starts_with("ddl.")).copied().collect()),
        "{now:#?}"
    );

    // an upgrade under way is the baseline, whenever somebody begins to watch
    bed.run("app", &["CREATE PUBLICATION pgleap_7f3a FOR ALL TABLES", "CREATE TABLE later (a int PRIMARY KEY)"]).await;
    let drift = Drift::begin(&world).await.unwrap();
    assert!(drift.under_way());
    assert_eq!(told(&drift.look(&world).await), BTreeSet::from([("ddl.table_made", "public.later")]));

    // what is of no database
    let globals = [
        "CREATE DATABASE late",
        "CREATE ROLE clerk LOGIN; CREATE ROLE \"Group\"; GRANT \"Group\" TO clerk",
        "ALTER ROLE postgres PASSWORD 'another'; ALTER ROLE clerk SET work_mem = '5MB'",
    ];
    bed.run("postgres", &globals).await;
    let findings = drift.look(&world).await;
    let objects = |findings: &[Finding], id: &str| {
        findings.iter().find(|finding| finding.id == id).map(|finding| finding.objects.clone()).unwrap_or_default()
    };
    let roles =
        ["membership of clerk in \"Group\"", "role \"Group\"", "role clerk", "role postgres", "settings of role clerk"];
    assert_eq!(objects(&findings, "ddl.role_changed"), roles);
    assert_eq!(objects(&findings, "ddl.database_made"), [""; 0], "not all are wanted");
    let all = Wishes { source: "databases = \"all\"".into(), ..wishes }.world().await;
    // `postgres` has no publication either
    assert_eq!(objects(&drift.look(&all).await, "ddl.database_made"), ["late", "postgres"]);
    let drift = Drift::begin(&all).await.unwrap();
    assert_eq!(objects(&drift.look(&all).await, "ddl.database_made"), ["late", "postgres"]);
}

#[tokio::test]
async fn ddl_and_what_it_brings_is_told_on_13_and_rows_vacuum_and_truncate_are_not() {
    followed(13).await;
}

#[tokio::test]
async fn ddl_and_what_it_brings_is_told_on_18_and_rows_vacuum_and_truncate_are_not() {
    followed(18).await;
}

/// Beyond the last checkpoint, which is a moment ago, ids have times by commit timestamps and by what autovacuum wrote.
async fn reached_back(major: u16) {
    let Some(bed) = Bed::start(major, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    bed.run("app", &["CREATE TABLE before (a int PRIMARY KEY)", "CHECKPOINT"]).await;
    // no pooler runs: that is another finding
    let wishes = bed.wishes(&bed.pooler("pgbouncer".into(), "pool"));
    assert_silent(&wishes.check().await, "ddl.recent");

    bed.restart(&[("autovacuum", "off"), ("track_commit_timestamp", "on")]).await;
    bed.run("app", &["CREATE TABLE committed (a int PRIMARY KEY)", "CHECKPOINT"]).await;
    assert_says(
        &wishes.check().await,
        "ddl.recent",
        Note,
        &["by the time of a commit: 1 table made (`public.committed`)"],
    );

    let eager = [("autovacuum_naptime", "1s"), ("autovacuum_analyze_threshold", "1")];
    bed.restart(&eager).await;
    bed.run("app", &["INSERT INTO before SELECT generate_series(1, 500)"]).await;
    let watcher = bed.client("app").await;
    let analyzed = "SELECT last_autoanalyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'before'";
    let until = Instant::now() + LONG;
    while !watcher.query_one(analyzed, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until, "autovacuum analyzed nothing");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let ddl = "CREATE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER TABLE before ADD b int";
    bed.run("app", &[ddl, "CHECKPOINT"]).await;
    let says = ["by the time of an autoanalyze: 1 table altered (`public.before`), 1 other object made or altered \
         (`function public.later()`)"];
    assert_says(&wishes.check().await, "ddl.recent", Note, &says);
}

#[tokio::test]
async fn ddl_of_late_is_found_beyond_the_last_checkpoint_on_13() {
    reached_back(13).await;
}

#[tokio::test]
async fn ddl_of_late_is_found_beyond_the_last_checkpoint_on_18() {
    reached_back(18).await;
}
