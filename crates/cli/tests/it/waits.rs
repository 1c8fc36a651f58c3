//! A switchover that waits: others see that it does and for what, and Ctrl-C leaves nothing.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::bed::{Bed, World, drive, upgrade};

const LONG: Duration = Duration::from_secs(60);

/// Runs `status` until it shows what is `wanted`.
fn status(bed: &Bed, wanted: &str) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        let shown = bed.run(&["status"]).stdout;
        if shown.contains(wanted) {
            return shown;
        }
        assert!(Instant::now() < deadline, "no `{wanted}` in:\n{shown}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn interrupt(waiting: Child) -> (Option<i32>, String) {
    kill(Pid::from_raw(i32::try_from(waiting.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = waiting.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_switchover_that_waits_for_its_time_shows_in_status_and_is_stopped_without_a_trace() {
    let bed = Bed::new();
    drop(drive(&bed.journal(), &upgrade(), &World::default()));
    let file = bed.path("postponed");
    let at = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(5)).to_string();
    let mut command = bed.command(&["--yes", "switchover", "--at", &at, "--attempts", "3"]);
    command.arg("--postpone-file").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = command.spawn().unwrap();

    let shown = status(&bed, "waiting");
    assert!(shown.contains("waits until 2"), "{shown}");
    assert!(shown.contains(&format!("(process {})", waiting.id())), "{shown}");
    assert!(
        shown.contains("the source serves reads and writes") && shown.contains("`pgleap watch` follows it"),
        "{shown}"
    );
    let json = bed.run(&["--format", "json", "status"]).json();
    assert_eq!(json["waiting"]["process"], waiting.id());
    assert_eq!(bed.run(&["--yes", "unwind"]).code, 75, "it holds the upgrade");
    assert!(file.exists());

    let (code, said) = interrupt(waiting);
    assert_eq!(code, Some(4), "{said}");
    // nobody runs these servers: what holds a switchover is not known, which is told, and no reason not to wait
    assert!(said.contains("what would hold a switchover cannot be looked at now"), "{said}");
    assert!(said.contains("error: stopped on request while it waited for 2"), "{said}");
    assert!(said.contains("state: the source serves reads and writes"), "{said}");
    assert!(!file.exists() && !bed.run(&["status"]).stdout.contains("waiting"));
    assert!(!bed.run(&["journal"]).stdout.contains("switchover-1"), "nothing was begun");
}

#[test]
fn a_wait_that_died_is_not_shown_and_one_for_a_quiet_moment_gives_up() {
    let bed = Bed::new();
    drop(drive(&bed.journal(), &upgrade(), &World::default()));
    let mut waiting = bed.command(&["--yes", "switchover", "--when-quiet"]).stderr(Stdio::null()).spawn().unwrap();
    status(&bed, "waits for a quiet moment");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    assert!(!bed.run(&["status"]).stdout.contains("waiting"), "a dead process waits for nothing");

    let ended = bed.run(&["--yes", "switchover", "--when-quiet", "--within", "1s"]);
    assert_eq!(ended.code, 4, "{}", ended.all());
    assert!(ended.stderr.contains("error: no quiet moment came\n  cause: cannot connect"), "{}", ended.all());
}

#[test]
fn a_time_that_is_over_and_a_bound_without_a_wait_are_usage_errors() {
    let bed = Bed::new();
    for (arguments, why) in [
        (["--at", "2020-01-01T00:00:00Z"], "it is over"),
        (["--at", "midnight"], "it must be `HH:MM`"),
        (["--within", "1h"], "--when-quiet"),
        (["--attempts", "0"], "0 is not in 1..=100"),
    ] {
        let ended = bed.run(&["--yes", "rollback", arguments[0], arguments[1]]);
        assert!(ended.code == 2 && ended.stderr.contains(why), "{}", ended.all());
    }
}
