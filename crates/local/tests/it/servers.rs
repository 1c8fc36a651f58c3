use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use pgleap_local::{
    InitOptions, LocaleOptions, LocaleProvider, ServerError, ServerStatus, StopMode, StopOnDrop, find, free_port,
};

use crate::{LONG, Room, any_of};

/// Majors that tools and demo work with.
const SUPPORTED: std::ops::RangeInclusive<u16> = 13..=18;

#[tokio::test]
async fn every_installed_major_is_made_started_and_stopped() {
    for major in SUPPORTED {
        let Ok(installation) = find(major, &[]) else {
            eprintln!("skipped: PostgreSQL {major} is not installed");
            continue;
        };
        assert_eq!(installation.major, major);
        let room = Room::new();
        let server = StopOnDrop(room.server(&installation));
        assert!(!server.is_initialized());
        assert_eq!(server.running(), None);

        server.init(&InitOptions { superuser: "boss".into(), ..InitOptions::default() }).await.unwrap();
        assert!(server.is_initialized());
        assert_eq!(server.major_on_disk(), Some(major));
        let control = server.control_data().await.unwrap();
        assert_ne!(control["Data page checksum version"], "0", "{major}");
        assert_eq!(control["Database cluster state"], "shut down");

        let port = free_port().unwrap();
        let mut settings = room.private(&server, port);
        settings.push(("application_name".into(), "it's a \"test\" $HOME \\".into()));
        server.start(&settings, LONG).await.unwrap();
        let running = server.running().unwrap();
        assert_eq!((running.port, running.status), (port, ServerStatus::Ready));
        assert_eq!(running.socket_dir.as_deref(), server.data_dir.parent());

        let conninfo = format!("host=127.0.0.1 port={port} user=boss dbname=postgres");
        let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let row = client
            .query_one("SELECT pg_catalog.current_setting('server_version_num')::int4 / 10000", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i32>(0), i32::from(major));
        let reset = "SELECT boot_val, reset_val FROM pg_catalog.pg_settings WHERE name = 'application_name'";
        let row = client.query_one(reset, &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(1), "it's a \"test\" $HOME \\", "settings arrive as they were given");
        drop(client);
        connection.await.unwrap().unwrap();

        let again = server.start(&settings, LONG).await.unwrap_err();
        assert!(matches!(again, ServerError::AlreadyRunning { pid, .. } if pid == running.pid), "{again}");
        server.stop(StopMode::Fast, LONG).await.unwrap();
        assert_eq!(server.running(), None);
        server.stop(StopMode::Fast, LONG).await.unwrap();
        assert_eq!(server.control_data().await.unwrap()["Database cluster state"], "shut down");
        assert!(server.log_tail(5).iter().any(|line| line.contains("shut down")), "{:?}", server.log_tail(5));
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_says_what_its_log_says() {
    let Some(installation) = any_of(&[15, 17, 18]) else { return };
    let room = Room::new();
    let server = StopOnDrop(room.server(&installation));
    server.init(&InitOptions::default()).await.unwrap();
    let mut settings = room.private(&server, free_port().unwrap());
    server.start(&settings, LONG).await.unwrap();
    server.stop(StopMode::Fast, LONG).await.unwrap();

    settings.push(("shared_buffers".into(), "many".into()));
    let error = server.start(&settings, LONG).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("FATAL") && text.contains("\"shared_buffers\": \"many\""), "{text}");
    assert!(!text.contains("shut down"), "lines of the earlier start do not belong to this one: {text}");
    assert_eq!(server.running(), None);
}

#[tokio::test]
async fn a_killed_server_does_not_count_as_running_and_starts_again() {
    let Some(installation) = any_of(&[17, 15, 18]) else { return };
    let room = Room::new();
    let server = StopOnDrop(room.server(&installation));
    server.init(&InitOptions::default()).await.unwrap();
    let settings = room.private(&server, free_port().unwrap());
    server.start(&settings, LONG).await.unwrap();
    let pid = server.running().unwrap().pid;
    kill9(pid);
    until("the killed server counts as gone", || server.running().is_none()).await;
    assert!(server.data_dir.join("postmaster.pid").exists(), "the stale file is what the test is about");
    server.stop(StopMode::Fast, LONG).await.unwrap();

    server.start(&settings, LONG).await.unwrap();
    assert!(server.log_tail(30).iter().any(|line| line.contains("recovery")), "{:?}", server.log_tail(30));
}

#[tokio::test]
async fn a_process_id_given_to_somebody_else_does_not_count_as_running() {
    let Some(installation) = any_of(&[15, 17, 18]) else { return };
    let room = Room::new();
    let server = StopOnDrop(room.server(&installation));
    server.init(&InitOptions::default()).await.unwrap();
    let mut other = server.account.command("/bin/sleep").arg("600").spawn().unwrap();
    server.write_in_data_dir("postmaster.pid", &format!("{}\n", other.id().unwrap())).unwrap();
    assert_eq!(server.running(), None);
    server.stop(StopMode::Immediate, LONG).await.unwrap();
    assert_eq!(other.try_wait().unwrap(), None, "the stranger was left alone");
    other.kill().await.unwrap();
}

#[tokio::test]
async fn a_start_that_is_not_waited_for_is_seen_coming_up() {
    let Some(installation) = any_of(&[15, 17, 18]) else { return };
    let room = Room::new();
    let server = StopOnDrop(room.server(&installation));
    server.init(&InitOptions::default()).await.unwrap();
    server.append_conf("port = 1\nhot_standby = off").unwrap();
    server.write_in_data_dir("standby.signal", "").unwrap();
    server.start_without_waiting(&room.private(&server, free_port().unwrap())).await.unwrap();
    until("the standby is up", || server.running().is_some_and(|running| running.status == ServerStatus::Standby))
        .await;
}

#[tokio::test]
async fn the_guard_stops_the_server_before_the_test_ends() {
    let Some(installation) = any_of(&[15, 17, 18]) else { return };
    let room = Room::new();
    let guard = StopOnDrop(room.server(&installation));
    guard.init(&InitOptions::default()).await.unwrap();
    guard.start(&room.private(&guard, free_port().unwrap()), LONG).await.unwrap();
    let server = guard.0.clone();
    assert!(server.running().is_some());
    drop(guard);
    assert_eq!(server.running(), None);
}

#[tokio::test]
async fn a_closed_directory_is_reported_before_anything_is_tried() {
    let Some(installation) = any_of(&[15, 17, 18]) else { return };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root starts servers as another account");
        return;
    }
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let room = Room::new();
    let mut server = room.server(&installation);
    server.data_dir = closed.path().join("data");
    let error = server.init(&InitOptions::default()).await.unwrap_err();
    assert!(matches!(&error, ServerError::Unreachable { dir, .. } if dir == closed.path()), "{error}");
}

#[tokio::test]
async fn options_of_initdb_arrive() {
    let Some(installation) = any_of(&[18, 17]) else { return };
    let room = Room::new();
    let mut server = room.server(&installation);
    // A directory only root can write to, as the ones made by hand often are.
    let parent = room.path().join("roots-own");
    std::fs::create_dir(&parent).unwrap();
    server.data_dir = parent.join("data");
    server.log = room.path().join("server.log");
    let options = InitOptions {
        checksums: false,
        wal_segment_mb: Some(4),
        allow_group_access: true,
        auth: pgleap_local::Auth::ScramSha256 { password: "it's".into() },
        locale: Some(LocaleOptions {
            provider: Some(LocaleProvider::Builtin),
            provider_locale: Some("C.UTF-8".into()),
            ..LocaleOptions::default()
        }),
        ..InitOptions::default()
    };
    server.init(&options).await.unwrap();
    let control = server.control_data().await.unwrap();
    assert_eq!(control["Data page checksum version"], "0");
    assert_eq!(control["Bytes per WAL segment"], (4 * 1024 * 1024).to_string());
    let names: HashSet<_> = std::fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, HashSet::from(["data".into()]), "the password file is gone");

    let server = StopOnDrop(server);
    let port = free_port().unwrap();
    let mut settings = room.private(&server, port);
    settings.push(("unix_socket_directories".into(), String::new()));
    server.start(&settings, LONG).await.unwrap();
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    assert!(tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await.is_err(), "a password is asked for");
    let conninfo = format!("{conninfo} password='it\\'s'");
    let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let query = "SELECT datlocprovider::text || datlocale FROM pg_catalog.pg_database WHERE datname = 'postgres'";
    assert_eq!(client.query_one(query, &[]).await.unwrap().get::<_, &str>(0), "bC.UTF-8");
    drop(client);
    connection.await.unwrap().unwrap();
}

fn kill9(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
