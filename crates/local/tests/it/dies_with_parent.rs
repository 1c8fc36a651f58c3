//! A tool does not outlive a pgleap that was killed; a server does.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgleap_local::{Account, InitOptions, StopOnDrop, free_port};

use crate::{LONG, Room, any_of};

/// Not a test: the process that the test below kills.
#[tokio::test]
#[ignore = "started by the test below"]
async fn parent_to_be_killed() {
    let Ok(file) = std::env::var("DIES_WITH_PARENT_PID_FILE") else { return };
    let account = Account::for_servers(None).unwrap();
    let mut child = account.command("/bin/sleep").arg("120").spawn().unwrap();
    std::fs::write(format!("{file}.new"), child.id().unwrap().to_string()).unwrap();
    std::fs::rename(format!("{file}.new"), file).unwrap();
    child.wait().await.unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_tool_dies_when_its_parent_is_killed() {
    let room = Room::new();
    let file = room.path().join("pid");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "dies_with_parent::parent_to_be_killed", "--ignored"])
        .env("DIES_WITH_PARENT_PID_FILE", &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the tool runs", || file.exists());
    let pid: i32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let proc = format!("/proc/{pid}/comm");
    assert_eq!(std::fs::read_to_string(&proc).unwrap(), "sleep\n");
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("the tool is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

#[tokio::test]
async fn a_server_outlives_the_tool_that_started_it() {
    let Some(installation) = any_of(&[15, 17, 18]) else { return };
    let room = Room::new();
    let server = StopOnDrop(room.server(&installation));
    server.init(&InitOptions::default()).await.unwrap();
    let started = server.clone();
    let settings = room.private(&server, free_port().unwrap());
    // The thread that spawned pg_ctl ends here: what dies with its parent dies now.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(started.start(&settings, LONG)).unwrap();
    })
    .join()
    .unwrap();
    let log = std::fs::File::open(&server.log).unwrap();
    assert!(BufReader::new(log).lines().any(|line| line.unwrap().contains("ready to accept connections")));
    assert!(server.running().is_some());
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
