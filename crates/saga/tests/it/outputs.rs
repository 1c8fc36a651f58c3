//! Outputs, read back from the journal by the step's name.

use pgleap_saga::{Class, Cx, EventKind, EventSink, Journal, Outcome, Plan, Step, StepError};
use serde_json::json;

use crate::world::{Copy, Follow, Rig, Server, World, makes, prepare};

/// Reads the output of `S` as a step of `plan` would, by running one that does.
struct Reads<S>(std::marker::PhantomData<fn() -> S>);

impl<S: Step<World, Output = String>> Step<World> for Reads<S> {
    type Output = (Option<String>, Option<String>);
    const NAME: pgleap_saga::StepName = pgleap_saga::StepName("verify.read");
    const REVISION: u32 = 1;
    const REVERSAL: pgleap_saga::Reversal = pgleap_saga::Reversal::Nothing;

    fn summary(&self) -> String {
        "read".into()
    }
    async fn probe(&self, _: &Cx<'_, World>) -> Result<pgleap_saga::Observed<Self::Output>, StepError> {
        Ok(pgleap_saga::Observed::Absent)
    }
    async fn run(&self, cx: &Cx<'_, World>) -> Result<Self::Output, StepError> {
        Ok((cx.try_output::<S>()?, cx.output_elsewhere::<S>()?))
    }
    async fn undo(&self, _: &Cx<'_, World>) -> Result<(), StepError> {
        Ok(())
    }
}

fn reads<S: Step<World, Output = String>>() -> Reads<S> {
    Reads(std::marker::PhantomData)
}

fn plan(id: &str) -> Plan<World> {
    Plan::new(id, "p", json!({}))
}

async fn read(rig: &Rig, plan: Plan<World>) -> serde_json::Value {
    assert_eq!(rig.execute(&plan).await, Outcome::Done);
    let mut records = rig.records();
    records.retain(|r| r.kind.as_str() == "succeeded" && r.step.as_deref() == Some("verify.read"));
    records.pop().unwrap().body["output"].take()
}

#[tokio::test]
async fn an_output_comes_from_this_plan_or_from_the_newest_other_one_that_has_it() {
    let rig = Rig::new();
    assert_eq!(rig.execute(&plan("a-1").then(Copy)).await, Outcome::Done);
    assert_eq!(rig.execute(&plan("a-2").then(Copy)).await, Outcome::Done);
    assert_eq!(rig.execute(&plan("a-3").then(Server)).await, Outcome::Done);
    // a-2 found what a-1 had made.
    assert_eq!(
        read(&rig, plan("b-1").then(reads::<Copy>())).await,
        json!(["prepare.copy, found", "prepare.copy, found"])
    );
    rig.world.lose("prepare.copy");
    let own = read(&rig, plan("b-2").then(Copy).then(reads::<Copy>())).await;
    assert_eq!(own, json!(["prepare.copy, made", "prepare.copy, found"]));
}

#[tokio::test]
async fn a_step_of_this_plan_is_never_taken_from_another_plan() {
    let rig = Rig::new();
    assert_eq!(rig.execute(&plan("a-1").then(Copy)).await, Outcome::Done);
    let early = read(&rig, plan("b-1").then(reads::<Copy>()).then(Copy)).await;
    assert_eq!(early, json!([null, "prepare.copy, made"]));
}

#[tokio::test]
async fn an_output_that_was_undone_is_gone() {
    let rig = Rig::new();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    let cx = Cx::standalone(&rig.world, &rig.journal);
    assert_eq!(cx.output::<Follow>().unwrap(), "soak.follow, made");
    rig.executor().unwind(&prepare(), &rig.world, StepError::fatal("x", "")).await.unwrap();
    assert_eq!(cx.try_output::<Follow>().unwrap(), None);
    let error = cx.output::<Follow>().unwrap_err();
    assert_eq!((error.class, error.message.contains("`soak.follow`")), (Class::Fatal, true));
}

#[tokio::test]
async fn an_undone_output_does_not_hide_the_one_of_an_older_plan() {
    let rig = Rig::new();
    assert_eq!(rig.execute(&plan("a-1").then(Copy)).await, Outcome::Done);
    assert_eq!(rig.execute(&plan("a-2").then(Copy)).await, Outcome::Done);
    let newer = plan("a-2").then(Copy);
    rig.executor().unwind(&newer, &rig.world, StepError::fatal("x", "")).await.unwrap();
    let cx = Cx::standalone(&rig.world, &rig.journal);
    assert_eq!(cx.output::<Copy>().unwrap(), "prepare.copy, made");
}

/// Keeps in the world whether, when it is taken back, the output of `Follow` is still to be had.
struct Witness;

impl Step<World> for Witness {
    type Output = ();
    const NAME: pgleap_saga::StepName = pgleap_saga::StepName("verify.witness");
    const REVISION: u32 = 1;
    const REVERSAL: pgleap_saga::Reversal = pgleap_saga::Reversal::Undo;

    fn summary(&self) -> String {
        "witness".into()
    }
    async fn probe(&self, _: &Cx<'_, World>) -> Result<pgleap_saga::Observed<()>, StepError> {
        Ok(pgleap_saga::Observed::Done(()))
    }
    async fn run(&self, _: &Cx<'_, World>) -> Result<(), StepError> {
        Ok(())
    }
    async fn undo(&self, cx: &Cx<'_, World>) -> Result<(), StepError> {
        if cx.try_output::<Follow>()?.is_none() {
            cx.world.set("gone", true);
        }
        cx.try_output::<Witness>()?.ok_or_else(|| StepError::fatal("its own output is gone", ""))
    }
}

#[tokio::test]
async fn an_undo_still_has_its_own_output_and_no_longer_those_of_later_steps() {
    let rig = Rig::new();
    let both = || plan("a-1").then(Witness).then(Follow);
    assert_eq!(rig.execute(&both()).await, Outcome::Done);
    let outcome = rig.executor().unwind(&both(), &rig.world, StepError::fatal("x", "")).await.unwrap();
    assert!(matches!(outcome, Outcome::Unwound { .. }), "{outcome:?}");
    assert_eq!(rig.world.things(), ["gone"]);
}

#[tokio::test]
async fn an_output_of_another_revision_is_refused() {
    makes!(NewerCopy, "prepare.copy", Undo, standing: false, revision: 2);
    let rig = Rig::new();
    assert_eq!(rig.execute(&plan("a-1").then(Copy)).await, Outcome::Done);
    let error = Cx::standalone(&rig.world, &rig.journal).output::<NewerCopy>().unwrap_err();
    assert_eq!(error.message, "plan `a-1` ran step `prepare.copy` in revision 1, this program reads revision 2");
}

#[tokio::test]
async fn a_context_outside_plans_notes_and_samples_and_reads_a_journal_that_it_may_not_write() {
    let rig = Rig::new();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    let cx = Cx::standalone(&rig.world, &rig.journal).with_sink(rig.sink.clone());
    rig.events();
    cx.note("all rows equal");
    cx.warn("one table has no key");
    cx.sample("rows", 7.0);
    assert_eq!(
        rig.events(),
        [
            EventKind::Noted { text: "all rows equal".into() },
            EventKind::Warned { text: "one table has no key".into() },
            EventKind::Sampled { name: "rows".into(), value: 7.0 },
        ]
    );
    let last = rig.records().pop().unwrap();
    assert_eq!((last.plan.as_str(), last.kind.as_str()), ("", "warning"));
    assert_eq!(rig.journal.samples().unwrap()[0].value, 7.0);
    assert_eq!(rig.journal.plans().unwrap().len(), 1);

    let reader = Journal::read_only(rig.journal.path()).unwrap();
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let cx = Cx::standalone(&rig.world, &reader).with_sink(sink);
    cx.note("seen");
    cx.sample("rows", 8.0);
    assert_eq!(cx.output::<Copy>().unwrap(), "prepare.copy, made");
    assert_eq!(events.try_recv().unwrap().kind, EventKind::Noted { text: "seen".into() });
    assert_eq!(events.try_recv().unwrap().kind, EventKind::Sampled { name: "rows".into(), value: 8.0 });
    assert!(events.try_recv().is_err());
}
