use std::path::Path;

use pgleap_local::{Account, InitOptions, KillOnDrop, PoolerError, PoolerSpec, StopOnDrop, free_port};

use crate::{LONG, Room, all_poolers, any_of};

fn spec(bin: &Path, dir: &Path, server_port: u16) -> PoolerSpec {
    PoolerSpec {
        bin: bin.to_path_buf(),
        dir: dir.to_path_buf(),
        port: free_port().unwrap(),
        account: Account::for_servers(None).unwrap(),
        databases: vec![("app".into(), "127.0.0.1".into(), server_port, "postgres".into())],
        users: vec![("postgres".into(), "secret".into())],
        admin_users: vec!["postgres".into()],
        pool_mode: "transaction".into(),
        extra: vec![("default_pool_size".into(), "3".into())],
    }
}

async fn ask_through(port: u16) -> Result<i32, tokio_postgres::Error> {
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres password=secret dbname=app");
    let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let answer = client.query_one("SELECT 42", &[]).await?.get(0);
    drop(client);
    connection.await.unwrap()?;
    Ok(answer)
}

#[tokio::test]
async fn every_installed_pooler_starts_is_killed_and_starts_again() {
    let Some(installation) = any_of(&[15, 17, 18]) else { return };
    let room = Room::new();
    let server = StopOnDrop(room.server(&installation));
    server.init(&InitOptions::default()).await.unwrap();
    let server_port = free_port().unwrap();
    server.start(&room.private(&server, server_port), LONG).await.unwrap();

    for (number, bin) in all_poolers().iter().enumerate() {
        let spec = spec(bin, &room.path().join(format!("pool{number}")), server_port);
        let pooler = KillOnDrop(spec.start().await.unwrap_or_else(|error| panic!("{}: {error}", bin.display())));
        let first = pooler.pid().unwrap();
        assert_eq!(ask_through(spec.port).await.unwrap(), 42, "{}", bin.display());

        pooler.kill9().await.unwrap();
        assert_eq!(pooler.pid(), None);
        assert!(ask_through(spec.port).await.is_err());
        pooler.kill9().await.unwrap();

        // An edit of the configuration outlives the restart.
        let ini = std::fs::read_to_string(&pooler.ini_path).unwrap();
        let edited = ini.replace("app = ", "renamed = ");
        assert_ne!(ini, edited);
        spec.account.write_file(&pooler.ini_path, edited, 0o600).unwrap();
        pooler.restart().await.unwrap();
        assert_ne!(pooler.pid(), Some(first));
        assert!(ask_through(spec.port).await.is_err(), "`app` is not there any more");
        spec.account.write_file(&pooler.ini_path, ini, 0o600).unwrap();
        pooler.restart().await.unwrap();
        assert_eq!(ask_through(spec.port).await.unwrap(), 42);
        assert_eq!(spec.describe().pid(), pooler.pid(), "found again from its description");

        pooler.stop().await.unwrap();
        assert_eq!(pooler.pid(), None);
        pooler.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_pooler_that_cannot_start_says_why() {
    for (number, bin) in all_poolers().iter().enumerate() {
        let room = Room::new();
        let mut spec = spec(bin, &room.path().join(format!("pool{number}")), 1);
        spec.pool_mode = "sideways".into();
        let error = spec.start().await.unwrap_err();
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            text = format!("{text}: {source}");
        }
        assert!(text.contains("pool_mode"), "{}: {text}", bin.display());
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(spec.describe().pid(), None);
    }
}

#[tokio::test]
async fn a_port_in_use_is_reported_and_no_stranger_is_taken_for_the_pooler() {
    for (number, bin) in all_poolers().iter().enumerate() {
        let room = Room::new();
        let spec = spec(bin, &room.path().join(format!("pool{number}")), 1);
        let _stranger = std::net::TcpListener::bind(("127.0.0.1", spec.port)).unwrap();
        let error = match spec.start().await {
            Ok(pooler) => {
                drop(KillOnDrop(pooler));
                panic!("{}: started on a port in use", bin.display());
            }
            Err(error) => error,
        };
        drop(KillOnDrop(spec.describe()));
        assert!(!matches!(error, PoolerError::SocketPath { .. }), "{error}");
        assert!(error.to_string().contains(&spec.port.to_string()), "{}: {error}", bin.display());
    }
}

#[tokio::test]
async fn a_stale_pid_file_with_a_strangers_number_does_not_hinder_a_start() {
    let Some(bin) = all_poolers().into_iter().next() else { return };
    let room = Room::new();
    let spec = spec(&bin, &room.path().join("pool"), 1);
    let mut stranger = spec.account.command("/bin/sleep").arg("600").spawn().unwrap();
    spec.account.create_dir(&spec.dir, 0o755).unwrap();
    let pidfile = spec.dir.join("pgbouncer.pid");
    spec.account.write_file(&pidfile, format!("{}\n", stranger.id().unwrap()), 0o644).unwrap();
    assert_eq!(spec.describe().pid(), None);
    let _pooler = KillOnDrop(spec.start().await.unwrap());
    assert_eq!(stranger.try_wait().unwrap(), None, "the stranger was left alone");
    stranger.kill().await.unwrap();
}
