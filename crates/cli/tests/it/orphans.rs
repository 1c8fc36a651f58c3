//! kill -9 in and after the write pause, and while only readers have moved, and nobody types anything: clients go on by
//! themselves, without an error.

use std::{os::unix::process::ExitStatusExt, process::Stdio, time::Duration};

use pgleap_lab::Application;
use tokio_postgres::SimpleQueryMessage;

use crate::scene::{Clients, DATABASE, Scene, connect};

/// What clients bear: the write budget of the laboratory is 2 s, a guard's lease half a second more.
const CLIENTS: Clients = Clients { count: 4, rate: 80.0, bear: Duration::from_secs(10) };

/// Where the first process dies, and a second one takes over.
const TAKEN_OVER: [&str; 8] = [
    "switchover.pause_pools.after_pause",
    "switchover.fence.after_block",
    "switchover.carry_over.after_arrival",
    "switchover.carry_over.after_succeeded",
    "switchover.move_clients.after_point_of_no_return",
    "switchover.move_clients.after_decision",
    "switchover.move_clients.after_run",
    "switchover.turn_replication.between",
];

/// Where readers were led away, or are being, and writers have not followed.
const READERS_LED_BACK: [&str; 3] =
    ["readers.move_pools.after_pause", "readers.watch_window.after_started", "switchover.warm_up.after_run"];

/// Where a host dies, with the first process and the second: the guards' leases and the fence's end the pause.
const LEFT_ALONE: [&str; 3] =
    ["switchover.pause_pools.after_pause", "switchover.fence.after_block", "switchover.carry_over.after_arrival"];

async fn in_sync(name: &str) -> Scene {
    let scene = Scene::set(name, |_| ()).await.with_clients(CLIENTS).await;
    assert_eq!(scene.run(&["run"]).await.code(), Some(0));
    scene
}

/// Begins to move the writes, to wherever they are not, and dies at the point.
async fn die_at(scene: &Scene, point: &str, alone: bool) {
    let status = scene.run_with(&[scene.verb()], &format!("kill:{point}"), alone).await;
    assert_eq!(status.signal(), Some(9), "it did not die at {point}, but: {status:?}");
}

/// A superuser writes to the side that is fenced: `watch` says so with its next look but one, in words and as data.
async fn stray_writes_are_told(scene: &Scene, fenced: &str, port: u16) {
    let sees = format!("somebody wrote to the {fenced}, which is fenced");
    for format in [&[][..], &["--format", "json"]] {
        let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_pgleap"))
            .args(format)
            .args(["watch", "--config"])
            .arg(scene.lab.config_path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
        let first = lines.next().unwrap().unwrap();
        assert!(!first.contains("somebody wrote"), "what comes by replication is no stray: {first}");
        let client = connect(scene.lab.directly(port, DATABASE)).await;
        client.batch_execute("INSERT INTO parents VALUES (-7, 'a stray')").await.unwrap();
        client.batch_execute("DELETE FROM parents WHERE id = -7").await.unwrap();
        // a bound of looks, not of time: they come once a second, and each writes a line or more
        let told = lines.take(10).any(|line| line.unwrap().contains(&sees));
        watch.kill().unwrap();
        watch.wait().unwrap();
        assert!(told, "a stray write to the {fenced} was not told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchover_whose_process_is_killed_is_ended_by_a_second_one() {
    let scene = in_sync("second").await;
    for point in TAKEN_OVER {
        die_at(&scene, point, false).await;
        scene.all_go_on_well(point).await;
        scene.until(&format!("the second process to finish after {point}"), || scene.standing() != "open").await;
    }
    if scene.standing() == "in_sync" {
        assert_eq!(scene.run(&["switchover"]).await.code(), Some(0));
    }
    stray_writes_are_told(&scene, "source", scene.lab.source_port).await;
    assert_eq!(scene.run(&["rollback"]).await.code(), Some(0));
    stray_writes_are_told(&scene, "target", scene.lab.target_port).await;
    assert_eq!(scene.failed(), [0]);
    scene.verdict().await;
}

/// Returns to which port those who only read are led.
async fn readers_lead_to(scene: &Scene) -> u16 {
    let client = connect(scene.lab.reading_through_pooler(DATABASE)).await;
    let rows = client.simple_query("SELECT pg_catalog.current_setting('port')").await.unwrap();
    let port = rows.iter().find_map(|row| match row {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    port.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_whom_nobody_watches_any_more_are_led_back_by_the_second_process() {
    let scene = Scene::set("window", |spec| spec.readers = true).await.with_clients(CLIENTS).await;
    let (of_source, of_target) = scene.lab.reader_ports.unwrap();
    let readers = Application::reading(&scene.lab.reading_through_pooler(DATABASE), 2, 20);
    assert_eq!(scene.run(&["run"]).await.code(), Some(0));
    scene.lab.start_target_standby().await.unwrap();
    for point in READERS_LED_BACK {
        die_at(&scene, point, false).await;
        scene.until(&format!("the switchover to be taken back after {point}"), || scene.standing() == "in_sync").await;
        assert_eq!(readers_lead_to(&scene).await, of_source, "{point}");
        scene.until("the second process to end", || scene.is_unlocked()).await;
    }
    assert_eq!(scene.run(&["switchover"]).await.code(), Some(0));
    assert_eq!(readers_lead_to(&scene).await, of_target);
    let read = readers.stop().await;
    assert!(read.transactions > 100 && read.failed == 0, "{read:?}");
    scene.all_go_on_well("three deaths and a switchover").await;
    scene.verdict().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_that_everybody_forgot_is_ended_by_the_leases() {
    let scene = in_sync("leases").await;
    for point in LEFT_ALONE {
        die_at(&scene, point, true).await;
        scene.all_go_on_well(point).await;
        assert_eq!(scene.standing(), "open", "nobody took over");
        // taken back, for the record and the slots; clients are not asked to wait again
        let status = scene.run(&["resume"]).await;
        assert_eq!(status.code(), Some(5), "after {point}");
        assert_eq!(scene.standing(), "in_sync");
    }
    assert_eq!(scene.run(&["switchover"]).await.code(), Some(0), "the next one works");
    scene.all_go_on_well("the next one works").await;
    scene.verdict().await;
}
