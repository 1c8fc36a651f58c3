//! MusicBrainz: some 370 tables in ten schemas, functions and triggers, collations of ICU, extensions.

use std::time::Duration;

use pgleap_canary::{Canary, CanaryConfig, audit};
use pgleap_lab::Application;

use super::{Scene, serious};

/// Its schemas, besides the one that extensions are in.
const SCHEMAS: &str = "
    CREATE SCHEMA musicbrainz; CREATE SCHEMA cover_art_archive; CREATE SCHEMA event_art_archive; CREATE SCHEMA documentation;
    CREATE SCHEMA json_dump; CREATE SCHEMA report; CREATE SCHEMA sitemaps; CREATE SCHEMA statistics; CREATE SCHEMA wikidocs";

/// In the order in which MusicBrainz's own installer runs them.
const FILES: &[&str] = &[
    "Extensions.sql",
    "CreateCollations.sql",
    "CreateSearchConfiguration.sql",
    "CreateTypes.sql",
    "CreateTables.sql",
    "caa/CreateTables.sql",
    "eaa/CreateTables.sql",
    "documentation/CreateTables.sql",
    "json_dump/CreateTables.sql",
    "report/CreateTables.sql",
    "sitemaps/CreateTables.sql",
    "statistics/CreateTables.sql",
    "wikidocs/CreateTables.sql",
    "CreatePrimaryKeys.sql",
    "caa/CreatePrimaryKeys.sql",
    "eaa/CreatePrimaryKeys.sql",
    "documentation/CreatePrimaryKeys.sql",
    "statistics/CreatePrimaryKeys.sql",
    "wikidocs/CreatePrimaryKeys.sql",
    "CreateFunctions.sql",
    "caa/CreateFunctions.sql",
    "eaa/CreateFunctions.sql",
    "CreateIndexes.sql",
    "caa/CreateIndexes.sql",
    "eaa/CreateIndexes.sql",
    "json_dump/CreateIndexes.sql",
    "sitemaps/CreateIndexes.sql",
    "statistics/CreateIndexes.sql",
    "CreateFKConstraints.sql",
    "caa/CreateFKConstraints.sql",
    "eaa/CreateFKConstraints.sql",
    "documentation/CreateFKConstraints.sql",
    "sitemaps/CreateFKConstraints.sql",
    "CreateConstraints.sql",
    "SetSequences.sql",
    "caa/SetSequences.sql",
    "eaa/SetSequences.sql",
    "documentation/SetSequences.sql",
    "statistics/SetSequences.sql",
    "CreateViews.sql",
    "caa/CreateViews.sql",
    "eaa/CreateViews.sql",
    "CreateTriggers.sql",
    "caa/CreateTriggers.sql",
    "eaa/CreateTriggers.sql",
    "CreateSearchIndexes.sql",
    "InsertDefaultRows.sql",
];

/// A small catalog of music, entered as its editors would: triggers fill further tables.
const CATALOG: &str = "
    SET search_path = musicbrainz, public;
    INSERT INTO artist (gid, name, sort_name) SELECT gen_random_uuid(), 'Artist ' || i, i || ', Artist' FROM generate_series(1, 1000) AS i;
    INSERT INTO artist_credit (gid, name, artist_count) SELECT gen_random_uuid(), 'Artist ' || i, 1 FROM generate_series(1, 1000) AS i;
    INSERT INTO artist_credit_name (artist_credit, position, artist, name)
         SELECT c.id, 0, a.id, a.name FROM artist_credit AS c JOIN artist AS a USING (name);
    INSERT INTO release_group (gid, name, artist_credit)
         SELECT gen_random_uuid(), 'Album ' || i, (SELECT min(id) FROM artist_credit) + i FROM generate_series(1, 500) AS i;
    INSERT INTO release (gid, name, artist_credit, release_group) SELECT gen_random_uuid(), name, artist_credit, id FROM release_group;
    INSERT INTO medium (gid, release, position) SELECT gen_random_uuid(), id, 1 FROM release;
    INSERT INTO recording (gid, name, artist_credit, length)
         SELECT gen_random_uuid(), 'Song ' || i, (SELECT min(id) FROM artist_credit) + i % 900, 1000 + i FROM generate_series(1, 5000) AS i;
    INSERT INTO track (gid, recording, medium, position, number, name, artist_credit, length)
         SELECT gen_random_uuid(), id, (SELECT min(id) FROM medium) + n / 10, n % 10 + 1, n % 10 + 1, name, artist_credit, length
           FROM (SELECT r.*, row_number() OVER (ORDER BY id) - 1 AS n FROM recording AS r) AS numbered;
    ALTER DATABASE musicbrainz SET search_path = musicbrainz, public;
    CREATE EXTENSION pg_stat_statements SCHEMA public;
    DO $$ DECLARE s text; BEGIN
        FOR s IN SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)' LOOP
            EXECUTE format('GRANT USAGE ON SCHEMA %1$s TO app; GRANT ALL ON ALL TABLES IN SCHEMA %1$s TO app;
                            GRANT ALL ON ALL SEQUENCES IN SCHEMA %1$s TO app', s);
        END LOOP; END $$;
    ANALYZE;
    SELECT pg_stat_statements_reset()";

/// What its site asks.
const STATEMENTS: &str = "
    SELECT r.gid, r.name FROM recording AS r JOIN artist_credit_name AS n USING (artist_credit) WHERE n.artist = 17 ORDER BY r.name COLLATE musicbrainz;
    SELECT t.position, t.name, t.length FROM track AS t JOIN medium AS m ON m.id = t.medium JOIN release AS r ON r.id = m.release
     WHERE r.gid = '89ad4ac3-39f7-470e-963a-56509c546377' ORDER BY m.position, t.position;
    SELECT id, name FROM artist WHERE lower(musicbrainz_unaccent(name)) = lower(musicbrainz_unaccent('Artist 7'));
    SELECT g.id, count(*) FROM release_group AS g JOIN release AS r ON r.release_group = g.id GROUP BY g.id HAVING count(*) > 1;
    UPDATE recording SET length = length + 1 WHERE id = 4711";

/// One edit.
fn edit(n: u32) -> String {
    format!(
        "INSERT INTO artist (gid, name, sort_name) VALUES (gen_random_uuid(), 'New artist {n}', 'New artist {n}');
         UPDATE recording SET length = length + 1 WHERE id = (SELECT min(id) + {n} % 4000 FROM recording);
         DELETE FROM track WHERE id = (SELECT min(id) FROM track);
         INSERT INTO report.index (report_name, generated_at) VALUES ('report {n}', now()) ON CONFLICT DO NOTHING"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn musicbrainz_is_checked_planned_rehearsed_and_upgraded_while_it_is_edited() {
    let Some(scene) = Scene::set("musicbrainz", &[]).await else { return };
    scene.sql(SCHEMAS).await;
    scene.load(FILES, "-c search_path=musicbrainz,public -c client_min_messages=error").await;
    scene.sql(CATALOG).await;
    scene.sql(STATEMENTS).await;

    let found = scene.check(3).await;
    let older = "note extension.older";
    let maintenance = "warning version.object_changes search_path_in_maintenance";
    assert_eq!(serious(&found), ["blocker replica_identity.missing", maintenance], "{found:#?}");
    assert!(found[older].contains("earthdistance 1.1 → 1.2"), "{found:#?}");
    assert!(found[maintenance].contains("musicbrainz.mb_simple_tsvector(text)"), "it is in indexes: {found:#?}");
    let without = &found["blocker replica_identity.missing"];
    assert!(without.contains("musicbrainz.old_editor_name") && without.contains("json_dump.control"), "{without:?}");
    assert_eq!(scene.pgleap(&["check", "--fix", "replica_identity.missing"]).await.status.code(), Some(0));
    assert!(!scene.check(0).await.contains_key("blocker replica_identity.missing"));

    scene.plan().await;
    let twin = scene.twin(&[], 0).await;
    assert!(twin["indexes"]["all"].as_u64() > Some(700), "{twin:#}");
    let explained = twin["same"].as_u64().unwrap() + twin["changed"].as_array().unwrap().len() as u64;
    assert!(explained > 5, "{twin:#}");
    // also `SELECT … regdictionary $2`, as a literal with a type is kept by pg_stat_statements
    assert_eq!(twin["unexplained"].as_array().unwrap().len(), 0, "{twin:#}");

    let lab = &scene.lab;
    pgleap_canary::prepare(&lab.bypassing(lab.source_port, "musicbrainz")).await.unwrap();
    let config = CanaryConfig {
        connect: lab.through_pooler("musicbrainz"),
        clients: 2,
        rate: Some(40.0),
        ledger: None,
        transaction_timeout: Duration::from_secs(30),
        label: "musicbrainz".into(),
    };
    let canary = Canary::start(config).await.unwrap();
    let editors = Application::start_with(&lab.through_pooler("musicbrainz"), 2, 10, edit);
    for command in ["run", "switchover"] {
        let output = scene.pgleap(&[command]).await;
        assert_eq!(output.status.code(), Some(0), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let verified = scene.json(&["verify"], 0).await;
    assert!(verified["equal"] == true && verified["tables"].as_array().unwrap().len() > 450, "{verified:#}");
    let edited = editors.stop().await;
    assert!(edited.failed == 0 && edited.transactions > 50, "{edited:?}");
    let report = canary.stop().await;
    let audit = audit(&lab.directly(lab.target_port, "musicbrainz"), &report.ledger).await.unwrap();
    assert!(audit.is_clean() && report.stats.failed_transactions == 0, "{audit}");
    scene.end().await;
}
