//! Every failure, every death, every repetition, by the harness.

use pgleap_saga::{
    Cx, Observed, Plan, Reversal, Step, StepError, StepName,
    harness::{self, End, Scenario},
};

use crate::world::{Copy, Follow, Pause, Resume, Server, World, prepare, switchover};

struct Maps {
    plan: fn() -> Plan<World>,
    done: &'static [&'static str],
}

impl Scenario for Maps {
    type World = World;

    async fn world(&self) -> World {
        World::default()
    }
    fn plan(&self, _: &World) -> Plan<World> {
        (self.plan)()
    }
    async fn check(&self, world: &World, end: End) -> Result<(), String> {
        match end {
            End::Done if world.things() == self.done => Ok(()),
            End::Unwound if world.is_empty() => Ok(()),
            _ => Err(format!("the world holds {:?}", world.things())),
        }
    }
}

const SWITCHED_OVER: &[&str] = &[
    "prepare.copy",
    "prepare.start_server",
    "soak.follow",
    "switchover.fence",
    "switchover.open",
    "switchover.pause",
    "switchover.resume",
];

#[tokio::test(start_paused = true)]
async fn a_plan_with_a_write_pause_and_a_point_of_no_return_survives_every_case() {
    let cases = harness::every_case(&Maps { plan: switchover, done: SWITCHED_OVER }).await;
    assert!(cases > 7 * 9 + 60, "only {cases} cases");
}

#[tokio::test(start_paused = true)]
async fn a_plan_with_a_way_back_to_the_end_survives_every_case() {
    let done = &["prepare.copy", "prepare.start_server", "soak.follow"];
    let cases = harness::every_case(&Maps { plan: prepare, done }).await;
    assert!(cases > 3 * 9 + 40, "only {cases} cases");
}

/// Has no effect; its run reads what `Copy` made.
struct Look;

impl Step<World> for Look {
    type Output = String;
    const NAME: StepName = StepName("prepare.look");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "look at the copy".into()
    }
    async fn probe(&self, _: &Cx<'_, World>) -> Result<Observed<String>, StepError> {
        Ok(Observed::Absent)
    }
    async fn run(&self, cx: &Cx<'_, World>) -> Result<String, StepError> {
        cx.sample("size_bytes", 1.0);
        cx.output::<Copy>()
    }
    async fn undo(&self, _: &Cx<'_, World>) -> Result<(), StepError> {
        panic!("a step with nothing to take back is not undone")
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_with_a_section_but_no_point_of_no_return_survives_every_case() {
    let plan = || {
        let second = std::time::Duration::from_secs(1);
        Plan::new("rehearsal-1", "rehearse", serde_json::Value::Null)
            .then(Copy)
            .then(Look)
            .section("rehearsed pause", second, |s| s.then(Pause).then(Resume))
            .section("nothing", second, |s| s)
            .then(Server)
            .section("last", second, |s| s.then(Follow))
    };
    let done = &["prepare.copy", "prepare.start_server", "soak.follow", "switchover.pause", "switchover.resume"];
    harness::every_case(&Maps { plan, done }).await;
}

/// Leaves its thing behind when it is undone after it ran whole: what the harness exists to find.
struct Leaves;

impl Step<World> for Leaves {
    type Output = ();
    const NAME: StepName = StepName("prepare.leave");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        "leave a thing".into()
    }
    async fn probe(&self, _: &Cx<'_, World>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }
    async fn run(&self, cx: &Cx<'_, World>) -> Result<(), StepError> {
        cx.world.set("prepare.leave", true);
        Ok(())
    }
    async fn undo(&self, _: &Cx<'_, World>) -> Result<(), StepError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "Unwound, but the world holds [\"prepare.leave\"]")]
async fn the_harness_finds_an_undo_that_leaves_something_behind() {
    let plan = || Plan::new("p-1", "p", serde_json::Value::Null).then(Leaves);
    harness::every_case(&Maps { plan, done: &["prepare.leave"] }).await;
}
