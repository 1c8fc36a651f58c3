//! Transient failures, blocks, and steps that must keep holding.

use std::time::Duration;

use pgleap_saga::{Class, EventKind, Executor, Outcome, RetryPolicy, StepError, StepStatus};

use crate::world::{Act, Rig, blocked, fatal, prepare, switchover, transient};

fn waits(events: &[EventKind]) -> Vec<(u64, u32)> {
    let wait = |event: &EventKind| match event {
        EventKind::StepRetrying { in_ms, attempt } => Some((*in_ms, *attempt)),
        _ => None,
    };
    events.iter().filter_map(wait).collect()
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_with_growing_waits_and_then_forgotten() {
    let rig = Rig::new();
    rig.world.at("prepare.copy/run", transient()).at("prepare.copy/run", transient());
    let began = tokio::time::Instant::now();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    assert_eq!(waits(&rig.events()), [(200, 2), (400, 3)]);
    assert_eq!(began.elapsed().as_millis(), 600);
    let copy = &rig.state().steps[0];
    assert_eq!((copy.attempts, copy.status, &copy.error), (3, StepStatus::Done, &None));
    assert_eq!(rig.facts().iter().filter(|fact| *fact == "failed prepare.copy").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn used_up_attempts_block_and_a_resume_tries_again() {
    let rig = Rig::new();
    rig.world.at_first(8, "prepare.copy/probe", transient);
    let Outcome::Blocked(failure) = rig.execute(&prepare()).await else { panic!("not blocked") };
    assert_eq!((failure.step.as_str(), failure.error.class), ("prepare.copy", Class::Transient));
    assert_eq!(failure.error.to_string(), "connection refused");
    assert_eq!(failure.error.hint.as_deref(), Some("tried 8 times over 22.6 s; resume tries again"));
    assert_eq!(rig.state().steps[0].error, Some(failure.error), "status reads it in the journal");
    assert_eq!(rig.state().steps[0].status, StepStatus::Failed);
    assert!(rig.world.is_empty(), "nothing may run without a look");
    assert!(matches!(rig.events().last(), Some(EventKind::RunEnded { outcome: Outcome::Blocked(_) })));

    let rig = rig.next_process();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    assert_eq!(rig.state().steps[0].attempts, 9);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_attempts_counts_and_a_steps_own_hint_comes_first() {
    let rig = Rig::new();
    for _ in 0..8 {
        rig.world.at("prepare.copy/probe", Act::Sleep(Duration::from_secs(10)));
        let error = StepError { hint: Some("look at its log".into()), ..StepError::transient("no answer") };
        rig.world.at("prepare.copy/run", Act::Fail(error));
    }
    let Outcome::Blocked(failure) = rig.execute(&prepare()).await else { panic!("not blocked") };
    let hint = "look at its log; tried 8 times over 102.6 s; resume tries again";
    assert_eq!(failure.error.hint.as_deref(), Some(hint));
}

#[tokio::test(start_paused = true)]
async fn an_undo_whose_attempts_are_used_up_says_so_in_the_words_of_its_program() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", fatal()).at_first(8, "prepare.start_server/undo", transient);
    let retry = RetryPolicy { used_up: "type it again", ..RetryPolicy::default() };
    let executor = Executor::new(&rig.journal, rig.sink.clone(), retry, rig.stop.clone());
    let outcome = executor.execute(&prepare(), &rig.world).await.unwrap();
    let Outcome::NeedsOperator(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.error.hint.as_deref(), Some("tried 8 times over 22.6 s; type it again"));
}

#[tokio::test(start_paused = true)]
async fn what_holds_after_a_failed_attempt_is_adopted_and_not_made_again() {
    let rig = Rig::new();
    rig.world.at("prepare.copy/made", transient());
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    assert_eq!(rig.world.calls().iter().filter(|call| *call == "prepare.copy/run").count(), 1);
    let records = rig.records();
    let success = records.iter().find(|r| r.kind.as_str() == "succeeded").unwrap();
    assert_eq!((&success.body["adopted"], &success.body["output"]), (&true.into(), &"prepare.copy, found".into()));
}

#[tokio::test(start_paused = true)]
async fn a_standing_step_that_was_lost_runs_again_before_a_later_step_is_retried() {
    let rig = Rig::new();
    rig.world.at("soak.follow/probe", Act::Lose("prepare.start_server")).at("soak.follow/run", transient());
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    let calls = rig.world.calls();
    let runs: Vec<_> = calls.iter().filter(|call| call.ends_with("/run")).collect();
    assert_eq!(
        runs,
        [
            "prepare.copy/run",
            "prepare.start_server/run",
            "soak.follow/run",
            "prepare.start_server/run",
            "soak.follow/run"
        ]
    );
    assert!(
        rig.events().iter().any(|event| matches!(event, EventKind::Warned { text } if text.contains("start_server")))
    );
}

#[tokio::test(start_paused = true)]
async fn a_standing_step_that_was_lost_runs_again_on_resume_and_others_do_not() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", blocked());
    assert!(matches!(rig.execute(&prepare()).await, Outcome::Blocked(_)));
    rig.world.lose("prepare.start_server");
    rig.world.lose("prepare.copy");
    let rig = rig.next_process();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    assert_eq!(rig.world.things(), ["prepare.start_server", "soak.follow"]);
}

#[tokio::test(start_paused = true)]
async fn a_standing_step_lost_past_the_point_of_no_return_runs_again_inside_the_section() {
    let rig = Rig::new();
    rig.world.at("switchover.resume/probe", Act::Lose("prepare.start_server")).at("switchover.resume/run", transient());
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
    assert_eq!(rig.world.things().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_panic_blocks_and_does_not_end_the_process() {
    let rig = Rig::new();
    rig.world.at("soak.follow/run", Act::Panic);
    let Outcome::Blocked(failure) = rig.execute(&prepare()).await else { panic!("not blocked") };
    assert_eq!(failure.error.to_string(), "step `soak.follow` panicked: told to panic");
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
}
