//! What only a look at a whole cluster can tell, on real servers: each check is silent on a sound one, and finds what is made
//! for it. One server of each major serves all cases.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use pgleap_local::{Auth, Icu};
use pgleap_upgrade::preflight::{
    Report,
    Severity::{self, Blocker, Note, Warning},
};
use tokio::time::Instant;

use crate::preflight::{Bed, GOOD_TABLES, LONG, Wishes, assert_says, assert_silent, finding, ids};

/// What makes a finding in database `app`, and what it must say.
struct Case {
    id: &'static str,
    severity: Severity,
    sql: &'static [&'static str],
    says: &'static [&'static str],
    /// The first major that can have it.
    since: u16,
}

const ANY: Case = Case { id: "", severity: Note, sql: &[], says: &[], since: 13 };

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
        ..ANY
    },
    Case {
        id: "replica_identity.missing",
        severity: Blocker,
        sql: &[
            "CREATE TABLE keyless_generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
            "CREATE TABLE keyless_busy (a int)",
            "INSERT INTO keyless_busy SELECT generate_series(1, 5000); ANALYZE keyless_busy",
            "UPDATE keyless_busy SET a = a + 1",
        ],
        says: &[
            // the dearest comes first
            "2 tables of database `app` have no replica identity: `public.keyless_busy`",
            "ALTER TABLE public.keyless_busy REPLICA IDENTITY FULL;  -- ",
            "updates and deletes/s (on average over",
            "each a scan of 5000 rows where they are applied",
            "ON CONFLICT",
            "ALTER TABLE public.keyless_generated ADD PRIMARY KEY (…);  -- FULL would hold a generated column",
        ],
        ..ANY
    },
    Case {
        id: "replica_identity.full_scans",
        severity: Warning,
        sql: &[
            "CREATE TABLE full_busy (a int); ALTER TABLE full_busy REPLICA IDENTITY FULL",
            "INSERT INTO full_busy SELECT generate_series(1, 30000); ANALYZE full_busy",
            "UPDATE full_busy SET a = a + 1",
        ],
        says: &[
            "1 table of database `app` has REPLICA IDENTITY FULL and no index to find rows by: `public.full_busy: ",
            "each a scan of 30000 rows where they are applied",
            "ALTER TABLE public.full_busy ADD PRIMARY KEY (…);",
        ],
        ..ANY
    },
    Case {
        id: "table.busiest",
        severity: Note,
        sql: &["CREATE TABLE busy (a int PRIMARY KEY); INSERT INTO busy SELECT generate_series(1, 50000)"],
        says: &["of database `app` take", "public.busy: ", " rows/s inserted, 0 updated, 0 deleted, on average over"],
        ..ANY
    },
    Case {
        id: "timeout.ends_apply",
        severity: Blocker,
        sql: &[
            "ALTER SYSTEM SET lock_timeout = '10s'",
            "ALTER DATABASE other SET lock_timeout = '1s'",
            "ALTER ROLE ALL SET lock_timeout = '2s'",
            "ALTER ROLE postgres IN DATABASE app SET lock_timeout = '3s'",
            "SELECT pg_reload_conf()",
        ],
        says: &[
            // that of the file is nobody's: every other goes before it
            "ended by `lock_timeout = 1s (database other)`, `lock_timeout = 2s (every role)`, \
             `lock_timeout = 3s (role postgres in database app)`",
            "ALTER ROLE \"postgres\" IN DATABASE \"app\" SET lock_timeout = 0;\nALTER ROLE \"postgres\" SET lock_timeout = 0;",
        ],
        ..ANY
    },
    Case {
        id: "sequence.set_at_switchover",
        severity: Note,
        sql: &[
            "CREATE TABLE numbered (a int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b serial)",
            "CREATE SEQUENCE down INCREMENT -1 CYCLE",
        ],
        says: &["database `app` has 3 sequences, 1 of identity columns, 1 owned by no column, 1 descending, 1 cycling"],
        ..ANY
    },
    Case {
        id: "timeout.outlasts_pause",
        severity: Note,
        sql: &["CREATE ROLE patient; ALTER ROLE patient IN DATABASE app SET statement_timeout = '30s'"],
        says: &[
            "write pause of 2 s",
            "statement_timeout = 30s (role patient in database app)",
            "ALTER ROLE \"patient\" IN DATABASE \"app\" SET statement_timeout = '2000ms';\n-- after it\n",
            "ALTER ROLE \"patient\" IN DATABASE \"app\" SET statement_timeout = '30s';",
        ],
        ..ANY
    },
    Case {
        id: "job.runs_twice",
        severity: Blocker,
        sql: &[
            "CREATE SCHEMA cron; CREATE TABLE cron.job (jobid bigint PRIMARY KEY, command text, nodeport int, active bool)",
            "INSERT INTO cron.job VALUES (1, 'CALL nightly()', 5432, true), (2, 'CALL never()', 5432, false)",
        ],
        says: &["1 active job of pg_cron", "CALL nightly()", "\"cron.launch_active_jobs\" = \"off\""],
        ..ANY
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
        ..ANY
    },
    Case {
        id: "partition.ends_soon",
        severity: Warning,
        sql: &[
            "CREATE ROLE \"Keeper\"; CREATE TABLE days (at date, n int, PRIMARY KEY (at, n)) PARTITION BY RANGE (at); \
             ALTER TABLE days OWNER TO \"Keeper\"; \
             DO $$ BEGIN EXECUTE format('CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (%L) TO (%L)', \
                 current_date - 7, current_date); END $$",
            // a partition that is partitioned again is full to its own end
            "DO $$ BEGIN EXECUTE format('CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (%1$L) TO (%2$L) PARTITION BY RANGE \
                 (at); CREATE TABLE days_2_1 PARTITION OF days_2 FOR VALUES FROM (%1$L) TO (%2$L)', \
                 current_date, current_date + 7); END $$",
            "CREATE TABLE moments (at timestamptz PRIMARY KEY) PARTITION BY RANGE (at); \
             DO $$ BEGIN EXECUTE format('CREATE TABLE moments_1 PARTITION OF moments FOR VALUES FROM (MINVALUE) TO (%L)', \
                 current_date + 8); END $$",
        ],
        says: &[
            "2 tables of database `app` without a partition for 14 days from now: `public.days (2 partitions, up to ",
            "`public.moments (1 partition, up to ",
            "\\c \"app\"\nSET lock_timeout = '300ms';\nSET ROLE \"Keeper\";\nCREATE TABLE public.days_20",
            "PARTITION OF public.moments FOR VALUES FROM ('",
            "TO (…);\nRESET ROLE;",
        ],
        ..ANY
    },
    Case {
        id: "function.needs_search_path",
        severity: Warning,
        sql: &[
            "CREATE SCHEMA \"Rates\"; CREATE TABLE \"Rates\".rate (k int PRIMARY KEY); CREATE DOMAIN tenth AS int",
            "CREATE FUNCTION known(k int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS \
             'BEGIN RETURN EXISTS (SELECT FROM rate WHERE rate.k = known.k); END'",
            "CREATE FUNCTION tenths(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN a::tenth; END'",
            "CREATE TABLE priced (a int PRIMARY KEY CHECK (known(a)) NO INHERIT, b int); CREATE INDEX by_tenths ON priced (tenths(b))",
        ],
        says: &[
            "2 functions of database `app` without a search_path, where changes are applied: `public.known(integer) of constraint \
             priced_a_check names rate`, `public.tenths(integer) of index by_tenths names tenth`",
            "ALTER FUNCTION public.known(integer) SET search_path = \"Rates\", pg_temp;",
            "ALTER FUNCTION public.tenths(integer) SET search_path = \"public\", pg_temp;",
        ],
        ..ANY
    },
    Case {
        id: "table_owner.kept_out",
        severity: Blocker,
        sql: &[
            "CREATE ROLE \"Tenant\"; CREATE TABLE forced (a int PRIMARY KEY); ALTER TABLE forced OWNER TO \"Tenant\"; \
             ALTER TABLE forced ENABLE ROW LEVEL SECURITY; ALTER TABLE forced FORCE ROW LEVEL SECURITY",
            "CREATE TABLE appended (a int PRIMARY KEY); ALTER TABLE appended OWNER TO \"Tenant\"; \
             REVOKE UPDATE, DELETE, TRUNCATE ON appended FROM \"Tenant\"",
            "CREATE TABLE late (a int PRIMARY KEY); CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON late DEFERRABLE INITIALLY \
             DEFERRED FOR EACH ROW EXECUTE FUNCTION audit(); ALTER TABLE late ENABLE ALWAYS TRIGGER at_commit; \
             ALTER TABLE late OWNER TO \"Tenant\"",
            "CREATE FUNCTION mine(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; \
             CREATE FUNCTION \"Hers\"(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'; \
             REVOKE EXECUTE ON FUNCTION mine(int), \"Hers\"(int) FROM PUBLIC; CREATE DOMAIN approved AS int CHECK (\"Hers\"(value))",
            "CREATE TABLE indexed (a int PRIMARY KEY); CREATE INDEX ON indexed (mine(a)); ALTER TABLE indexed OWNER TO \"Tenant\"",
            "CREATE TABLE computed (a int PRIMARY KEY, b int GENERATED ALWAYS AS (mine(a)) STORED, CHECK (\"Hers\"(a))); \
             ALTER TABLE computed OWNER TO \"Tenant\"",
            "CREATE ROLE \"Clerk\"; CREATE TABLE of_domain (a int PRIMARY KEY, b approved); ALTER TABLE of_domain OWNER TO \"Clerk\"",
            "CREATE TABLE of_hers (a int PRIMARY KEY, b approved)",
            // a domain over it, in an array, in a composite type, in a cast; an operator; a partition key
            "CREATE DOMAIN twice AS approved; CREATE TYPE holding AS (a twice[]); CREATE TABLE zz_row (k int PRIMARY KEY, t holding); CREATE TABLE zz_held (a int PRIMARY KEY, b zz_row)",
            "CREATE TABLE zz_cast (a int PRIMARY KEY, CHECK ((a::text::twice)::int > 0))",
            "CREATE FUNCTION over(int, int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > $2'; \
             REVOKE EXECUTE ON FUNCTION over(int, int) FROM PUBLIC; CREATE OPERATOR >>>> (LEFTARG = int, RIGHTARG = int, FUNCTION = over); \
             CREATE TABLE zz_operator (a int PRIMARY KEY, CHECK (a >>>> 0))",
            "CREATE TABLE zz_parted (a int) PARTITION BY RANGE (mine(a)); \
             CREATE TABLE zz_part PARTITION OF zz_parted FOR VALUES FROM (0) TO (9) PARTITION BY LIST (a); \
             CREATE TABLE zz_leaf PARTITION OF zz_part DEFAULT; ALTER TABLE zz_leaf REPLICA IDENTITY FULL",
            "DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY '{zz_held,zz_cast,zz_operator,zz_leaf}'::text[] LOOP \
             EXECUTE format('ALTER TABLE %I OWNER TO \"Clerk\"', t); END LOOP; END $$",
        ],
        says: &[
            "10 tables of database `app` keep their own owner from applying changes: `public.appended (Tenant has no UPDATE, \
             DELETE)`, `public.computed (Tenant may not call public.mine(integer), public.\"Hers\"(integer))`, `public.forced \
             (row-level security holds for Tenant too)`, `public.indexed (Tenant may not call public.mine(integer))`, `public.late \
             (deferred at_commit)`, and 5 more",
            "GRANT EXECUTE ON FUNCTION public.\"Hers\"(integer) TO \"Clerk\";",
            "GRANT EXECUTE ON FUNCTION public.mine(integer) TO \"Clerk\";",
            "GRANT EXECUTE ON FUNCTION public.over(integer,integer) TO \"Clerk\";",
            "GRANT EXECUTE ON FUNCTION public.mine(integer) TO \"Tenant\";",
            "ALTER ROLE \"Tenant\" BYPASSRLS;",
            "GRANT UPDATE, DELETE ON public.appended TO \"Tenant\";",
            "ALTER TABLE public.late ENABLE TRIGGER at_commit;",
        ],
        ..ANY
    },
    Case {
        id: "transaction_id.kept",
        severity: Warning,
        sql: &[
            "CREATE TABLE outbox (id int PRIMARY KEY, at bigint DEFAULT txid_current(), \"By\" xid8, note text DEFAULT 'txid_current')",
            "CREATE FUNCTION stamped() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN NEW.b := pg_current_wal_lsn()::text; RETURN NEW; END'; CREATE TABLE stamps (a int PRIMARY KEY, b text); \
             CREATE TRIGGER stamp BEFORE INSERT ON stamps FOR EACH ROW EXECUTE FUNCTION stamped()",
        ],
        says: &[
            "3 places of database `app` keep transaction ids or WAL positions: `public.outbox.\"By\"`, `public.outbox.at`, \
             `public.stamps by public.stamped()`",
        ],
        ..ANY
    },
    Case {
        id: "follower.logical",
        severity: Warning,
        sql: &["SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')"],
        says: &["others read changes by", "debezium in app (pgoutput)"],
        ..ANY
    },
    Case {
        id: "follower.unused_slot",
        severity: Note,
        sql: &["SELECT pg_create_physical_replication_slot('gone')"],
        says: &["`gone`"],
        ..ANY
    },
    Case {
        id: "index.invalid",
        severity: Note,
        sql: &[
            "CREATE TABLE searched (a int PRIMARY KEY, b int); CREATE INDEX failed ON searched (b)",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'failed'::regclass",
        ],
        says: &["1 index not valid", "REINDEX INDEX CONCURRENTLY public.failed;"],
        ..ANY
    },
    Case {
        id: "collation.changed",
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
        ..ANY
    },
    Case {
        id: "collation.moves_rows",
        severity: Warning,
        sql: &[
            "CREATE COLLATION dutch (provider = icu, locale = 'nl')",
            "CREATE TABLE by_name (t text COLLATE dutch) PARTITION BY RANGE (t); CREATE TABLE by_letter (t text COLLATE dutch) \
             PARTITION BY LIST (t)",
            "UPDATE pg_collation SET collversion = '0.1' WHERE collname = 'dutch'",
        ],
        says: &[
            "1 table partitioned by ranges of text whose collation has another version now: `public.by_name`",
            "pg_partition_tree('public.by_name')",
            "\\gexec",
        ],
        ..ANY
    },
    Case {
        id: "library.missing",
        severity: Blocker,
        sql: &[
            // a function whose library is gone, as an upgrade of packages leaves it
            "CREATE FUNCTION lost() RETURNS int LANGUAGE internal AS 'int4um'",
            "UPDATE pg_proc SET prolang = (SELECT oid FROM pg_language WHERE lanname = 'c'), probin = '$libdir/postgis-9' \
              WHERE proname = 'lost'",
        ],
        says: &["lacks 1 library of database `app`", "$libdir/postgis-9 (a function of its own)", "pg_upgrade refuses"],
        ..ANY
    },
    Case {
        id: "publication.restricted",
        severity: Warning,
        sql: &[
            "CREATE TABLE sold (a int PRIMARY KEY, b int)",
            "CREATE PUBLICATION partial FOR TABLE sold WITH (publish = 'insert', publish_via_partition_root)",
        ],
        says: &[
            "`partial (publish = 'insert'; publish_via_partition_root)`",
            "DROP SUBSCRIPTION \"debezium\";",
            "\"partial\";  -- those that it had",
        ],
        ..ANY
    },
    Case {
        id: "publication.restricted",
        severity: Warning,
        sql: &[
            "CREATE TABLE shipped (a int PRIMARY KEY, b int)",
            "CREATE PUBLICATION filtered FOR TABLE shipped (a) WHERE (a > 0)",
        ],
        says: &["filtered (row filters on public.shipped; column lists on public.shipped)"],
        since: 15,
    },
    Case {
        id: "publication.carried",
        severity: Note,
        sql: &["CREATE PUBLICATION whole FOR TABLE sold"],
        says: &["1 publication of database `app`, ", " of subscribers there: `whole`"],
        ..ANY
    },
    Case {
        id: "failover_slot.not_carried",
        severity: Warning,
        sql: &["SELECT pg_create_logical_replication_slot('kept', 'pgoutput', failover => true)"],
        says: &["1 slot that survives a failover: `kept in app`"],
        since: 17,
    },
    Case {
        id: "failover_slot.held_up",
        severity: Warning,
        sql: &["ALTER SYSTEM SET synchronized_standby_slots = 'gone'", "SELECT pg_reload_conf()"],
        says: &["`gone`", "nothing reaches those who read `kept in app`", "SET synchronized_standby_slots = ''"],
        since: 17,
    },
    // rows of catalogs stand for extensions: no major has the same ones here as elsewhere
    Case {
        id: "extension.not_on_target",
        severity: Warning,
        sql: &[
            "INSERT INTO pg_extension SELECT 99990, 'lost', extowner, extnamespace, false, '1.0' FROM pg_extension LIMIT 1",
        ],
        says: &["`lost 1.0`", "/extension/lost.control", "\\c \"app\"\nDROP EXTENSION \"lost\";"],
        ..ANY
    },
    Case {
        id: "extension.no_update_path",
        severity: Warning,
        sql: &["UPDATE pg_extension SET extversion = '0.1' WHERE extname = 'plpgsql'"],
        says: &[
            "1 extension of database `app` has no way",
            "plpgsql 0.1 → 1.0",
            "has scripts from no other version",
            "/extension/plpgsql.control",
        ],
        ..ANY
    },
    // the last: everything else was made before the checkpoint
    Case {
        id: "ddl.recent",
        severity: Note,
        sql: &["CHECKPOINT", "CREATE TABLE just_made (a int PRIMARY KEY)"],
        says: &["DDL in database `app` since 20", "by the time of a checkpoint: 1 table made (`public.just_made`)"],
        ..ANY
    },
];

/// Made by those who are at work meanwhile.
const BY_OTHERS: [&str; 4] = ["follower.standby", "session_state.held", "statement.long", "transaction.idle"];

/// What a clerk says in a session of `other`: the first make what outlives a transaction, the rest does not.
const CLERK: &[&str] = &[
    "CREATE ROLE clerk; GRANT TEMP ON DATABASE other TO clerk",
    "SET ROLE clerk",
    "/* by: app */ -- why\n SET work_mem = '5MB'",
    "LISTEN news",
    "SELECT 1 FROM pg_try_advisory_lock(7)",
    "CREATE TEMP TABLE kept (a int)",
    "PREPARE known AS SELECT 1; EXECUTE known",
    "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "BEGIN; SET LOCAL work_mem = '6MB'; CREATE TEMP TABLE gone (a int) ON COMMIT DROP; \
     SELECT pg_advisory_xact_lock(9); SET TRANSACTION READ ONLY; COMMIT",
    "SET application_name = 'clerk'; SET TIME ZONE 'UTC'; SELECT 'SET a = 1; LISTEN b'",
];

/// Some servers are built without ICU.
const COLLATIONS: [&str; 2] = ["collation.changed", "collation.moves_rows"];
/// Looked for where the target's programs are.
const BY_TARGET: [&str; 3] = ["library.missing", "extension.not_on_target", "extension.no_update_path"];

/// Found with these, for the settings that they need; they keep commits waiting, so they come last.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("autovacuum", "off"),
    ("archive_mode", "on"),
    ("archive_command", "true"),
    ("synchronous_standby_names", "near"),
];

/// What the packages of this machine happen to be built with decides which finding there is, if any.
fn assert_icu(source: u16, target: u16, report: &Report) {
    let icu = |major| pgleap_local::find(major, &[]).ok()?.icu();
    match (icu(source), icu(target)) {
        (_, Some(Icu::Without)) => {
            assert_says(
                report,
                "collation.no_icu",
                Blocker,
                &[&format!("PostgreSQL {target} on this host is built without")],
            );
        }
        (Some(Icu::Linked(from)), Some(Icu::Linked(to))) if from != to => {
            let says =
                [&*format!("ICU {from}, the target's {to}: 1 index"), "`public.sorted_t`", "before it applies any"];
            assert_says(report, "collation.icu_differs", Note, &says);
        }
        _ => assert!(!ids(report).iter().any(|id| ["collation.no_icu", "collation.icu_differs"].contains(id))),
    }
}

/// What the packages of 15 and 17 bring: a path of several scripts.
#[tokio::test]
async fn extension_with_a_way_to_the_targets_version_is_a_note_and_one_that_has_it_is_none() {
    let Some(bed) = Bed::start(15, Auth::Trust).await else { return };
    let wishes = Wishes { target: 17, ..bed.wishes(&bed.pooler("pgbouncer".into(), "pool")) };
    let made = bed.client("postgres").await.batch_execute("CREATE EXTENSION hstore VERSION '1.4'").await;
    if made.is_err() || pgleap_local::find(17, &[]).is_err() {
        eprintln!("skipped: PostgreSQL 15 with contrib and 17 are not installed");
        return;
    }
    let report = wishes.check().await;
    assert_says(&report, "extension.older", Note, &["hstore 1.4 → 1.8", "ALTER EXTENSION \"hstore\" UPDATE;"]);
    assert_silent(&report, "extension.types_differ");
    let stored = [
        "CREATE DOMAIN tags AS hstore; CREATE TYPE label AS (t tags[], n int); CREATE UNLOGGED TABLE passing (t hstore)",
        "CREATE TABLE items (a int PRIMARY KEY, t hstore); CREATE TABLE labels (a int PRIMARY KEY, l label)",
    ];
    bed.run("postgres", &stored).await;
    let says =
        ["2 columns of database `postgres`", "`hstore 1.4 → 1.8 in public.items.t and 1 other`", "pgleap verify"];
    let report = wishes.check().await;
    assert_says(&report, "extension.types_differ", Note, &says);
    assert_eq!(finding(&report, "extension.types_differ").objects, ["public.items.t", "public.labels.l"]);

    // what the update of one of them drops is used by something else
    assert_silent(&report, "extension.kept_back");
    let used = [
        "CREATE EXTENSION pg_stat_statements VERSION '1.8'; CREATE ROLE \"Reader\"; CREATE VIEW keys AS SELECT akeys(t) FROM items",
        "CREATE VIEW top WITH (security_barrier = true) AS SELECT query FROM pg_stat_statements; GRANT SELECT ON top TO \"Reader\"",
        "CREATE FUNCTION calls() RETURNS bigint RETURN (SELECT sum(calls) FROM pg_stat_statements(true))",
    ];
    bed.run("postgres", &used).await;
    let report = wishes.check().await;
    let says = [
        "2 objects of database `postgres`",
        "`function public.calls(), pg_stat_statements 1.8 → 1.11`, `view public.top, pg_stat_statements 1.8 → 1.11`",
        "-- on the target\n\\c \"postgres\"\nBEGIN;\n-- drop function public.calls(), and make it again below\nDROP VIEW public.top;\n\
         ALTER EXTENSION \"pg_stat_statements\" UPDATE;\nCREATE VIEW public.top WITH (security_barrier=true) AS\n",
        "ALTER VIEW public.top OWNER TO postgres;\nGRANT SELECT ON public.top TO \"Reader\";\nCOMMIT;",
    ];
    assert_says(&report, "extension.kept_back", Warning, &says);
    assert_eq!(finding(&report, "extension.older").objects, ["hstore 1.4 → 1.8"], "it is not updated by pgleap");
    bed.run("postgres", &["DROP VIEW top; DROP FUNCTION calls()"]).await;
    let report = wishes.check().await;
    assert_silent(&report, "extension.kept_back");
    assert_says(&report, "extension.older", Note, &["hstore 1.4 → 1.8", "pg_stat_statements 1.8 → 1.11"]);
    bed.run("postgres", &["DROP EXTENSION pg_stat_statements"]).await;

    // a package for the target whose scripts begin later
    let own = bed.dir.path().join("extension");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hstore.control"), "default_version = '1.8'\n").unwrap();
    std::fs::write(own.join("hstore--1.6--1.8.sql"), "").unwrap();
    let settings = format!("extension_control_path = \"{}:$system\"", bed.dir.path().display());
    let report = Wishes { settings, ..wishes.clone() }.check().await;
    let says = ["hstore 1.4 → 1.8", "\\c \"postgres\"\nALTER EXTENSION \"hstore\" UPDATE TO '1.6';  -- on the source"];
    assert_says(&report, "extension.no_update_path", Warning, &says);

    bed.run("postgres", &["UPDATE pg_extension SET extversion = '1.8' WHERE extname = 'hstore'"]).await;
    assert!(!ids(&wishes.check().await).iter().any(|id| id.starts_with("extension.")));
}

async fn every_case(major: u16) {
    let Some(bed) = Bed::start(major, Auth::Trust).await else { return };
    bed.run("postgres", &["CREATE DATABASE app", "CREATE DATABASE other"]).await;
    bed.run("app", GOOD_TABLES).await;
    // no pooler runs: that is another finding
    let spec = bed.pooler("pgbouncer".into(), "pool");
    let sound = bed.wishes(&spec);
    let budgets = format!("{}\nlong_transaction = \"1s\"", sound.budgets);
    let wishes = Wishes { target: 18.max(major + 1), budgets, ..sound };
    let mut late = BTreeSet::from([
        "archive.not_carried",
        "follower.synchronous",
        "follower.standby",
        "transaction.idle",
        "session_state.held",
        "session_state.made",
        "statement.long",
        "statement.slow",
        "transaction.slow",
    ]);
    let seen = ids(&wishes.check().await);
    let early: Vec<_> =
        CASES.iter().map(|case| case.id).chain(late.iter().copied()).filter(|id| seen.contains(id)).collect();
    assert!(early.is_empty(), "on a sound {major}: {early:?}");

    let row = "SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu' AND collversion IS NOT NULL";
    let has_icu = bed.client("app").await.query_one(row, &[]).await.unwrap().get::<_, i64>(0) > 0;
    let has_target = pgleap_local::find(wishes.target, &[]).is_ok();
    let cases = CASES.iter().filter(|case| has_icu || !COLLATIONS.contains(&case.id));
    let cases = || cases.clone().filter(|case| major >= case.since && (has_target || !BY_TARGET.contains(&case.id)));
    for case in cases() {
        bed.run("app", case.sql).await;
    }
    let reading = bed.client("app").await;
    let reading = tokio::spawn(async move { drop(reading.batch_execute("SELECT pg_sleep(60)").await) });
    let idle = bed.client("app").await;
    idle.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(6)").await.unwrap();
    let holding = bed.client("app").await;
    holding.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(5); PREPARE TRANSACTION 'aside'").await.unwrap();
    holding.batch_execute("SELECT pg_advisory_lock(7), pg_advisory_lock(8)").await.unwrap();
    holding.batch_execute("CREATE TEMP TABLE kept (a int)").await.unwrap();
    holding.batch_execute("LISTEN news").await.unwrap();
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
        let seen = ids(&report);
        let expected = cases().map(|case| case.id).chain(BY_OTHERS);
        let missing: Vec<_> = expected.filter(|id| !seen.contains(id)).collect();
        if missing.is_empty() {
            break report;
        }
        assert!(Instant::now() < until, "not found on {major}: {missing:?} in {report:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    drop((standby, holding));
    bed.run("app", &["ROLLBACK PREPARED 'aside'"]).await;
    reading.abort();
    // a lock that goes with its transaction is not meant, and no pooler hides the end of a session
    let held = [
        "database `app`",
        "`2 advisory locks of role postgres (batch) in 1 session`",
        "`1 listening session of role postgres (batch)`",
        "`1 temporary table of role postgres in 1 session`",
        "which its client sees",
    ];
    assert_says(&report, "session_state.held", Note, &held);
    assert_says(&report, "statement.long", Warning, &["role `postgres`", "active", "before its statement has ended"]);
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
    late.retain(|id| !BY_OTHERS.contains(id));
    assert!(late.iter().all(|id| !ids(&report).contains(id)), "{report:#?}");

    if has_icu {
        let targets = [wishes.target, 17].into_iter().filter(|target| *target > major);
        for target in targets.filter(|target| pgleap_local::find(*target, &[]).is_ok()) {
            assert_icu(major, target, &Wishes { target, ..wishes.clone() }.check().await);
        }
    }

    let quiet = Wishes { settings: "\"cron.launch_active_jobs\" = \"off\"".into(), ..wishes.clone() }.check().await;
    assert!(!ids(&quiet).contains("job.runs_twice"), "{quiet:#?}");
    assert_says(&quiet, "job.off_on_target", Note, &["1 active job"]);

    let counted = bed.client("app").await.batch_execute("CREATE EXTENSION pg_stat_statements").await.is_ok();
    let preload = ("shared_preload_libraries", if counted { "pg_stat_statements" } else { "" });
    bed.restart(&[SETTINGS, &[preload]].concat()).await;
    // the one who counts is `app`, for all
    bed.run("other", &["SET synchronous_commit = off; SELECT pg_sleep(1.2)"]).await;
    let clerk: Vec<_> = std::iter::once("SET synchronous_commit = off").chain(CLERK.iter().copied()).collect();
    bed.run("other", &clerk).await;
    let impatient = |pause: &str| {
        let budgets = format!("{}\nwrite_pause = \"{pause}\"", wishes.budgets);
        Wishes { budgets, ..wishes.clone() }
    };
    let report = impatient("100ms").check().await;
    if counted {
        let says = [
            "longer than the write pause of 0.1 s at some time",
            " of role postgres in other: 1.2 s at most, 1.2 s on average, 1 calls",
            "\\c \"app\"\nSELECT queryid, query FROM public.pg_stat_statements WHERE queryid IN (",
        ];
        assert_says(&report, "statement.slow", Note, &says);
        let since = if major >= 14 { " since 20" } else { "of sessions: " };
        assert_says(&report, "session_state.made", Note, &[since, "which its client sees", "SET LOCAL"]);
        let mut made = finding(&report, "session_state.made").objects.clone();
        made.sort();
        let made: Vec<_> = made.iter().map(|name| name.replace(" by role clerk in other: ", " ")).collect();
        let expected = [
            "LISTEN 1 calls",
            "PREPARE 1 calls",
            "SET 2 calls",
            "advisory locks 1 calls",
            "cursors WITH HOLD 1 calls",
            "temporary tables 1 calls",
        ];
        assert_eq!(made, expected);
    }
    assert_says(&report, "archive.not_carried", Warning, &["archive_mode = on", "archive_command"]);
    assert_says(&report, "follower.synchronous", Warning, &["near"]);
    if major >= 14 {
        let until = Instant::now() + LONG;
        let report = loop {
            // a session reports when it is done; pgleap's own transactions are many and short
            bed.run("other", &["SELECT pg_stat_reset()", "SELECT pg_sleep(1)"]).await;
            let report = impatient("50ms").check().await;
            if ids(&report).contains("transaction.slow") || Instant::now() > until {
                break report;
            }
        };
        let says = ["transactions of database `other` since 20", " 0 % of it idle; the write pause is 0.05 s"];
        assert_says(&report, "transaction.slow", Note, &says);
    }
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
