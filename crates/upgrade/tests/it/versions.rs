//! The rules between two majors, on real servers: what they are about is found, and nothing else.

use std::collections::BTreeSet;

use pgleap_local::{Auth, InitOptions};
use pgleap_upgrade::preflight::{
    Finding, Report,
    Severity::{Blocker, Note, Warning},
};

use tokio::time::Instant;

use crate::preflight::{Bed, GOOD_TABLES, LONG, Wishes, assert_says, assert_silent, finding, ids};

/// The newest that any rule is about; its programs need not be here.
const NEWEST: u16 = 19;

/// Something that a rule is about: which rule, the majors that can have it, and what makes it.
struct Bad {
    rule: &'static str,
    majors: std::ops::RangeInclusive<u16>,
    sql: &'static str,
}

const fn bad(rule: &'static str, majors: std::ops::RangeInclusive<u16>, sql: &'static str) -> Bad {
    Bad { rule, majors, sql }
}

/// Each makes its rule find something; what a server was built without is left out, with a word.
const BAD: &[Bad] = &[
    bad(
        "reg_types",
        13..=18,
        "CREATE DOMAIN spaces AS regnamespace[];; CREATE TABLE holds (a int PRIMARY KEY, s spaces)",
    ),
    bad("system_row_types", 13..=18, "CREATE TABLE rows_of_rows (a int PRIMARY KEY, c information_schema.tables)"),
    bad(
        "aclitem",
        13..=15,
        "CREATE TYPE grant_of AS (a aclitem);; CREATE TABLE grants (a int PRIMARY KEY, g grant_of)",
    ),
    bad(
        "types_without_input",
        13..=18,
        "CREATE TABLE trees (a int PRIMARY KEY, n pg_node_tree, g gtsvector);; CREATE DOMAIN deps AS pg_dependencies;; \
         CREATE TYPE stats AS (d deps[], n int);; CREATE TABLE kept_stats (a int PRIMARY KEY, s stats);; \
         CREATE UNLOGGED TABLE unlogged_trees (n pg_node_tree);; CREATE MATERIALIZED VIEW old_trees AS SELECT n FROM unlogged_trees;; \
         CREATE TABLE texts (v tsvector PRIMARY KEY);; CREATE INDEX ON texts USING gist (v)",
    ),
    bad("encoding_conversions", 13..=13, "CREATE CONVERSION mine FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8"),
    bad("postfix_operators", 13..=13, "CREATE OPERATOR #! (LEFTARG = int, FUNCTION = int4um)"),
    bad(
        "polymorphic_arrays",
        13..=13,
        "CREATE AGGREGATE gather (anyelement) (sfunc = array_append, stype = anyarray, initcond = '{}')",
    ),
    bad(
        "not_null_inheritance",
        13..=17,
        "CREATE TABLE par (a int PRIMARY KEY);; CREATE TABLE chi () INHERITS (par);; ALTER TABLE chi ALTER a DROP NOT NULL",
    ),
    bad(
        "gist_inet",
        13..=18,
        "CREATE EXTENSION btree_gist;; CREATE TABLE nets (n inet PRIMARY KEY);; \
         CREATE INDEX nets_n ON nets USING gist (n gist_inet_ops)",
    ),
    bad(
        "mule_internal",
        13..=18,
        "CREATE DATABASE mule ENCODING 'MULE_INTERNAL' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    ),
    bad("template0_connections", 13..=18, "ALTER DATABASE template0 ALLOW_CONNECTIONS true"),
    bad("line_breaks_in_names", 13..=18, "CREATE ROLE U&\"two\\000Alines\""),
    bad(
        "objects_in_pg_catalog",
        13..=18,
        "CREATE FUNCTION pg_catalog.mine(int) RETURNS int LANGUAGE sql AS 'SELECT 1';; CREATE VIEW of_mine AS SELECT mine(1);; \
         CREATE TYPE pg_catalog.span AS RANGE (subtype = int);; CREATE DOMAIN pg_catalog.small AS int;; \
         CREATE OPERATOR pg_catalog.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);; \
         CREATE TEXT SEARCH CONFIGURATION pg_catalog.words (COPY = simple)",
    ),
    bad(
        "custom_setting_names",
        13..=13,
        "CREATE ROLE \"Tenant\";; ALTER ROLE \"Tenant\" SET \"my-app.tenant\" = 'a=b';; ALTER ROLE \"Tenant\" SET app.\"tenänt$2\" = 'x';; \
         ALTER ROLE \"Tenant\" IN DATABASE app SET \"my app.tenant\" = 'x';; ALTER DATABASE app SET \"1app.tenant\" = 'x';; \
         ALTER ROLE ALL SET \"app.tenant-id\" = 'x'",
    ),
    bad(
        "custom_setting_names_of_functions",
        13..=13,
        "CREATE PROCEDURE audited() LANGUAGE sql SET \"my-app.audit\" = 'on' SET app.audit = 'on' AS 'SELECT 1'",
    ),
    bad(
        "foreign_key_collations",
        13..=17,
        "CREATE COLLATION loose (provider = icu, locale = 'und', deterministic = false);; \
         CREATE TABLE kept (t text COLLATE loose PRIMARY KEY);; CREATE TABLE points (t text PRIMARY KEY REFERENCES kept)",
    ),
    bad(
        "generated_inheritance",
        13..=15,
        "CREATE TABLE plain (a int, b int);; CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a * 2) STORED);; \
         ALTER TABLE computed INHERIT plain",
    ),
    bad("settings_gone_14", 13..=13, "CREATE ROLE r14;; ALTER ROLE r14 SET operator_precedence_warning = on"),
    bad("settings_gone_15", 13..=14, "ALTER SYSTEM SET stats_temp_directory = 'pg_stat_tmp';; SELECT pg_reload_conf()"),
    bad("settings_gone_16", 13..=15, "ALTER SYSTEM SET vacuum_defer_cleanup_age = 1;; SELECT pg_reload_conf()"),
    bad("settings_gone_17", 13..=16, "ALTER SYSTEM SET trace_recovery_messages = 'notice';; SELECT pg_reload_conf()"),
    bad("settings_renamed_18", 13..=17, "ALTER SYSTEM SET ssl_ecdh_curve = 'secp384r1';; SELECT pg_reload_conf()"),
    bad("settings_renamed_16", 13..=15, "ALTER DATABASE postgres SET force_parallel_mode = off"),
    bad(
        "settings_gone_19",
        13..=18,
        "CREATE ROLE r19;; ALTER ROLE r19 IN DATABASE postgres SET escape_string_warning = off",
    ),
    bad("password_encryption_boolean", 13..=13, "CREATE ROLE r14p;; ALTER ROLE r14p SET password_encryption = 'on'"),
    bad(
        "standard_conforming_strings_off",
        13..=18,
        "CREATE ROLE r19s;; ALTER ROLE r19s SET standard_conforming_strings = off",
    ),
    bad(
        "geometric_and_factorial_operators",
        13..=13,
        "CREATE VIEW facts AS SELECT 5! AS f;; CREATE TABLE boxes (a int PRIMARY KEY, b box CHECK (b ~ box '((0,0),(1,1))'))",
    ),
    bad("ssl_compression", 13..=13, "CREATE VIEW packed AS SELECT compression FROM pg_stat_ssl"),
    bad(
        "exclusive_backup",
        13..=14,
        "CREATE VIEW in_backup AS SELECT pg_is_in_backup();; \
         CREATE FUNCTION backup() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_start_backup (''nightly''); END';; \
         GRANT EXECUTE ON FUNCTION pg_start_backup(text,boolean,boolean) TO pg_monitor WITH GRANT OPTION",
    ),
    bad(
        "unimplemented_geometry",
        13..=14,
        "CREATE VIEW middle AS SELECT point(path '((0,0),(1,1))') AS p;; \
         CREATE OPERATOR <<-> (LEFTARG = line, RIGHTARG = box, FUNCTION = dist_lb)",
    ),
    bad(
        "datlastsysoid",
        13..=14,
        "CREATE VIEW system_oids AS SELECT datname, datlastsysoid FROM pg_database;; \
         GRANT SELECT (datname, datlastsysoid) ON pg_database TO pg_monitor",
    ),
    bad(
        "signatures_14",
        13..=13,
        "REVOKE EXECUTE ON FUNCTION big5_to_utf8 FROM PUBLIC;; CREATE ROLE \"Ops\";; \
         GRANT EXECUTE ON FUNCTION pg_terminate_backend, pg_cancel_backend TO \"Ops\"",
    ),
    bad("signatures_16", 13..=15, "GRANT EXECUTE ON FUNCTION pg_get_publication_tables TO pg_monitor"),
    bad(
        "signatures_17",
        13..=16,
        "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO pg_monitor",
    ),
    bad(
        "signatures_18",
        13..=17,
        "REVOKE EXECUTE ON FUNCTION json_strip_nulls FROM PUBLIC;; CREATE VIEW stripped AS SELECT json_strip_nulls('{}');; \
         CREATE AGGREGATE joined(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb);; \
         CREATE AGGREGATE merged(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb, FINALFUNC = jsonb_strip_nulls)",
    ),
    bad("signatures_19", 13..=18, "GRANT EXECUTE ON FUNCTION pg_replication_origin_session_setup TO pg_monitor"),
    bad(
        "checkpointer_statistics",
        13..=16,
        "CREATE VIEW written AS SELECT buffers_backend FROM pg_stat_bgwriter;; \
         CREATE FUNCTION written() RETURNS bigint LANGUAGE sql AS 'SELECT buffers_checkpoint FROM pg_stat_bgwriter'",
    ),
    bad(
        "vacuum_progress",
        13..=16,
        "CREATE MATERIALIZED VIEW vacuums AS SELECT num_dead_tuples FROM pg_stat_progress_vacuum",
    ),
    bad("icu_locale_columns", 15..=16, "CREATE VIEW locales AS SELECT daticulocale FROM pg_database"),
    bad("functions_gone_17", 13..=16, "CREATE VIEW rotate AS SELECT pg_read_file_old('a', 0, 1)"),
    bad("wal_statistics", 14..=17, "CREATE VIEW wal AS SELECT wal_write FROM pg_stat_wal"),
    bad("columns_gone_18", 13..=17, "CREATE VIEW cached AS SELECT attcacheoff FROM pg_attribute"),
    bad(
        "subscription_statistics",
        15..=18,
        "CREATE VIEW failed AS SELECT sync_error_count FROM pg_stat_subscription_stats",
    ),
    bad(
        "mule_conversions",
        13..=18,
        "CREATE FUNCTION mic() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM latin1_to_mic(1); END'",
    ),
    bad("python2", 13..=14, "CREATE LANGUAGE plpython2u HANDLER plpgsql_call_handler"),
    bad("extensions_gone_17", 13..=16, "CREATE EXTENSION adminpack"),
    bad(
        "search_path_in_maintenance",
        13..=16,
        "CREATE FUNCTION fold(t text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower(t)';; \
         CREATE TABLE folded (t text PRIMARY KEY);; CREATE INDEX folded_t ON folded (fold(t))",
    ),
    bad(
        "unicode_update",
        17..=18,
        "CREATE TABLE letters (t text COLLATE pg_c_utf8 PRIMARY KEY, u text, CHECK (t = upper(t)), CHECK (u = upper(u)));; \
         CREATE INDEX folded_letters ON letters (lower(t));; CREATE INDEX matched_letters ON letters (u) WHERE t ~* 'x';; \
         CREATE INDEX normal_letters ON letters (normalize(u));; CREATE INDEX others ON letters (lower(u));; \
         CREATE INDEX ranges ON letters (lower(int4range(1, 2)));; CREATE INDEX plain_letters ON letters (t);; \
         CREATE TABLE split (t text COLLATE pg_c_utf8) PARTITION BY LIST (lower(t));; \
         CREATE MATERIALIZED VIEW initials AS SELECT initcap(t) FROM letters",
    ),
    bad("createrole", 13..=15, "CREATE ROLE maker CREATEROLE"),
    bad("md5_passwords", 13..=17, "SET password_encryption = 'md5';; CREATE ROLE old_login LOGIN PASSWORD 'x'"),
    bad(
        "extract_from_date",
        13..=13,
        "CREATE FUNCTION quarter(d date) RETURNS int LANGUAGE sql AS 'SELECT EXTRACT (quarter FROM d)::int'",
    ),
];

/// Names of the rules that a report tells of.
fn rules(report: &Report) -> BTreeSet<String> {
    let named = report.findings.iter().filter_map(|finding| finding.numbers.get("rule"));
    let in_files = report.findings.iter().filter(|finding| finding.id == "setting.not_carried");
    let in_files = in_files.filter_map(|finding| finding.numbers["rules"].as_array()).flatten();
    named.chain(in_files).filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

fn found_by<'a>(report: &'a Report, rule: &str) -> &'a Finding {
    report.findings.iter().find(|finding| finding.numbers.get("rule").is_some_and(|name| name == rule)).unwrap()
}

fn file() -> Vec<toml::Value> {
    let text = include_str!("../../src/preflight/rules/versions.toml");
    text.parse::<toml::Table>().unwrap()["rule"].as_array().unwrap().clone()
}

fn id(rule: &toml::Value) -> &str {
    rule["id"].as_str().unwrap()
}

#[test]
fn every_rule_is_made_to_find_something_on_a_real_server() {
    let text = include_str!("versions.rs");
    // defaults change whatever is done
    let rules = file();
    let unmade: Vec<_> = rules
        .iter()
        .filter(|rule| rule.get("default").is_none() && !text.contains(&format!("\"{}\"", id(rule))))
        .map(id)
        .collect();
    assert!(unmade.is_empty(), "no test makes these find anything: {unmade:#?}");
}

/// Every default that changes between the two is told of a source that leaves all of them alone.
async fn assert_defaults(report: &Report, bed: &Bed, major: u16) {
    let rows = bed.client("app").await.query("SELECT name FROM pg_settings", &[]).await.unwrap();
    let has: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let between = |rule: &&toml::Value| {
        let setting = rule.get("default").and_then(|default| default["setting"].as_str());
        setting.is_some_and(|setting| has.contains(setting))
            && rule["since"].as_integer().is_some_and(|since| since > major.into())
    };
    let rules = file();
    let expected: BTreeSet<_> = rules.iter().filter(between).map(id).collect();
    let told = &finding(report, "setting.default_changes").numbers["rules"];
    let told: BTreeSet<_> = told.as_array().unwrap().iter().filter_map(|rule| rule.as_str()).collect();
    assert_eq!(told, expected);
}

async fn rules_find_what_they_are_about(major: u16) {
    // the default of 18 on either side of it
    let options = InitOptions { auth: Auth::Trust, checksums: major.is_multiple_of(2), ..InitOptions::default() };
    let Some(bed) = Bed::start_with(major, options.clone()).await else { return };
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    bed.run("app", GOOD_TABLES).await;
    // no pooler runs: that is another finding
    let spec = bed.pooler("pgbouncer".into(), "pool");
    let wishes = Wishes { target: NEWEST, ..bed.wishes(&spec) };

    let report = wishes.check().await;
    assert!(!ids(&report).contains("check.unanswered"), "a rule's statement fails on {major}: {report:#?}");
    let always: BTreeSet<String> =
        if major < 18 && !options.checksums { ["data_checksums".to_owned()].into() } else { BTreeSet::new() };
    assert_eq!(rules(&report), always, "{report:#?}");
    assert_defaults(&report, &bed, major).await;

    let mut expected = always;
    for Bad { rule, sql, .. } in BAD.iter().filter(|bad| bad.majors.contains(&major)) {
        let client = bed.client("app").await;
        let mut made = Ok(());
        // one at a time: several statements at once would be a transaction, which CREATE DATABASE refuses
        for statement in sql.split(";; ") {
            made = made.and(client.batch_execute(statement).await);
        }
        match made {
            Ok(()) => drop(expected.insert((*rule).to_owned())),
            Err(error) => eprintln!("left out on {major}: {rule}: {error:?}"),
        }
    }
    if (15..18).contains(&major) {
        let icu = "CREATE DATABASE icu LOCALE_PROVIDER icu ICU_LOCALE 'und' TEMPLATE template0";
        match bed.client("app").await.batch_execute(icu).await {
            Ok(()) => {
                let made =
                    ["CREATE TABLE docs (a int PRIMARY KEY, v tsvector); CREATE INDEX docs_v ON docs USING gin (v)"];
                bed.run("icu", &made).await;
                expected.insert("text_search_collation".to_owned());
            }
            Err(error) => eprintln!("left out on {major}: text_search_collation: {error:?}"),
        }
    }
    let hba = bed.server.data_dir.join("pg_hba.conf");
    let mut text = String::from(
        "host all all 127.0.0.1/32 trust\nhost all all ::2/128 radius radiusservers=\"127.0.0.1\" radiussecrets=\"x\"\n",
    );
    expected.insert("hba_radius".to_owned());
    if major == 13 {
        text.push_str("hostssl all all ::1/128 cert clientcert=1\n");
        expected.insert("hba_clientcert".to_owned());
    }
    bed.server.account.write_file(&hba, text, 0o600).unwrap();
    let until = Instant::now() + LONG;
    // the server's processes read their files when they come to it
    while rules(&wishes.check().await) != expected && Instant::now() < until {}
    let report = wishes.check().await;
    assert_eq!(rules(&report), expected, "{report:#?}");
    if major == 13 {
        assert_says(&report, "version.object_refused", Blocker, &["database `app` has 1 ", "pg_upgrade refuses them"]);
        assert_says(&report, "version.object_changes", Warning, &["database `app` has"]);
        assert_says(&report, "version.object_differs", Note, &["database `app` has"]);
        assert_says(&report, "version.cluster_refused", Blocker, &["the source has"]);
        assert_says(&report, "version.cluster_differs", Note, &["the source has"]);
        assert_says(&report, "version.expression_fails", Blocker, &["database `app` has", "PostgreSQL 19 lacks"]);
        assert_says(&report, "version.body_fails", Warning, &["database `app`"]);
        let says =
            ["database `app` has 1 privilege changed on what PostgreSQL 19 lacks: `", "grant them on the target again"];
        assert_says(&report, "version.grant_fails", Blocker, &says);
        let changed = report.findings.iter().filter(|finding| finding.id == "version.grant_fails");
        let changed: BTreeSet<_> = changed.flat_map(|finding| &finding.objects).map(String::as_str).collect();
        let made = [
            "big5_to_utf8(integer,integer,cstring,internal,integer): no EXECUTE to PUBLIC",
            "json_strip_nulls(json): no EXECUTE to PUBLIC",
            "pg_database.datlastsysoid: SELECT to pg_monitor",
            "pg_get_publication_tables(text): EXECUTE to pg_monitor",
            "pg_logical_emit_message(boolean,text,text): EXECUTE to pg_monitor",
            "pg_replication_origin_session_setup(text): EXECUTE to pg_monitor",
            "pg_start_backup(text,boolean,boolean): EXECUTE to pg_monitor",
            "pg_terminate_backend(integer): EXECUTE to \"Ops\"",
        ];
        assert_eq!(changed, made.into());
        let made = [
            "1app.tenant (DATABASE app)",
            "app.tenant-id (ROLE ALL)",
            "my app.tenant (ROLE \"Tenant\" IN DATABASE app)",
            "my-app.tenant (ROLE \"Tenant\")",
        ];
        assert_eq!(found_by(&report, "custom_setting_names").objects, made);
        assert_eq!(found_by(&report, "custom_setting_names_of_functions").objects, ["public.audited() (my-app.audit)"]);
    }
    let made = [
        "function pg_catalog.mine(integer)",
        "operator pg_catalog.===(integer,integer)",
        "text search configuration pg_catalog.words",
        "type pg_catalog.small",
        "type pg_catalog.span",
    ];
    assert_eq!(found_by(&report, "objects_in_pg_catalog").objects, made);
    let told = |id| report.findings.iter().filter(move |finding| finding.id == id).flat_map(|finding| &finding.objects);
    let uses: Vec<_> = told("version.expression_fails").map(String::as_str).collect();
    let merged = "aggregate public.merged(jsonb) (jsonb_strip_nulls(jsonb))";
    let operator = "operator public.<<->(line,box) (dist_lb)";
    assert_eq!((uses.contains(&merged), uses.contains(&operator)), (major < 18, major < 15), "{uses:#?}");
    assert!(!uses.iter().any(|name| name.contains("joined") || name.contains("stripped")), "{uses:#?}");
    let made = ["public.kept_stats.s", "public.trees.g", "public.trees.n"];
    assert_eq!(found_by(&report, "types_without_input").objects, made);
    if major >= 17 {
        let made = [
            "constraint letters_t_check of public.letters",
            "index public.folded_letters",
            "index public.matched_letters",
            "index public.normal_letters",
            "materialized view public.initials",
            "partition key of public.split",
        ];
        assert_eq!(found_by(&report, "unicode_update").objects, made);
    }
    assert!(!ids(&report).contains("check.unanswered"), "{report:#?}");
    // every remedy that is a statement works
    let refused = ["version.object_refused", "version.grant_fails", "setting.refused"];
    let of_cluster = ["template0_connections", "custom_setting_names"];
    let by_sql = |finding: &&Finding| {
        let rule = finding.numbers.get("rule").and_then(|rule| rule.as_str());
        refused.contains(&finding.id) || rule.is_some_and(|rule| of_cluster.contains(&rule))
    };
    for finding in report.findings.iter().filter(by_sql) {
        let Some(remedy) = &finding.remedy else { continue };
        let client = bed.client("app").await;
        for line in remedy.lines() {
            client.batch_execute(line).await.unwrap_or_else(|error| panic!("{line}: {error:?}"));
        }
    }
    let report = wishes.check().await;
    let left = report.findings.iter().filter(by_sql).collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:#?}");
}

/// Where a query may be stored; bodies of functions are from 14 on.
#[tokio::test]
async fn queries_that_read_columns_the_target_lacks_are_found_wherever_they_are_stored() {
    for major in [13, 15] {
        let Some(bed) = Bed::start(major, Auth::Trust).await else { return };
        let wishes = Wishes { target: 18, ..bed.wishes(&bed.pooler("pgbouncer".into(), "pool")) };
        let made = [
            "CREATE TABLE t (a int PRIMARY KEY, n bigint); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY few ON t USING (n < (SELECT checkpoints_timed FROM pg_stat_bgwriter))",
            "CREATE POLICY clean ON t FOR INSERT WITH CHECK (n < (SELECT buffers_clean FROM pg_stat_bgwriter))",
            "CREATE RULE noted AS ON DELETE TO t DO ALSO INSERT INTO t SELECT 1, checkpoints_req FROM pg_stat_bgwriter",
            "CREATE RULE swept AS ON UPDATE TO t DO ALSO INSERT INTO t SELECT 1, buffers_clean FROM pg_stat_bgwriter",
            "CREATE MATERIALIZED VIEW kept AS SELECT buffers_backend FROM pg_stat_bgwriter",
            "CREATE VIEW sound AS SELECT buffers_clean FROM pg_stat_bgwriter",
        ];
        bed.run("postgres", &made).await;
        let bodies = [
            "CREATE FUNCTION written() RETURNS bigint RETURN (SELECT buffers_checkpoint FROM pg_stat_bgwriter)",
            "CREATE PROCEDURE note() BEGIN ATOMIC INSERT INTO t SELECT 1, checkpoints_req FROM pg_stat_bgwriter; END",
            "CREATE FUNCTION cleaned() RETURNS bigint RETURN (SELECT buffers_clean FROM pg_stat_bgwriter)",
        ];
        let mut expected = vec![
            "materialized view public.kept (pg_stat_bgwriter.buffers_backend)",
            "policy few of public.t (pg_stat_bgwriter.checkpoints_timed)",
            "rule of public.t (pg_stat_bgwriter.checkpoints_req)",
        ];
        if major > 13 {
            bed.run("postgres", &bodies).await;
            expected.insert(0, "function public.note() (pg_stat_bgwriter.checkpoints_req)");
            expected.insert(1, "function public.written() (pg_stat_bgwriter.buffers_checkpoint)");
        }
        let report = wishes.check().await;
        assert_eq!(finding(&report, "version.expression_fails").objects, expected, "{report:#?}");
        assert_silent(&report, "version.body_fails");
    }
}

fn wanted(major: u16) -> bool {
    let matrix = std::env::var_os("PGLEAP_TEST_MATRIX").is_some_and(|value| value == "1");
    if !matrix {
        eprintln!("skipped: {major} is asked when PGLEAP_TEST_MATRIX=1 is set");
    }
    matrix
}

#[tokio::test]
async fn rules_find_what_they_are_about_on_13_and_nothing_else() {
    rules_find_what_they_are_about(13).await;
}

#[tokio::test]
async fn rules_find_what_they_are_about_on_15_and_nothing_else() {
    rules_find_what_they_are_about(15).await;
}

#[tokio::test]
async fn rules_find_what_they_are_about_on_every_other_major() {
    for major in [14, 16, 17, 18] {
        if wanted(major) {
            rules_find_what_they_are_about(major).await;
        }
    }
}

/// What a major has, in the words of the rules: settings, functions, operators, and columns of system relations.
const HAS: &[(&str, &str)] = &[
    // what packagers add, and what nobody can set, is not the rules' matter
    (
        "settings",
        "SELECT name FROM pg_settings WHERE context <> 'internal' AND name NOT LIKE '%.%' \
            AND name NOT IN ('extension_destdir', 'output_plugin_libraries', 'lc_collate', 'lc_ctype')",
    ),
    (
        "functions",
        "SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace \
            AND proname NOT LIKE 'binary_upgrade%'",
    ),
    (
        "signatures",
        "SELECT replace(oid::regprocedure::text, '\"', '') FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace \
            AND proname NOT LIKE 'binary_upgrade%'",
    ),
    // those on arrays were made to take more than before: what uses them goes on
    (
        "operators",
        "SELECT oid::regoperator::text FROM pg_operator WHERE oid < 16384 AND oid::regoperator::text NOT LIKE '||(any%'",
    ),
    (
        "columns",
        "SELECT relname || '.' || attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid \
          WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped",
    ),
];

async fn has(major: u16) -> Option<Vec<BTreeSet<String>>> {
    let bed = Bed::start(major, Auth::Trust).await?;
    let client = bed.client("postgres").await;
    let mut all = Vec::new();
    for (_, sql) in HAS {
        let rows = client.query(*sql, &[]).await.unwrap();
        all.push(rows.iter().map(|row| row.get(0)).collect());
    }
    Some(all)
}

/// Nothing that a major lost is missing in the rules: the catalogs of each two majors are compared.
#[tokio::test]
async fn whatever_a_major_lost_is_in_the_rules() {
    if !wanted(13) {
        return;
    }
    let all = file();
    let mut before: Option<Vec<BTreeSet<String>>> = None;
    for major in 13..=NEWEST {
        let now = has(major).await;
        if let (Some(before), Some(now)) = (&before, &now) {
            for (((kind, _), before), now) in HAS.iter().zip(before).zip(now) {
                let of_major =
                    all.iter().filter(|rule| rule.get("since").and_then(toml::Value::as_integer) == Some(major.into()));
                // a function that is gone takes its signatures with it
                let kinds: &[&str] = if *kind == "signatures" { &["signatures", "functions"] } else { &[kind] };
                let named = of_major.flat_map(|rule| kinds.iter().filter_map(|kind| rule.get(*kind)?.as_array()));
                let named: BTreeSet<_> = named.flatten().map(|name| name.as_str().unwrap().to_owned()).collect();
                let is_named = |name: &str| {
                    let (function, arguments) = name.split_once('(').unwrap_or((name, ""));
                    let all = format!("*({arguments}");
                    named.contains(name) || *kind == "signatures" && (named.contains(function) || named.contains(&all))
                };
                let lost: BTreeSet<_> = before.difference(now).filter(|name| !is_named(name)).collect();
                assert!(lost.is_empty(), "{kind} that {major} does not have any more: {lost:?}");
            }
        }
        before = now;
    }
}
