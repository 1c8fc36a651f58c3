//! The standard scenario over further pairs of majors; `make test-matrix` asks for them.

use pgleap_lab::LabSpec;
use pgleap_upgrade::provision::{RebuildIndexes, UpdateExtensions};

use tokio_postgres::Config;

use crate::{
    bed::{Bed, ask, client, end, guard, output, small, until},
    rig::{Rig, assert_done, directory},
};

/// Whether both majors are here and this run wants the pair; says a word if not.
fn wanted(from: u16, to: u16) -> bool {
    if std::env::var_os("PGLEAP_TEST_MATRIX").is_none_or(|value| value != "1") {
        eprintln!("skipped: {from} to {to} runs when PGLEAP_TEST_MATRIX=1 is set");
        return false;
    }
    can_be_had(from) && can_be_had(to)
}

pub fn can_be_had(major: u16) -> bool {
    let found = pgleap_local::find(major, &[]);
    if let Err(error) = &found {
        eprintln!("skipped: {error}");
    }
    found.is_ok()
}

async fn standard(from: u16, to: u16) {
    if !wanted(from, to) {
        return;
    }
    let rig = Rig::start(LabSpec::new(from, to, directory(&format!("{from}-{to}")))).await;
    let _guard = guard(&rig.lab);
    assert_done(rig.chain().run().await);
    assert_done(rig.chain().switchover().await);
    assert_done(rig.chain().rollback().await);
    assert_done(rig.chain().switchover().await);
    assert_done(rig.chain().finalize().await);
    let port = rig.lab.target_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    let version = ask(&lab.directly(port, "shop"), "SHOW server_version_num").await.remove(0);
    assert!(version.starts_with(&to.to_string()), "{version}");
    end(lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_14_to_16_keeps_every_write() {
    standard(14, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_16_to_18_keeps_every_write() {
    standard(16, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_13_to_17_keeps_every_write() {
    standard(13, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_17_to_18_keeps_every_write() {
    standard(17, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_18_to_19_keeps_every_write() {
    standard(18, 19).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extensions_get_the_version_of_the_new_major() {
    const NAME: &str = "pg_stat_statements";
    const VERSION: &str = "SELECT extversion FROM pg_extension WHERE extname = 'pg_stat_statements'";
    if !(can_be_had(15) && can_be_had(17)) {
        return;
    }
    let mut spec = small(15, 17, "ext");
    spec.source_settings.push(("shared_preload_libraries".into(), NAME.into()));
    let bed = Bed::start(spec).await;
    let _guard = guard(&bed.lab);
    let shop = client(&bed.lab.directly(bed.lab.source_port, "shop")).await;
    shop.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    assert_done(bed.chain().run().await);
    let target = bed.lab.directly(bed.lab.target_port, "shop");
    let old = ask(&bed.lab.directly(bed.lab.source_port, "shop"), VERSION).await.remove(0);
    let new = ask(&target, VERSION).await.remove(0);
    assert_ne!(old, new, "a pair of majors with the same version of it proves nothing");
    let newest = "SELECT default_version FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
    assert_eq!(ask(&target, newest).await, std::slice::from_ref(&new));
    assert_eq!(output::<UpdateExtensions>(&bed.world, &bed.journal), [format!("shop.{NAME} {old} {new}")]);
    assert_ne!(ask(&target, "SELECT count(*) FROM pg_stat_statements").await, ["0"], "its library is not loaded");
    end(bed.lab).await;
}

/// What a new ICU does to an index: it is sorted by an order that its collation has no more, and the version that is remembered is
/// another. By such an index nine of ten rows are not found.
const RESORTED: &str = "
    CREATE COLLATION up (provider = icu, locale = 'und-u-kn-true'); CREATE COLLATION down (provider = icu, locale = 'und');
    CREATE TABLE sorted (t text COLLATE up PRIMARY KEY, n int NOT NULL DEFAULT 0);
    CREATE TABLE steady (t text PRIMARY KEY);
    CREATE TABLE ranged (t text COLLATE down PRIMARY KEY) PARTITION BY RANGE (t);
    CREATE TABLE ranged_1 PARTITION OF ranged FOR VALUES FROM ('a') TO ('n');
    INSERT INTO sorted SELECT n FROM generate_series(1, 3000) AS n;
    UPDATE pg_index SET indcollation = (SELECT oid::text::oidvector FROM pg_collation WHERE collname = 'down')
     WHERE indexrelid = 'sorted_pkey'::regclass;
    UPDATE pg_attribute SET attcollation = (SELECT oid FROM pg_collation WHERE collname = 'down')
     WHERE attrelid IN ('sorted'::regclass, 'sorted_pkey'::regclass) AND attname = 't';
    UPDATE pg_depend SET refobjid = (SELECT oid FROM pg_collation WHERE collname = 'down')
     WHERE refobjid = (SELECT oid FROM pg_collation WHERE collname = 'up') AND refclassid = 'pg_collation'::regclass;
    UPDATE pg_collation SET collversion = '0.0' WHERE collname = 'down'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_that_the_target_sorts_otherwise_are_rebuilt_before_changes_are_applied_by_them() {
    const BY_INDEX: &str =
        "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off;
         SELECT count(*)::text FROM generate_series(1, 3000) AS g, LATERAL
         (SELECT FROM sorted WHERE t = g::text) AS s";
    if !(can_be_had(15) && can_be_had(17)) {
        return;
    }
    let bed = Bed::start(small(15, 17, "sorted")).await;
    let _guard = guard(&bed.lab);
    let source = bed.lab.directly(bed.lab.source_port, "shop");
    let shop = client(&source).await;
    if shop.batch_execute("CREATE COLLATION tried (provider = icu, locale = 'und')").await.is_err() {
        eprintln!("skipped: PostgreSQL 15 is built without ICU");
        return end(bed.lab).await;
    }
    shop.batch_execute(RESORTED).await.unwrap();
    let missed = by_index(&source, BY_INDEX).await;
    assert!(missed < 3000, "a sound index proves nothing: {missed}");
    assert_done(bed.chain().run().await);
    let rebuilt = output::<RebuildIndexes>(&bed.world, &bed.journal);
    assert!(rebuilt.contains(&"shop.public.sorted_pkey".to_owned()), "{rebuilt:?}");
    assert!(!rebuilt.contains(&"shop.public.steady_pkey".to_owned()), "both have one libc: {rebuilt:?}");
    let warned = bed.journal.records(0).unwrap().iter().any(|record| {
        record.body["text"]
            .as_str()
            .is_some_and(|text| text.contains("table `public.ranged` of database `shop` is partitioned"))
    });
    assert!(warned, "rows of partitions stay where they are");
    let target = bed.lab.directly(bed.lab.target_port, "shop");
    assert_eq!(by_index(&target, BY_INDEX).await, 3000);
    let remembered =
        "SELECT (collversion = pg_collation_actual_version(oid))::text FROM pg_collation WHERE collname = 'down'";
    assert_eq!(ask(&target, remembered).await, ["true"]);
    // every change that is applied finds its row
    shop.batch_execute("SET enable_indexscan = off; SET enable_bitmapscan = off; UPDATE sorted SET n = 1")
        .await
        .unwrap();
    until("every row to be changed", async || {
        (ask(&target, "SELECT sum(n)::text FROM sorted").await == ["3000"]).then_some(())
    })
    .await;
    end(bed.lab).await;
}

async fn by_index(config: &Config, sql: &str) -> u64 {
    let answer = client(config).await.simple_query(sql).await.unwrap();
    let count = answer.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    count.unwrap()
}
