//! The write pause: one budget before the point of no return, no way back after it.

use std::time::Duration;

use pgleap_saga::{EngineError, EventKind, Outcome, StepError};
use tokio::time::Instant;

use crate::world::{Act, BUDGET, Rig, blocked, fatal, switchover, switchover_within, transient};

fn cause(outcome: Outcome) -> StepError {
    match outcome {
        Outcome::Unwound { cause } => cause,
        other => panic!("not unwound: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_is_dropped_at_the_end_of_the_budget_and_the_plan_unwinds() {
    let rig = Rig::new();
    rig.world.at("switchover.fence/run", Act::Hang);
    let began = Instant::now();
    let cause = cause(rig.execute(&switchover()).await);
    assert_eq!(cause.to_string(), "`write pause` ran over its budget of 2s in step `switchover.fence`");
    assert_eq!(began.elapsed().as_millis(), BUDGET.as_millis());
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_shared_by_all_steps_of_the_section() {
    let rig = Rig::new();
    for step in ["pause", "fence", "open"] {
        rig.world.at(&format!("switchover.{step}/probe"), Act::Sleep(BUDGET * 2 / 5));
    }
    let cause = cause(rig.execute(&switchover()).await);
    assert!(cause.message.ends_with("in step `switchover.open`"), "{cause}");
    assert!(!rig.state().past_point_of_no_return);
    assert!(rig.world.is_empty());
}

#[tokio::test]
async fn the_point_of_no_return_is_not_passed_once_the_budget_is_over() {
    let rig = Rig::new();
    let budget = Duration::from_millis(500);
    rig.world.at("switchover.open/probe", Act::Block(budget));
    let cause = cause(rig.execute(&switchover_within(budget)).await);
    assert!(cause.message.ends_with("in step `switchover.open`"), "{cause}");
    assert!(!rig.state().past_point_of_no_return);
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn time_before_the_section_does_not_count() {
    let rig = Rig::new();
    rig.world.at("prepare.copy/run", Act::Sleep(BUDGET * 10));
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn past_the_point_of_no_return_the_budget_cuts_nothing() {
    let rig = Rig::new();
    rig.world.at("switchover.open/run", Act::Sleep(BUDGET * 2)).at("switchover.resume/run", Act::Sleep(BUDGET));
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
    let ended = rig.events().into_iter().find(|event| matches!(event, EventKind::SectionEnded { .. }));
    assert!(matches!(ended, Some(EventKind::SectionEnded { name, .. }) if name == "write pause"));
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_at_once_while_there_is_time() {
    let rig = Rig::new();
    rig.world.at_first(5, "switchover.fence/run", transient);
    let began = Instant::now();
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_stays_transient_ends_with_the_budget_and_is_named_as_the_cause() {
    let rig = Rig::new();
    rig.world.at_first(1000, "switchover.fence/run", transient);
    let began = Instant::now();
    let cause = cause(rig.execute(&switchover()).await);
    assert!(cause.to_string().ends_with("`switchover.fence`: connection refused"), "{cause}");
    assert!(began.elapsed() <= BUDGET);
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_person_before_the_point_of_no_return() {
    for (call, act) in [
        ("switchover.fence/run", blocked()),
        ("switchover.open/probe", blocked()),
        ("switchover.fence/run", Act::Panic),
        ("switchover.pause/run", fatal()),
    ] {
        let rig = Rig::new();
        rig.world.at(call, act);
        cause(rig.execute(&switchover()).await);
        assert!(rig.world.is_empty(), "{call}");
        let kinds: Vec<_> = rig.facts();
        assert!(!kinds.contains(&"point_of_no_return switchover.open".to_owned()), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn past_the_point_of_no_return_a_block_blocks_and_the_resume_goes_forward() {
    let rig = Rig::new();
    rig.world.at("switchover.open/made", blocked()).at("switchover.resume/run", fatal());
    assert!(matches!(rig.execute(&switchover()).await, Outcome::Blocked(_)));
    let rig = rig.next_process();
    assert!(matches!(rig.execute(&switchover()).await, Outcome::NeedsOperator(f) if f.step == "switchover.resume"));
    let rig = rig.next_process();
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
    assert_eq!(rig.world.calls().iter().filter(|call| call.ends_with("/undo")).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn past_the_point_of_no_return_transient_failures_wait_little_at_first_and_long_in_total() {
    let rig = Rig::new();
    rig.world.at_first(100, "switchover.resume/run", transient);
    let began = Instant::now();
    assert!(matches!(rig.execute(&switchover()).await, Outcome::Blocked(_)));
    assert!(began.elapsed() > Duration::from_secs(20), "{:?}", began.elapsed());
    let waits: Vec<_> = rig.events().into_iter().filter(|e| matches!(e, EventKind::StepRetrying { .. })).collect();
    assert!(matches!(waits[0], EventKind::StepRetrying { in_ms: 5, .. }), "{:?}", waits[0]);
}

#[tokio::test(start_paused = true)]
async fn the_point_of_no_return_is_written_after_its_probe_and_before_its_run() {
    let rig = Rig::new();
    rig.world.at("switchover.open/probe", Act::Note("looked")).at("switchover.open/run", Act::Note("running"));
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
    let story: Vec<_> = rig
        .records()
        .iter()
        .filter(|r| r.step.as_deref() == Some("switchover.open"))
        .map(|r| r.body["text"].as_str().unwrap_or(r.kind.as_str()).to_owned())
        .collect();
    assert_eq!(story, ["started", "looked", "point_of_no_return", "running", "succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn unwinding_is_refused_past_the_point_of_no_return() {
    let rig = Rig::new();
    rig.world.at("switchover.resume/run", blocked());
    assert!(matches!(rig.execute(&switchover()).await, Outcome::Blocked(_)));
    let refused = rig.executor().unwind(&switchover(), &rig.world, StepError::fatal("changed my mind", "")).await;
    let Err(error @ EngineError::PastPointOfNoReturn { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("`switchover-1` is past its point of no return"), "{error}");
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_died_in_the_section_is_succeeded_by_one_that_turns_back() {
    let rig = Rig::new();
    rig.world.at("switchover.fence/run", Act::Hang);
    let plan = switchover();
    let dead = tokio::time::timeout(BUDGET / 2, rig.execute(&plan)).await;
    assert!(dead.is_err());
    assert!(rig.state().open_section().is_some());
    let rig = rig.next_process();
    rig.events();
    assert_eq!(cause(rig.execute(&switchover()).await).message, "interrupted inside `write pause`");
    assert!(rig.world.is_empty());
    assert!(rig.events().iter().any(|e| matches!(e, EventKind::SectionEnded { .. })), "the pause is over");
    assert!(rig.state().open_section().is_none());
}
