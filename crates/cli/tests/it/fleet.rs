//! Twelve PgBouncers in front of one source: what happens to one of them, or to their guard, costs the others' clients nothing.

use std::{os::unix::process::ExitStatusExt, path::PathBuf, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgleap_local::Pooler;

use crate::scene::{Clients, Scene};

const POOLERS: usize = 12;
/// They bear the write budget, a lease, and a pooler that stands still for some seconds.
const CLIENTS: Clients = Clients { count: 2, rate: 10.0, bear: Duration::from_secs(30) };

fn pid_in(path: PathBuf) -> Pid {
    Pid::from_raw(std::fs::read_to_string(path).unwrap().trim().parse().unwrap())
}

fn pid(pooler: &Pooler) -> Pid {
    Pid::from_raw(i32::try_from(pooler.pid().unwrap()).unwrap())
}

fn but(one: usize) -> impl Iterator<Item = usize> {
    (0..POOLERS).filter(move |number| *number != one)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_twelve_poolers_or_their_guard_may_be_lost_and_the_others_clients_see_nothing() {
    let fleet = Scene::set("fleet", |spec| {
        spec.poolers = POOLERS;
        spec.pooler_settings = vec![("default_pool_size".into(), "2".into())];
    });
    let fleet = fleet.await.with_clients(CLIENTS).await;
    assert_eq!(fleet.run(&["run"]).await.code(), Some(0));
    assert_eq!(fleet.run(&["switchover"]).await.code(), Some(0));
    fleet.all_go_on_well("a switchover of twelve").await;

    // prepared, and then it does not answer: everybody goes on where they were
    let still = pid(&fleet.lab.poolers[5]);
    let (child, here) = fleet.held_at("rollback", "switchover.warm_up.after_succeeded").await;
    kill(still, Signal::SIGSTOP).unwrap();
    std::fs::remove_file(&here).unwrap();
    assert_eq!(fleet.end(child).await.code(), Some(4), "it is taken back");
    fleet.go_on_since(&fleet.acknowledged(), but(5), "one pooler stands still").await;
    kill(still, Signal::SIGCONT).unwrap();
    fleet.all_go_on_well("one pooler stood still").await;

    // the guard dies in the pause: another takes its notes over
    let (child, here) = fleet.held_at("rollback", "switchover.fence.after_block").await;
    kill(pid_in(fleet.dir().join("state/guard.lock")), Signal::SIGKILL).unwrap();
    std::fs::remove_file(&here).unwrap();
    let code = fleet.end(child).await.code();
    assert!(matches!(code, Some(0 | 5)), "{code:?}");
    fleet.all_go_on_well("the guard was killed").await;

    // the process dies in the pause, with twelve pools held
    let verb = if code == Some(0) { "switchover" } else { "rollback" };
    let status = fleet.run_with(&[verb], "kill:switchover.carry_over.after_arrival", false).await;
    assert_eq!(status.signal(), Some(9), "it is killed");
    fleet.all_go_on_well("pgleap was killed").await;

    // a pooler dies past the point of no return: the others go on, and it is led there when it is back
    let lost = &fleet.lab.poolers[7];
    fleet.until("the second process to end", || fleet.is_unlocked()).await;
    let (child, here) = fleet.held_at(verb, "switchover.move_clients.after_point_of_no_return").await;
    kill(pid(lost), Signal::SIGKILL).unwrap();
    let before = fleet.acknowledged();
    std::fs::remove_file(&here).unwrap();
    fleet.go_on_since(&before, but(7), "one pooler died").await;
    lost.restart().await.unwrap();
    assert_eq!(fleet.end(child).await.code(), Some(0), "it waits for the lost pooler, and finishes");
    fleet.all_go_on("a pooler was lost and came back").await;
    let mut failed = fleet.failed();
    failed.remove(7);
    assert_eq!(failed, vec![0; POOLERS - 1], "a pooler died");
    fleet.verdict().await;
}
