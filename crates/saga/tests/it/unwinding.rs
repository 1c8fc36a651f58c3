//! The way back: fatal failures, undos that fail, and a plan that was done.

use pgleap_saga::{Direction, EngineError, EventKind, Outcome, StepError, StepStatus};

use crate::world::{Rig, blocked, fatal, prepare, transient};

#[tokio::test(start_paused = true)]
async fn a_fatal_failure_takes_back_every_begun_step_newest_first() {
    let rig = Rig::new();
    rig.world.at("prepare.start_server/run", fatal());
    assert!(matches!(rig.execute(&prepare()).await, Outcome::Unwound { .. }));
    assert_eq!(
        rig.facts(),
        [
            "plan_opened",
            "started prepare.copy",
            "succeeded prepare.copy",
            "started prepare.start_server",
            "failed prepare.start_server",
            "direction_changed",
            "undo_started prepare.start_server",
            "undone prepare.start_server",
            "undo_started prepare.copy",
            "undone prepare.copy",
            "plan_closed",
        ]
    );
    let statuses: Vec<_> = rig.state().steps.iter().map(|step| step.status).collect();
    assert_eq!(statuses, [StepStatus::Undone, StepStatus::Undone, StepStatus::Pending]);
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_undo_needs_an_operator_and_a_resume_tries_it_again() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", fatal()).at("prepare.start_server/undo", blocked());
    assert!(matches!(rig.execute(&prepare()).await, Outcome::NeedsOperator(f) if f.step == "prepare.start_server"));
    assert_eq!(rig.state().steps[1].status, StepStatus::UndoFailed);
    assert_eq!(rig.world.things(), ["prepare.copy", "prepare.start_server"]);

    let rig = rig.next_process();
    assert!(matches!(rig.execute(&prepare()).await, Outcome::Unwound { .. }));
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_undo_is_retried_while_its_failure_is_transient() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", fatal());
    rig.world.at_first(7, "prepare.copy/undo", transient);
    assert!(matches!(rig.execute(&prepare()).await, Outcome::Unwound { .. }));

    let rig = Rig::new();
    rig.world.at("soak.follow/run", fatal());
    rig.world.at_first(8, "prepare.copy/undo", transient);
    assert!(matches!(rig.execute(&prepare()).await, Outcome::NeedsOperator(_)));
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_is_done_can_be_taken_back_on_request() {
    let rig = Rig::new();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    assert!(rig.journal.open_plan().unwrap().is_none());
    let wish = StepError::fatal("rolled back on request", "");
    let outcome = rig.executor().unwind(&prepare(), &rig.world, wish.clone()).await.unwrap();
    assert_eq!(outcome, Outcome::Unwound { cause: wish });
    assert!(rig.world.is_empty());
    // Both forms are a look from here.
    assert_eq!(rig.execute(&prepare()).await, outcome);
    assert_eq!(rig.executor().unwind(&prepare(), &rig.world, StepError::fatal("again", "")).await.unwrap(), outcome);
    assert_eq!(rig.world.calls().iter().filter(|call| call.ends_with("/undo")).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_done_plan_that_is_being_taken_back_is_open_again_and_a_resume_goes_on_with_that() {
    let rig = Rig::new();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    rig.world.at("prepare.start_server/undo", blocked());
    let outcome = rig.executor().unwind(&prepare(), &rig.world, StepError::fatal("enough", "")).await.unwrap();
    assert!(matches!(outcome, Outcome::NeedsOperator(_)));
    let rig = rig.next_process();
    assert_eq!(rig.journal.open_plan().unwrap().map(|plan| plan.id).as_deref(), Some("prepare-1"));
    assert!(matches!(rig.execute(&prepare()).await, Outcome::Unwound { .. }));
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn unwinding_a_blocked_plan_takes_its_failed_step_back_too() {
    let rig = Rig::new();
    rig.world.at("prepare.start_server/made", blocked());
    assert!(matches!(rig.execute(&prepare()).await, Outcome::Blocked(_)));
    let outcome = rig.executor().unwind(&prepare(), &rig.world, StepError::fatal("enough", "")).await.unwrap();
    assert!(matches!(outcome, Outcome::Unwound { .. }));
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn unwinding_a_plan_that_the_journal_does_not_know_is_refused() {
    let rig = Rig::new();
    let refused = rig.executor().unwind(&prepare(), &rig.world, StepError::fatal("x", "")).await;
    assert!(matches!(refused, Err(EngineError::UnknownPlan { plan }) if plan == "prepare-1"));
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_unwinding_keeps_unwinding_also_if_the_failure_has_passed() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", fatal()).at("prepare.copy/undo", blocked());
    assert!(matches!(rig.execute(&prepare()).await, Outcome::NeedsOperator(_)));
    let rig = rig.next_process();
    assert_eq!(rig.journal.open_plan().unwrap().unwrap().direction, Direction::Unwinding);
    rig.events();
    assert!(matches!(rig.execute(&prepare()).await, Outcome::Unwound { .. }));
    assert!(!rig.events().iter().any(|event| matches!(event, EventKind::StepStarted { .. })));
}
