//! A stop on request: resumable, and never with clients left waiting.

use pgleap_saga::{Direction, Outcome};

use crate::world::{Act, Rig, fatal, prepare, switchover, transient};

/// The step and the reason of the newest record, which must be the stop's.
fn stop_of(rig: &Rig) -> (String, String) {
    let record = rig.records().pop().unwrap();
    assert_eq!(record.kind.as_str(), "stopped");
    (record.step.unwrap(), record.body["reason"].as_str().unwrap().to_owned())
}

fn at(step: &str, reason: &str) -> (String, String) {
    (step.to_owned(), reason.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_stop_outside_sections_drops_the_step_and_a_resume_finishes_it() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", Act::Hang);
    let plan = prepare();
    let stop_later = async {
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        rig.stop.request();
    };
    let (outcome, ()) = tokio::join!(rig.execute(&plan), stop_later);
    assert_eq!(outcome, Outcome::Stopped);
    assert!(rig.state().stopped);
    assert_eq!(stop_of(&rig), at("soak.follow", "on request, in the middle of it"));

    let rig = rig.next_process();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    assert!(!rig.state().stopped);
    assert_eq!(rig.world.calls().iter().filter(|call| *call == "prepare.copy/run").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_steps_keeps_the_success_before_it() {
    let rig = Rig::new();
    rig.world.at("prepare.copy/made", Act::Stop(rig.stop.clone()));
    // The step yields after the request, so it is dropped there: what it made is adopted later.
    assert_eq!(rig.execute(&prepare()).await, Outcome::Stopped);
    assert_eq!(rig.world.things(), ["prepare.copy"]);
    let rig = rig.next_process();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_wait_between_attempts_ends_the_wait() {
    let rig = Rig::new();
    rig.world.at_first(7, "prepare.copy/run", transient);
    let plan = prepare();
    let stop_later = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        rig.stop.request();
    };
    let began = tokio::time::Instant::now();
    let (outcome, ()) = tokio::join!(rig.execute(&plan), stop_later);
    assert_eq!((outcome, began.elapsed().as_millis()), (Outcome::Stopped, 100));
    assert_eq!(stop_of(&rig), at("prepare.copy", "on request, before it was tried again"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_point_of_no_return_unwinds_the_whole_plan() {
    let rig = Rig::new();
    rig.world.at("switchover.fence/run", Act::Stop(rig.stop.clone()));
    let Outcome::Unwound { cause } = rig.execute(&switchover()).await else { panic!("not unwound") };
    assert_eq!(cause.message, "stopped on request inside `write pause`, in step `switchover.fence`");
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_past_the_point_of_no_return_waits_for_the_end_of_the_section() {
    let rig = Rig::new();
    rig.world.at("switchover.open/run", Act::Stop(rig.stop.clone()));
    assert_eq!(rig.execute(&switchover()).await, Outcome::Stopped);
    assert!(rig.state().open_section().is_none());
    assert!(rig.world.things().contains(&"switchover.resume"));
    assert!(!rig.world.things().contains(&"soak.follow"));
    assert_eq!(stop_of(&rig), at("soak.follow", "on request, before it began"));
    let rig = rig.next_process();
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_section_does_not_begin_it() {
    let rig = Rig::new();
    rig.world.at("prepare.start_server/made", Act::Stop(rig.stop.clone()));
    assert_eq!(rig.execute(&switchover()).await, Outcome::Stopped);
    assert!(rig.state().sections.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_unwinding_falls_between_undos_and_the_resume_keeps_unwinding() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", fatal()).at("soak.follow/undo", Act::Stop(rig.stop.clone()));
    assert_eq!(rig.execute(&prepare()).await, Outcome::Stopped);
    assert_eq!(rig.world.things(), ["prepare.copy", "prepare.start_server"]);
    assert_eq!(rig.state().direction, Direction::Unwinding);
    assert_eq!(stop_of(&rig), at("prepare.start_server", "on request, before it was taken back"));

    let rig = rig.next_process();
    let Outcome::Unwound { cause } = rig.execute(&prepare()).await else { panic!("not unwound") };
    assert_eq!(cause.message, "the slot is lost");
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_unwinding_is_not_heeded_until_the_section_is_taken_back() {
    let rig = Rig::new();
    rig.world.at("switchover.fence/run", fatal()).at("switchover.fence/undo", Act::Stop(rig.stop.clone()));
    assert_eq!(rig.execute(&switchover()).await, Outcome::Stopped);
    assert_eq!(rig.world.things(), ["prepare.copy", "prepare.start_server"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_attempts_at_an_undo_names_the_undo() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", fatal()).at("soak.follow/undo", transient());
    let plan = prepare();
    let stop_later = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        rig.stop.request();
    };
    let (outcome, ()) = tokio::join!(rig.execute(&plan), stop_later);
    assert_eq!(outcome, Outcome::Stopped);
    assert_eq!(stop_of(&rig), at("soak.follow", "on request, while it was taken back"));
}
