//! What changes in a source while somebody watches it.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions may fail the test too")]

use std::collections::BTreeSet;

use pgleap_local::Auth;
use pgleap_upgrade::preflight::{Drift, Finding};

use crate::preflight::{Bed, Wishes, target_of};

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
    "CREATE TABLE fresh (a int)",
    "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9)",
    "ALTER TABLE kept ADD COLUMN c int",
    "CREATE INDEX by_b ON kept (b)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE mood AS ENUM ('ok')",
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
    let world = Wishes {
        dsn: format!("host=127.0.0.1 port={} user=postgres dbname=postgres", bed.port),
        source: "databases = [\"app\"]".into(),
        target: target_of(major),
        target_port: 1,
        data_dir: bed.path("new/data"),
        work_dir: bed.path("work"),
        pooler: "host=127.0.0.1 port=1 user=postgres".into(),
        ini: bed.path("pgbouncer.ini"),
        ..Wishes::default()
    };
    let world = world.world().await;
    let mut drift = Drift::begin(&world).await.unwrap();
    assert!(!drift.under_way());
    bed.run("app", HARMLESS).await;
    assert_eq!(drift.look().await, []);

    bed.run("app", DDL).await;
    let all = BTreeSet::from([
        ("ddl.table_made", "public.fresh"),
        ("ddl.table_made", "public.parted_1 (partition)"),
        ("ddl.table_changed", "public.kept"),
        ("ddl.table_dropped", "public.leaving"),
        ("ddl.object_changed", "index public.by_b"),
        ("ddl.object_changed", "function public.f()"),
        ("ddl.object_changed", "enum public.mood"),
        ("ddl.object_changed", "view public.shown"),
        ("replica_identity.missing", "public.fresh"),
    ]);
    assert_eq!(told(&drift.look().await), all);

    // connections that are lost lose nothing of what is compared with
    bed.run("app", &["SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgleap%'"])
        .await;
    let lost = drift.look().await;
    assert!(!lost.is_empty() && lost.iter().all(|finding| finding.id == "check.unanswered"), "{lost:#?}");
    drift.enter_again(&world).await.unwrap();
    bed.run("app", &["ALTER TABLE fresh ADD PRIMARY KEY (a)"]).await;
    let now = drift.look().await;
    assert!(!told(&now).iter().any(|(id, _)| *id == "replica_identity.missing"), "{now:#?}");
    assert!(
        told(&now).is_superset(&all.iter().filter(|(id, _)| id.starts_with("ddl.")).copied().collect()),
        "{now:#?}"
    );

    // an upgrade under way is the baseline, whenever somebody begins to watch
    bed.run("app", &["CREATE PUBLICATION pgleap_7f3a FOR ALL TABLES", "CREATE TABLE later (a int PRIMARY KEY)"]).await;
    let drift = Drift::begin(&world).await.unwrap();
    assert!(drift.under_way());
    assert_eq!(told(&drift.look().await), BTreeSet::from([("ddl.table_made", "public.later")]));
}

#[tokio::test]
async fn ddl_and_what_it_brings_is_told_on_13_and_rows_vacuum_and_truncate_are_not() {
    followed(13).await;
}

#[tokio::test]
async fn ddl_and_what_it_brings_is_told_on_18_and_rows_vacuum_and_truncate_are_not() {
    followed(18).await;
}
