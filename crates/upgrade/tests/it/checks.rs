//! What only a look at a whole cluster can tell, on real servers: each check is silent on a sound one, and finds what is made
//! for it. One server of each major serves all cases.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use pgleap_local::Auth;
use pgleap_upgrade::preflight::Severity::{self, Blocker, Note, Warning};
use tokio::time::Instant;

use crate::preflight::{Bed, GOOD_TABLES, LONG, Wishes, assert_says, ids};

/// What makes a finding in database `app`, and what it must say.
struct Case {
    id: &'static str,
    severity: Severity,
    sql: &'static [&'static str],
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        id: "replica_identity.generated",
        severity: Blocker,
        sql: &[
            "CREATE TABLE by_generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY)",
            "CREATE TABLE full_generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
            "ALTER TABLE full_generated REPLICA IDENTITY FULL",
        ],
        says: &["2 tables of database `app`", "public.by_generated (b)", "public.full_generated (b)", "USING INDEX"],
    },
    Case {
        id: "replica_identity.missing",
        severity: Blocker,
        sql: &["CREATE TABLE keyless_generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED)"],
        says: &[
            "ON CONFLICT",
            "ALTER TABLE public.keyless_generated ADD PRIMARY KEY (…);  -- FULL would hold a generated column",
        ],
    },
    Case {
        id: "timeout.ends_apply",
        severity: Blocker,
        sql: &[
            "ALTER SYSTEM SET lock_timeout = '10s'",
            "ALTER DATABASE other SET lock_timeout = '1s'",
            "SELECT pg_reload_conf()",
        ],
        says: &[
            "lock_timeout = 10s (postgresql.conf)",
            "lock_timeout = 1s (database other)",
            "ALTER DATABASE other RESET lock_timeout;",
        ],
    },
    Case {
        id: "job.runs_twice",
        severity: Blocker,
        sql: &[
            "CREATE SCHEMA cron; CREATE TABLE cron.job (jobid bigint PRIMARY KEY, command text, nodeport int, active bool)",
            "INSERT INTO cron.job VALUES (1, 'CALL nightly()', 5432, true), (2, 'CALL never()', 5432, false)",
        ],
        says: &["1 active job of pg_cron", "CALL nightly()", "\"cron.launch_active_jobs\" = \"off\""],
    },
    Case {
        id: "partition.made_by_job",
        severity: Warning,
        sql: &[
            "CREATE SCHEMA partman; CREATE TABLE partman.part_config (parent_table text PRIMARY KEY, premake int, \
             automatic_maintenance text)",
            "INSERT INTO partman.part_config VALUES ('public.events', 4, 'on'), ('public.old', 4, 'off')",
        ],
        says: &["1 table of database `app`", "public.events", "premake + 30"],
    },
    Case {
        id: "follower.logical",
        severity: Warning,
        sql: &["SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')"],
        says: &["1 logical slot", "debezium in app (pgoutput)"],
    },
    Case {
        id: "follower.unused_slot",
        severity: Note,
        sql: &["SELECT pg_create_physical_replication_slot('gone')"],
        says: &["`gone`"],
    },
    Case {
        id: "index.invalid",
        severity: Note,
        sql: &[
            "CREATE TABLE searched (a int PRIMARY KEY, b int); CREATE INDEX failed ON searched (b)",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'failed'::regclass",
        ],
        says: &["1 index not valid", "REINDEX INDEX CONCURRENTLY public.failed;"],
    },
    Case {
        id: COLLATION,
        severity: Warning,
        sql: &[
            "CREATE TABLE sorted (t text PRIMARY KEY)",
            "CREATE INDEX sorted_t ON sorted (t COLLATE \"und-x-icu\")",
            "UPDATE pg_collation SET collversion = '0.1' WHERE collname = 'und-x-icu'",
        ],
        says: &[
            "1 index built with another version",
            "pg_catalog.\"und-x-icu\" 0.1 → ",
            "REINDEX INDEX CONCURRENTLY public.sorted_t;\nALTER COLLATION pg_catalog.\"und-x-icu\" REFRESH VERSION;",
        ],
    },
    Case {
        id: LIBRARY,
        severity: Blocker,
        sql: &[
            // a function whose library is gone, as an upgrade of packages leaves it
            "CREATE FUNCTION lost() RETURNS int LANGUAGE internal AS 'int4um'",
            "UPDATE pg_proc SET prolang = (SELECT oid FROM pg_language WHERE lanname = 'c'), probin = '$libdir/postgis-9' \
              WHERE proname = 'lost'",
        ],
        says: &["lacks 1 library of database `app`", "$libdir/postgis-9 (a function of its own)", "pg_upgrade refuses"],
    },
    // the last: everything else was made before the checkpoint
    Case {
        id: "ddl.recent",
        severity: Note,
        sql: &["CHECKPOINT", "CREATE TABLE just_made (a int PRIMARY KEY)"],
        says: &[
            "1 table or view of database `app` made, altered or emptied since the checkpoint at",
            "public.just_made",
        ],
    },
];

/// Some servers are built without ICU.
const COLLATION: &str = "collation.changed";
/// Looked for where the target's programs are.
const LIBRARY: &str = "library.missing";

/// Found with these, for the settings that they need; they keep commits waiting, so they come last.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("autovacuum", "off"),
    ("archive_mode", "on"),
    ("archive_command", "true"),
    ("synchronous_standby_names", "near"),
];

async fn every_case(major: u16) {
    let Some(bed) = Bed::start(major, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app", "CREATE DATABASE other"]).await;
    bed.run("app", GOOD_TABLES).await;
    // no pooler runs: that is another finding
    let spec = bed.pooler("pgbouncer".into(), "pool");
    let sound = bed.wishes(&spec);
    let budgets = format!("{}\nlong_transaction = \"1s\"", sound.budgets);
    let wishes = Wishes { target: 18.max(major + 1), budgets, ..sound };
    let mut late =
        BTreeSet::from(["archive.not_carried", "follower.synchronous", "follower.standby", "transaction.idle"]);
    let seen = ids(&wishes.check().await);
    let early: Vec<_> =
        CASES.iter().map(|case| case.id).chain(late.iter().copied()).filter(|id| seen.contains(id)).collect();
    assert!(early.is_empty(), "on a sound {major}: {early:?}");

    let row = "SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu' AND collversion IS NOT NULL";
    let has_icu = bed.client("app").await.query_one(row, &[]).await.unwrap().get::<_, i64>(0) > 0;
    let has_target = pgleap_local::find(wishes.target, &[]).is_ok();
    let cases = CASES.iter().filter(|case| has_icu || case.id != COLLATION);
    let cases = || cases.clone().filter(|case| has_target || case.id != LIBRARY);
    for case in cases() {
        bed.run("app", case.sql).await;
    }
    let idle = bed.client("app").await;
    idle.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let standby = tokio::process::Command::new(bed.server.installation.tool("pg_receivewal"))
        .args(["--directory", &bed.dir.path().to_string_lossy(), "--no-sync", "--dbname"])
        .arg(format!("host=127.0.0.1 port={} user=postgres application_name=near", bed.port))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let until = Instant::now() + LONG;
    let report = loop {
        let report = wishes.check().await;
        if ["follower.standby", "transaction.idle"].iter().all(|id| ids(&report).contains(id)) {
            break report;
        }
        assert!(Instant::now() < until, "{report:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    drop(standby);
    assert_says(
        &report,
        "transaction.idle",
        Warning,
        &["role `postgres`", "idle in transaction", "pool does not pause"],
    );
    for case in cases() {
        assert_says(&report, case.id, case.severity, case.says);
    }
    assert_says(&report, "follower.standby", Warning, &["1 standby follows the source", "near at 127.0.0.1"]);
    late.retain(|id| !["follower.standby", "transaction.idle"].contains(id));
    assert!(late.iter().all(|id| !ids(&report).contains(id)), "{report:#?}");

    let quiet = Wishes { settings: "\"cron.launch_active_jobs\" = \"off\"".into(), ..wishes.clone() }.check().await;
    assert!(!ids(&quiet).contains("job.runs_twice"), "{quiet:#?}");
    assert_says(&quiet, "job.off_on_target", Note, &["1 active job"]);

    bed.restart(SETTINGS).await;
    let report = wishes.check().await;
    assert_says(&report, "archive.not_carried", Warning, &["archive_mode = on", "archive_command"]);
    assert_says(&report, "follower.synchronous", Warning, &["near"]);
}

#[tokio::test]
async fn checks_find_what_is_made_for_them_on_15_and_nothing_on_a_sound_one() {
    every_case(15).await;
}

#[tokio::test]
async fn checks_find_what_is_made_for_them_on_18_and_nothing_on_a_sound_one() {
    every_case(18).await;
}

#[tokio::test]
async fn checks_find_what_is_made_for_them_on_every_other_major() {
    if std::env::var_os("PGLEAP_TEST_MATRIX").is_none_or(|value| value != "1") {
        eprintln!("skipped: runs when PGLEAP_TEST_MATRIX=1 is set");
        return;
    }
    for major in [13, 14, 16, 17] {
        every_case(major).await;
    }
}
