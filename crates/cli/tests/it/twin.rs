//! `pgleap rehearse --twin` against a real source: what it tells, and that it leaves nothing behind.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
};

#[cfg(feature = "faults")]
use pgleap_local::StopMode;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::scene::{DATABASE, Scene, connect};

/// Not every installation of 18 brings the contributed modules that are looked at.
const TO: u16 = 17;
#[cfg(feature = "faults")]
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

async fn set(name: &str, from: u16) -> Scene {
    let scene = Scene::set(name, |spec| {
        (spec.from, spec.to) = (from, TO);
        spec.source_settings =
            vec![("fsync".into(), "off".into()), ("shared_preload_libraries".into(), "pg_stat_statements".into())];
    })
    .await;
    sql(&scene, "CREATE EXTENSION pg_stat_statements; CREATE INDEX history_tid ON pgbench_history (tid, aid)").await;
    scene
}

async fn sql(scene: &Scene, sql: &str) {
    let client = connect(scene.lab.directly(scene.lab.source_port, DATABASE)).await;
    client.batch_execute(sql).await.unwrap();
}

/// Statistics that ANALYZE makes again, those of tables that were emptied, and those that it does not make again: of a foreign
/// table, and of what it is to leave out by now.
const ANALYZED: &str = "
    CREATE TABLE \"Parts\" (a int, b int, c int) PARTITION BY RANGE (a);
    CREATE TABLE parts_low PARTITION OF \"Parts\" FOR VALUES FROM (0) TO (500);
    CREATE TABLE parts_high PARTITION OF \"Parts\" FOR VALUES FROM (500) TO (1000);
    CREATE STATISTICS parts_ab ON a, b FROM \"Parts\";
    CREATE TABLE orders (a int, b int, c int);
    CREATE INDEX orders_ab ON orders ((a + b));
    CREATE STATISTICS orders_bc (dependencies) ON b, c FROM orders;
    CREATE TABLE emptied (a int, b int);
    CREATE STATISTICS emptied_ab ON a, b FROM emptied;
    CREATE TABLE ancestor (a int);
    CREATE TABLE descendant () INHERITS (ancestor);
    INSERT INTO \"Parts\" SELECT n, n / 10, n FROM generate_series(0, 999) AS n;
    INSERT INTO orders SELECT n, n / 10, n / 10 FROM generate_series(0, 999) AS n;
    INSERT INTO emptied SELECT n, n FROM generate_series(0, 99) AS n;
    INSERT INTO descendant SELECT n FROM generate_series(0, 99) AS n;
    CREATE EXTENSION file_fdw;
    CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
    CREATE FOREIGN TABLE accounts (line text) SERVER files OPTIONS (filename '/etc/passwd');
    CREATE TABLE spread (line text, k int) PARTITION BY LIST (k);
    CREATE FOREIGN TABLE spread_far PARTITION OF spread FOR VALUES IN (1) SERVER files OPTIONS (filename '/gone');
    CREATE TABLE elder (line text);
    CREATE FOREIGN TABLE elder_far () INHERITS (elder) SERVER files OPTIONS (filename '/gone');
    ANALYZE \"Parts\", orders, emptied, ancestor, accounts;
    TRUNCATE emptied, descendant;
    ALTER TABLE orders ALTER c SET STATISTICS 0;
    ALTER INDEX orders_ab ALTER COLUMN 1 SET STATISTICS 0;
    ALTER TABLE ONLY \"Parts\" ALTER c SET STATISTICS 0";

/// Everything on the source that a rehearsal could leave.
async fn traces(scene: &Scene) -> Vec<String> {
    let client = connect(scene.lab.directly(scene.lab.source_port, DATABASE)).await;
    let sql = "SELECT slot_name::text FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication
               UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'pgleap'";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Returns the rehearsal, whose output is read and not logged.
fn rehearse(scene: &Scene, more: &[&str]) -> Command {
    let mut command = scene.command(&[&["rehearse", "--twin"], more].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn twins(scene: &Scene) -> Vec<PathBuf> {
    let places = ["w.twin", "target.twin", "v.twin", "elsewhere.twin"].map(|name| scene.dir().join(name));
    places.into_iter().filter(|path| path.exists()).collect()
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let json: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    json["twin"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_tells_what_the_upgrade_does_to_plans_indexes_and_schemas_and_is_gone_afterwards() {
    let scene = set("twin", 15).await;
    sql(&scene, "SELECT count(*) FROM pgbench_accounts WHERE aid = 17").await;
    sql(&scene, ANALYZED).await;
    // it keeps the extension from being updated, which drops its own view
    sql(&scene, "CREATE VIEW heaviest AS SELECT queryid, calls FROM pg_stat_statements").await;
    let output = rehearse(&scene, &["--format", "json"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let twin = report(&output);
    let stages: Vec<_> =
        twin["stages"].as_array().unwrap().iter().map(|stage| stage["step"].as_str().unwrap()).collect();
    for step in ["provision.base_backup", "provision.upgrade_copy", "replicate.analyze", "twin.restore_schema"] {
        assert!(stages.contains(&step), "{stages:?}");
    }
    assert!(twin["same"].as_u64().unwrap() > 0, "{twin:#}");
    assert!(!twin["unexplained"].to_string().contains("WHERE aid = $1"), "{twin:#}");
    assert_eq!(twin["broken"].as_array().unwrap().len(), 0, "{twin:#}");
    assert_eq!(twin["indexes"]["checked"], twin["indexes"]["all"]);
    let stay = twin["stay"].to_string();
    assert!(stay.contains("extension `pg_stat_statements`") && stay.contains("stays at 1.10: "), "{twin:#}");
    assert!(twin["indexes"]["all"].as_u64().unwrap() > 3);
    assert_eq!(twin["restore"].as_array().unwrap().len(), 0, "{twin:#}");
    let lacking = |table: &str, what: &[&str]| json!({"database": DATABASE, "table": table, "statistics": what});
    let missing = [
        lacking("public.\"Parts\"", &["inherited: c"]),
        lacking("public.accounts", &["columns: line"]),
        lacking("public.orders", &["columns: c", "extended: public.orders_bc", "index orders_ab: expr"]),
    ];
    assert_eq!(twin["statistics"], json!(missing));
    assert_eq!(traces(&scene).await, Vec::<String>::new());
    assert_eq!(twins(&scene), Vec::<PathBuf>::new());

    // what fails is told: a column that 17 took away, and what never was
    let config = std::fs::read_to_string(scene.lab.config_path()).unwrap();
    let state: PathBuf =
        config.lines().find_map(|line| line.strip_prefix("state_dir = ")).unwrap().trim_matches('"').into();
    let history = std::fs::read_to_string(scene.dir().join(state).join("history.jsonl")).unwrap();
    let measured: Value = serde_json::from_str(history.trim()).unwrap();
    assert!(measured["upgrade_base_s"].as_f64() > Some(0.1), "the next plan knows what pg_upgrade takes: {measured}");
    let file = scene.dir().join("statements.sql");
    let text = "SELECT buffers_checkpoint FROM pg_stat_bgwriter;\nSELECT * FROM no_such_table WHERE a = $1;\n\
                SELECT aid FROM pgbench_history WHERE tid = $1;\nUPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2;\n\
                SELECT count(DISTINCT tid) FROM pgbench_history;\n";
    std::fs::write(&file, text).unwrap();
    let more = &["--statements", file.to_str().unwrap(), "--amcheck-seconds", "0", "--format", "json"];
    let output = rehearse(&scene, more).output().await.unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    let twin = report(&output);
    assert!(twin["broken"][0]["why"].as_str().unwrap().contains("buffers_checkpoint"), "{twin:#}");
    assert!(twin["unexplained"][0]["why"].as_str().unwrap().contains("no_such_table"), "{twin:#}");
    assert_eq!(twin["same"].as_u64().unwrap() + twin["changed"].as_array().unwrap().len() as u64, 3);
    // from 16 on its rows come sorted
    let distinct = twin["changed"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["statement"]["text"].to_string().contains("DISTINCT"));
    assert_eq!(distinct.unwrap()["how"]["shape"], true, "{twin:#}");
    assert_eq!(twin["indexes"]["checked"], 0);

    // a database that the new major refuses: the source has nothing to do with what pg_upgrade says
    sql(&scene, "CREATE TABLE odd (a regproc)").await;
    let output = rehearse(&scene, &[]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("pg_upgrade --check refuses this upgrade") && told.contains("odd"), "{told}");
    assert!(told.contains("state: the source was read, and not changed; the twin is removed"), "{told}");
    assert!(told.contains("then `pgleap rehearse --twin` makes another") && !told.contains("pgleap run"), "{told}");
    assert_eq!(twins(&scene), Vec::<PathBuf>::new());
    assert_eq!(traces(&scene).await, Vec::<String>::new());
    scene.lab.destroy().await.unwrap();
}

/// pg_dump locks every table of a database in one transaction: more than these settings have room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_of_many_tables_has_room_for_all_their_locks() {
    let scene = Scene::set("twinm", |spec| {
        (spec.from, spec.to, spec.empty) = (16, 18, true);
        spec.source_settings = [
            ("fsync", "off"),
            ("max_connections", "30"),
            ("max_locks_per_transaction", "10"),
            ("max_worker_processes", "8"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    })
    .await;
    for schema in 0..80 {
        let tables = format!(
            "CREATE SCHEMA s{schema}; DO $$ BEGIN FOR n IN 1..50 LOOP
             EXECUTE format('CREATE TABLE s{schema}.t%s (a int)', n); END LOOP; END $$"
        );
        sql(&scene, &tables).await;
    }
    let output = rehearse(&scene, &[]).output().await.unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("dumped and restored"), "{told}");
    scene.lab.destroy().await.unwrap();
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_whose_maker_was_killed_is_taken_away_by_the_next() {
    let scene = set("twink", 13).await;
    let mut killed = rehearse(&scene, &[]);
    killed.env("PGLEAP_FAULT", "kill:provision.start_target.after_run");
    let output = killed.output().await.unwrap();
    assert_eq!(output.status.code(), None, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(twins(&scene).len(), 2, "it was killed with a twin that runs");
    // the places of then count, not those that somebody wrote since
    let config = scene.lab.config_text();
    let moved = config.replace("/target\"", "/elsewhere\"").replace("/w\"", "/v\"");
    assert_ne!(config, moved);
    scene.configure(&moved);
    // whether the source answers or not
    scene.lab.source.stop(StopMode::Fast, LONG).await.unwrap();
    let output = rehearse(&scene, &[]).output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("taking away the twin that an interrupted rehearsal left"), "{told}");
    assert_eq!(twins(&scene), Vec::<PathBuf>::new());
    scene.lab.source.start(&[], LONG).await.unwrap();
    let output = rehearse(&scene, &[]).output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(!told.contains("taking away"), "{told}");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(twins(&scene), Vec::<PathBuf>::new());
    assert_eq!(traces(&scene).await, Vec::<String>::new());
    scene.lab.destroy().await.unwrap();
}
