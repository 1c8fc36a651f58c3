//! Zabbix: some 170 tables, with its own data and made-up history.

use super::{Scene, serious};

/// What a monitored network writes: values of items, and what became of them.
const HISTORY: &str = "
    INSERT INTO history SELECT i, 1700000000 + t * 60, sqrt(i * t), 0 FROM generate_series(1, 200) AS i, generate_series(1, 200) AS t;
    INSERT INTO history_uint SELECT i, 1700000000 + t * 60, i * t, 0 FROM generate_series(1, 200) AS i, generate_series(1, 100) AS t;
    INSERT INTO trends SELECT i, 1700000000 + t * 3600, 60, i, i + t / 2.0, i + t FROM generate_series(1, 200) AS i, generate_series(1, 24) AS t;
    INSERT INTO events (eventid, source, object, objectid, clock, name)
         SELECT e, 0, 0, e % 500, 1700000000 + e, 'problem ' || e FROM generate_series(1, 5000) AS e;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
    CREATE EXTENSION pg_stat_statements;
    ANALYZE";

/// What its front end asks.
const STATEMENTS: &str = "
    SELECT h.hostid, h.host, count(*) FROM hosts AS h JOIN items AS i USING (hostid) WHERE h.status = 3 GROUP BY 1, 2;
    SELECT clock, value FROM history WHERE itemid = 17 AND clock > 1700000000 ORDER BY clock DESC LIMIT 100;
    SELECT DISTINCT t.triggerid, t.description FROM triggers AS t JOIN functions AS f USING (triggerid)
      JOIN items AS i USING (itemid) WHERE i.hostid = 10001 AND t.status = 0;
    SELECT itemid, avg(value_avg) FROM trends WHERE clock BETWEEN 1700000000 AND 1700080000 GROUP BY itemid;
    UPDATE items SET history = '30d' WHERE itemid = 22000;
    SELECT e.eventid, e.name FROM events AS e WHERE e.source = 0 AND e.object = 0 AND e.objectid = 42 ORDER BY e.eventid DESC";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zabbix_is_checked_planned_and_rehearsed() {
    let Some(scene) = Scene::set("zabbix", &[]).await else { return };
    scene.load(&["schema.sql", "images.sql", "data.sql"], "").await;
    scene.sql(HISTORY).await;
    scene.sql(STATEMENTS).await;
    assert_eq!(serious(&scene.check(0).await), [""; 0], "every table of it has a key");
    scene.plan().await;
    let twin = scene.twin(&[], 0).await;
    assert!(twin["indexes"]["all"].as_u64() > Some(300), "{twin:#}");
    let explained = twin["same"].as_u64().unwrap() + twin["changed"].as_array().unwrap().len() as u64;
    assert!(explained >= 6 && !twin["unexplained"].to_string().contains("FROM history"), "{twin:#}");
    scene.end().await;
}
