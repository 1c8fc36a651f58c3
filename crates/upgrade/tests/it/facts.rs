//! Facts read from real servers: what is counted is what is there, and nothing is changed by looking.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use pgleap_local::{Account, Auth, InitOptions, Server, StopOnDrop, free_port};
use pgleap_upgrade::{
    Config, World,
    guard::Launch,
    plan::{self, Engine, Facts, Saved},
};
use tokio_postgres::NoTls;

const LONG: Duration = Duration::from_secs(60);
/// Rates are not judged here, so the window need not be long.
const WINDOW: Duration = Duration::from_millis(600);

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE keyed (id serial PRIMARY KEY, t text);
    INSERT INTO keyed (t) SELECT repeat('x', 500) FROM generate_series(1, 4000);
    CREATE TABLE keyless (a int);
    CREATE TABLE whole (a int); ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE parted (a int PRIMARY KEY) PARTITION BY RANGE (a);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9);
    CREATE UNLOGGED TABLE scratch (a int);
    CREATE VIEW seen AS SELECT id FROM keyed;
    CREATE MATERIALIZED VIEW summary AS SELECT count(*) FROM keyed;
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER after_all AFTER INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION f();
    CREATE PUBLICATION theirs;
    CREATE SUBSCRIPTION theirs CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false);
    SELECT lo_create(0) FROM generate_series(1, 3);
    CREATE TEMPORARY TABLE passing (a int);
    ANALYZE";

async fn facts_of(major: u16) -> Option<Facts> {
    let Ok(installation) = pgleap_local::find(major, &[]) else {
        eprintln!("skipped: PostgreSQL {major} is not installed");
        return None;
    };
    let dir = tempfile::Builder::new().prefix("pglf-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let account = Account::for_servers(None).unwrap();
    let own = dir.path().join("old");
    account.create_dir(&own, 0o755).unwrap();
    let server = Server { installation, account, data_dir: own.join("data"), log: own.join("server.log") };
    let server = StopOnDrop(server);
    server.init(&InitOptions { auth: Auth::Trust, ..InitOptions::default() }).await.unwrap();
    let port = free_port().unwrap();
    let sockets = own.to_string_lossy().into_owned();
    let settings = [
        ("port", port.to_string()),
        ("unix_socket_directories", sockets),
        ("listen_addresses", "127.0.0.1".into()),
        ("fsync", "off".into()),
        ("wal_level", "logical".into()),
        ("autovacuum", "off".into()),
    ];
    server.start(&settings.map(|(name, value)| (name.to_owned(), value)), LONG).await.unwrap();
    let connect = async |database: &str| {
        let text = format!("host=127.0.0.1 port={port} user=postgres dbname={database}");
        let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    };
    connect("postgres").await.batch_execute("CREATE DATABASE app").await.unwrap();
    let app = connect("app").await;
    for statement in SCHEMA.split(";\n") {
        app.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let text = format!(
        "[source]\ndsn = \"host=127.0.0.1 port={port} user=postgres\"\n[target]\nversion = 18\nport = 1\n\
         data_dir = \"{}/new\"\n[provider]\nkind = \"self_managed\"\n[route]\nkind = \"pgbouncer\"\n\
         [[route.pgbouncer]]\nadmin = \"host=127.0.0.1 port=1 user=postgres\"\nini = \"/i\"",
        dir.path().display()
    );
    let world = async |text: &str| {
        World::describe(Config::parse(text, Path::new("/")).unwrap(), "7f3a".into(), Launch::Task).await.unwrap()
    };
    // weeks before, a role that only looks makes a plan too
    app.batch_execute("CREATE ROLE onlooker LOGIN; GRANT pg_monitor TO onlooker").await.unwrap();
    let seen = plan::collect(&world(&text.replacen("user=postgres", "user=onlooker", 1)).await, WINDOW).await;
    assert_eq!(seen.map(|facts| facts.major()).map_err(|error| error.to_string()), Ok(major));
    let world = world(&text).await;
    let snapshot = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text";
    let before: String = app.query_one(snapshot, &[]).await.unwrap().get(0);
    let facts = plan::collect(&world, WINDOW).await.unwrap();
    let after: String = app.query_one(snapshot, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "looking hands out no transaction id");
    Some(facts)
}

fn assert_is_what_is_there(facts: &Facts, major: u16) {
    assert_eq!((facts.major(), facts.engine, facts.in_recovery), (major, Engine::SelfManaged, false));
    assert!(facts.is_logical() && !facts.has_boundary_function);
    let names: Vec<_> = facts.databases.iter().map(|database| database.name.as_str()).collect();
    assert_eq!(names, ["app", "postgres"]);
    let app = &facts.databases[0];
    assert!(facts.cluster_bytes > app.bytes && app.bytes > 2_000_000, "{app:#?}");
    assert!(app.table_bytes > 2_000_000 && app.table_bytes < app.bytes, "{app:#?}");
    let counts = [
        ("tables", app.tables, 6),
        ("partitioned", app.partitioned_tables, 1),
        ("sequences", app.sequences, 1),
        ("views", app.views, 1),
        ("materialized views", app.materialized_views, 1),
        ("unlogged", app.unlogged_tables, 1),
        ("without identity", app.without_identity, 1),
        ("identity full", app.identity_full, 1),
        ("functions", app.functions, 1),
        ("types", app.types, 1),
        ("triggers", app.triggers, 1),
        ("large objects", app.large_objects, 3),
        ("publications", app.publications, 1),
        ("subscriptions", app.subscriptions, 1),
    ];
    for (what, found, there) in counts {
        assert_eq!(found, there, "{what} in {app:#?}");
    }
    assert_eq!(facts.databases[1].subscriptions, 0, "a subscription is of one database");
    assert_eq!((app.largest[0].name.as_str(), app.largest[0].rows), ("public.keyed", 4000));
    assert!(app.largest[0].bytes >= 2_000_000, "{:?}", app.largest[0]);
    let wal = facts.wal;
    assert!(wal.window.is_some_and(|rate| rate.over_s >= WINDOW.as_secs_f64()), "{wal:?}");
    assert!(wal.checkpoint.is_some(), "{wal:?}");
    assert_eq!(wal.statistics.is_some(), major >= 14, "{wal:?}");
    assert!(facts.host.is_some_and(|host| host.cores > 0 && host.copy_free_bytes > Some(0)), "{:?}", facts.host);
    let saved = serde_json::json!({ "facts": facts, "findings": [] }).to_string();
    // a float may differ in its last bit
    let read = Saved::read(&saved).unwrap().0;
    assert_eq!(format!("{read:.6?}"), format!("{facts:.6?}"), "what is saved is what was read");
}

#[tokio::test]
async fn facts_of_a_13_are_what_is_there() {
    let Some(facts) = facts_of(13).await else { return };
    assert_is_what_is_there(&facts, 13);
}

#[tokio::test]
async fn facts_of_an_18_are_what_is_there() {
    let Some(facts) = facts_of(18).await else { return };
    assert_is_what_is_there(&facts, 18);
}
