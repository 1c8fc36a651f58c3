//! What a plan says of itself, which plans are refused, and the events of a run.

use std::time::Duration;

use pgleap_saga::{EngineError, EventKind, Outcome, Plan, Reversal};
use serde_json::json;

use crate::world::{Copy, Fence, Follow, Pause, Rig, Server, World, blocked, makes, prepare, switchover};

#[test]
fn a_plan_describes_and_prints_itself() {
    let steps = switchover().describe();
    assert_eq!((steps.len(), steps[4].number, steps[4].phase.as_str()), (7, 5, "switchover"));
    assert_eq!((steps[4].reversal, steps[4].budget_ms), (Reversal::PointOfNoReturn, Some(2000)));
    assert_eq!((steps[1].standing, &steps[1].section), (true, &None));
    assert_eq!(
        switchover().to_string(),
        "switchover-1 (switchover), 7 steps
   1   prepare.copy          make prepare.copy
   2   prepare.start_server  make prepare.start_server
      write pause, at most 2s:
   3 | switchover.pause      make switchover.pause
   4 | switchover.fence      make switchover.fence
   5 | switchover.open       make switchover.open (point of no return)
   6 | switchover.resume     make switchover.resume
   7   soak.follow           make soak.follow"
    );
}

async fn refusal(rig: &Rig, plan: Plan<World>) -> EngineError {
    let before = rig.records().len();
    let error = rig.executor().execute(&plan, &rig.world).await.expect_err("the plan was taken");
    assert_eq!(rig.records().len(), before, "a refusal writes nothing");
    error
}

#[tokio::test]
async fn a_plan_that_names_a_step_or_a_section_twice_is_refused() {
    let rig = Rig::new();
    let twice = Plan::new("p-1", "p", json!({})).then(Copy).section("s", Duration::ZERO, |s| s.then(Copy));
    assert!(matches!(refusal(&rig, twice).await, EngineError::DuplicateStep { step, .. } if step == "prepare.copy"));
    let section = |plan: Plan<World>| plan.section("s", Duration::ZERO, |s| s);
    let twice = section(section(Plan::new("p-1", "p", json!({}))));
    assert!(matches!(refusal(&rig, twice).await, EngineError::DuplicateSection { .. }));
}

mod newer {
    use super::makes;
    makes!(Copy, "prepare.copy", Undo, standing: false, revision: 2);
    makes!(Follow, "soak.follow", Undo, standing: false, revision: 2);
}

#[tokio::test]
async fn a_resume_with_other_steps_or_another_revision_is_refused() {
    let rig = Rig::new();
    rig.world.at("prepare.start_server/run", blocked());
    assert!(matches!(rig.execute(&prepare()).await, Outcome::Blocked(_)));
    let new = || Plan::new("prepare-1", "prepare", json!({}));

    let error = refusal(&rig, new().then(Copy).then(Server)).await;
    assert!(error.to_string().contains("step 3 is `nothing` here and `soak.follow` there"), "{error}");
    let error = refusal(&rig, new().then(Copy).then(Follow).then(Server)).await;
    assert!(error.to_string().contains("step 2 is `soak.follow` here and `prepare.start_server` there"), "{error}");
    let inside = new().then(Copy).then(Server).section("write pause", Duration::ZERO, |s| s.then(Follow));
    let error = refusal(&rig, inside).await;
    assert!(error.to_string().contains("`soak.follow (in write pause)` here"), "{error}");

    let error = refusal(&rig, new().then(newer::Copy).then(Server).then(Follow)).await;
    assert!(
        matches!(&error, EngineError::RevisionChanged { step, recorded: 1, known: 2 } if step == "prepare.copy"),
        "{error}"
    );
    // A step that never began may be newer.
    assert_eq!(rig.execute(&new().then(Copy).then(Server).then(newer::Follow)).await, Outcome::Done);
}

#[tokio::test]
async fn a_run_tells_its_story_in_order() {
    let rig = Rig::new();
    let plan =
        Plan::new("p-1", "p", json!({})).section("write pause", Duration::from_secs(9), |s| s.then(Pause).then(Fence));
    assert_eq!(rig.execute(&plan).await, Outcome::Done);
    let tags: Vec<_> = rig.events().iter().map(|e| json!(e)["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        tags,
        [
            "plan_opened",
            "section_started",
            "step_started",
            "step_succeeded",
            "step_started",
            "step_succeeded",
            "section_ended",
            "plan_closed"
        ]
    );
    assert_eq!(rig.execute(&plan).await, Outcome::Done);
    assert_eq!(rig.events(), Vec::<EventKind>::new(), "a closed plan has no more to tell");
}

#[test]
fn a_run_can_be_spawned() {
    fn spawnable<T: Send>(_: &T) {}
    let (rig, plan) = (Rig::new(), prepare());
    let executor = rig.executor();
    spawnable(&executor.execute(&plan, &rig.world));
}
