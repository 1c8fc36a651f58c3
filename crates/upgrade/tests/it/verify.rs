//! How tables are compared, against what the servers say themselves.

use pgleap_saga::Cx;
use pgleap_upgrade::{
    pg::Side,
    provision::PrepareDatabases,
    verify::{
        converge::compare_all,
        fingerprint::{Method, tables},
    },
};

use crate::{
    bed::{Bed, ask, client, end, guard, output, small, until},
    rig::assert_done,
};

/// A table for each type that a column can have, its arrays and ranges too, and some made of them; each has one empty row.
const TABLE_OF_EACH_TYPE: &str = r#"
    CREATE TYPE plain_pair AS (a int, b text);
    CREATE TYPE odd_pair AS (a int, b json);
    CREATE TYPE weather AS ENUM ('calm');
    CREATE TYPE of_times AS RANGE (subtype = time);
    CREATE DOMAIN odd_domain AS odd_pair[];
    CREATE DOMAIN plain_domain AS plain_pair[];
    CREATE SCHEMA one;
    DO $$
    DECLARE t record;
    BEGIN
        FOR t IN SELECT oid, format_type(oid, NULL) AS name FROM pg_type
                  WHERE typtype <> 'p' AND typisdefined AND typname !~ '^_?(any|cstring)'
                    AND oid NOT IN (SELECT reltype FROM pg_class WHERE relkind <> 'c')
                    AND typelem NOT IN (SELECT reltype FROM pg_class WHERE relkind <> 'c' AND reltype <> 0)
        LOOP
            EXECUTE format('CREATE TABLE one.%I (x %s)', 't' || t.oid, t.name);
            EXECUTE format('INSERT INTO one.%I VALUES (NULL)', 't' || t.oid);
        END LOOP;
    END $$;
    CREATE PUBLICATION all_types FOR ALL TABLES;
    CREATE FUNCTION one.hashes (what name) RETURNS bool LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format('SELECT hash_record_extended(ROW(t.x), 0) FROM one.%I AS t', what);
        RETURN true;
    EXCEPTION WHEN undefined_function THEN
        RETURN false;
    END $$"#;

async fn method_of_each_type(major: u16) {
    let bed = Bed::start(small(major, 18, &format!("types{major}"))).await;
    let _guard = guard(&bed.lab);
    let config = bed.lab.directly(bed.lab.source_port, "shop");
    client(&config).await.batch_execute(TABLE_OF_EACH_TYPE).await.unwrap();
    let session = bed.world.source.db("shop").await.unwrap();
    let mut foretold = tables(&session, &session, "all_types").await.unwrap();
    foretold.retain(|table| table.schema == "one");
    assert!(foretold.len() > 100, "{} types", foretold.len());
    let sql = "SELECT concat_ws(' ', relname, one.hashes(relname), format_type(substr(relname, 2)::oid, NULL))
                 FROM pg_class WHERE relnamespace = 'one'::regnamespace AND relkind = 'r'";
    let told = ask(&config, sql).await;
    assert_eq!(told.len(), foretold.len());
    let (mut records, mut texts) = (0, 0);
    for table in foretold {
        let count = if table.method == Method::Record { &mut records } else { &mut texts };
        *count += 1;
        let start = format!("{} {} ", table.name, if table.method == Method::Record { "t" } else { "f" });
        let answer = told.iter().find(|line| line.starts_with(&format!("{} ", table.name))).unwrap();
        assert!(answer.starts_with(&start), "major {major}, foretold {:?}: {answer}", table.method);
    }
    assert!(records > 50 && texts > 10, "{records} by record, {texts} by text");
    end(bed.lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_hashed_as_records_just_where_the_server_can() {
    for major in [15, 18] {
        method_of_each_type(major).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comparison_that_is_given_up_leaves_no_statement_on_the_servers() {
    const OPEN: &str = "SELECT query FROM pg_stat_activity WHERE application_name LIKE 'pgleap%' AND state = 'active'
                         AND wait_event_type = 'Lock' AND backend_type = 'client backend'";
    let bed = Bed::start(small(15, 18, "givenup")).await;
    let _guard = guard(&bed.lab);
    let source = bed.lab.directly(bed.lab.source_port, "shop");
    assert_done(bed.chain().run().await);
    let databases = output::<PrepareDatabases>(&bed.world, &bed.journal).databases;
    // a statement that has begun, and does not end
    let busy = client(&source).await;
    busy.batch_execute("BEGIN; LOCK TABLE pgbench_accounts").await.unwrap();
    let cx = Cx::standalone(&bed.world, &bed.journal);
    let begun = until("a comparison of the table", async || ask(&source, OPEN).await.pop());
    tokio::select! {
        compared = compare_all(&cx, Side::Source, &databases) => panic!("{compared:?}"),
        _ = begun => {}
    }
    until("its end", async || ask(&source, OPEN).await.is_empty().then_some(())).await;
    let log = std::fs::read_to_string(&bed.lab.source.log).unwrap();
    let ended: Vec<_> = log.lines().filter(|line| line.contains("canceling statement due to")).collect();
    assert!(ended.last().is_some_and(|line| line.contains("user request")), "not by its own timeout: {ended:#?}");
    end(bed.lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tables_are_compared_in_few_sessions() {
    const TABLES: &str = "DO $$ BEGIN
        FOR n IN 1..150 LOOP
            EXECUTE format('CREATE TABLE many_%s (id int PRIMARY KEY, t text)', n);
            EXECUTE format('INSERT INTO many_%s SELECT i, i FROM generate_series(1, %s) AS i', n, n);
        END LOOP; END $$";
    const SESSIONS: &str = "SELECT sessions::text FROM pg_stat_database WHERE datname = 'shop'";
    let bed = Bed::start(small(15, 18, "many")).await;
    let _guard = guard(&bed.lab);
    let source = bed.lab.directly(bed.lab.source_port, "shop");
    client(&source).await.batch_execute(TABLES).await.unwrap();
    assert_done(bed.chain().run().await);
    let databases = output::<PrepareDatabases>(&bed.world, &bed.journal).databases;
    let sessions = async || ask(&source, SESSIONS).await[0].parse::<u32>().unwrap();
    let before = sessions().await;
    let cx = Cx::standalone(&bed.world, &bed.journal);
    let comparison = compare_all(&cx, Side::Source, &databases).await.unwrap();
    let opened = sessions().await - before;
    let (equal, moving) = comparison.counts();
    assert!(equal > 150 && moving == 0, "{equal} equal, {moving} moving");
    assert!(opened < 20, "{opened} sessions for {equal} tables");

    // each of those that are looked at together is judged by itself
    let target = client(&bed.lab.directly(bed.lab.target_port, "shop")).await;
    target
        .batch_execute("UPDATE many_3 SET t = 'other' WHERE id = 2; DELETE FROM many_70 WHERE id > 60")
        .await
        .unwrap();
    let comparison = compare_all(&cx, Side::Source, &databases).await.unwrap();
    let different: Vec<_> = comparison.different().iter().map(|table| table.table.as_str()).collect();
    assert_eq!(different, ["public.many_3", "public.many_70"]);
    end(bed.lab).await;
}
