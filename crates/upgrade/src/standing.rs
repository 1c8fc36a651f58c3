//! Where an upgrade stands, and which side serves: read from the journal, and from nothing else.

use pgleap_saga::{Direction, Outcome, PlanState, Step, StepStatus};
use serde::Serialize;

use crate::{fix, pg::Side, switchover::move_clients::MoveClients};

/// Where an upgrade stands, read from the journal alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// Nothing was begun, or all was unwound.
    Nothing,
    /// A plan is under way, or stopped on its way.
    Open {
        /// Its id.
        plan: String,
        /// `upgrade`, `switchover` or `finalize`.
        kind: String,
        /// The side that served when it began.
        serving: Side,
        /// It can only go forward.
        past_point_of_no_return: bool,
        /// It is being taken back.
        unwinding: bool,
        /// Its clients were moved: the other side serves already.
        clients_moved: bool,
        /// Its pause is not over: clients may be waiting, until it is resumed or taken back.
        paused: bool,
    },
    /// The source serves, the target follows.
    InSync,
    /// The target serves, the source follows.
    SwitchedOver,
    /// The target serves, and there is no way back.
    Finalized,
}

impl Standing {
    /// Returns which side serves writes, in a word for a person.
    pub fn traffic(&self) -> String {
        match self {
            Self::Nothing | Self::InSync => "the source serves reads and writes".to_owned(),
            Self::SwitchedOver => "the target serves reads and writes; the source follows".to_owned(),
            Self::Finalized => "the target serves reads and writes".to_owned(),
            Self::Open { kind, serving, past_point_of_no_return, clients_moved, paused, .. }
                if kind == "switchover" =>
            {
                if *clients_moved {
                    format!("the {} serves reads and writes; the way back is not ready yet", serving.other())
                } else if *past_point_of_no_return {
                    format!("the {} takes over; `pgleap resume` finishes it", serving.other())
                } else if !paused {
                    format!("the {serving} serves reads and writes")
                } else {
                    format!("the {serving} serves; clients may be waiting at the pooler until `pgleap resume`")
                }
            }
            Self::Open { serving, .. } => format!("the {serving} serves reads and writes"),
        }
    }
}

/// Returns where an upgrade stands, from all its plans in the order in which they were opened.
pub fn standing(plans: &[PlanState]) -> Standing {
    let mut now = Standing::Nothing;
    let mut taken_back = false;
    // a remedy changes what the source has, and not where the upgrade stands
    for plan in plans.iter().filter(|plan| plan.kind != fix::KIND) {
        if plan.kind == "upgrade" {
            taken_back = plan.direction == Direction::Unwinding;
        } else if taken_back {
            // a switchover and its rollback came before the upgrade was unwound: that is what counts
            continue;
        }
        let serving = match now {
            Standing::SwitchedOver | Standing::Finalized => Side::Target,
            // given up with `finalize`, as its source may never come back
            Standing::Open { clients_moved: true, serving, .. } => serving.other(),
            _ => Side::Source,
        };
        now = match (&plan.outcome, plan.kind.as_str()) {
            (None, kind) => Standing::Open {
                plan: plan.id.clone(),
                kind: kind.to_owned(),
                serving,
                past_point_of_no_return: plan.past_point_of_no_return,
                unwinding: plan.direction == Direction::Unwinding,
                clients_moved: plan
                    .steps
                    .iter()
                    .any(|step| step.name == MoveClients::NAME.0 && step.status == StepStatus::Done),
                paused: plan.open_section().is_some(),
            },
            (Some(Outcome::Done), "upgrade") => Standing::InSync,
            (Some(_), "upgrade") => Standing::Nothing,
            (Some(Outcome::Done), "switchover") => match from_of(plan) {
                Side::Source => Standing::SwitchedOver,
                Side::Target => Standing::InSync,
            },
            (Some(Outcome::Done), "finalize") => Standing::Finalized,
            (Some(_), _) => now,
        };
    }
    now
}

/// Returns the side which a switchover leaves.
pub fn from_of(plan: &PlanState) -> Side {
    plan.params.get("from").cloned().and_then(|from| serde_json::from_value(from).ok()).unwrap_or(Side::Source)
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use pgleap_saga::{
        Class, Cx, EventSink, Executor, Journal, Observed, Plan, RetryPolicy, Reversal, StepError, StepName, StopSignal,
    };

    use super::*;
    use crate::{
        Chain, Config, finalize, replicate,
        switchover::{fence::Fence, turn_replication::TurnReplication},
        world::World,
    };

    /// A step with the name and the way back of a real one, which does nothing, or fails as it is told.
    struct Acted<S> {
        fails: Option<StepError>,
        undo_fails: Option<StepError>,
        as_step: PhantomData<fn() -> S>,
    }

    impl<S: Step<World>> Step<()> for Acted<S> {
        type Output = ();
        const NAME: StepName = S::NAME;
        const REVISION: u32 = S::REVISION;
        const REVERSAL: Reversal = S::REVERSAL;

        fn summary(&self) -> String {
            String::new()
        }
        async fn probe(&self, _: &Cx<'_, ()>) -> Result<Observed<()>, StepError> {
            Ok(Observed::Absent)
        }
        async fn run(&self, _: &Cx<'_, ()>) -> Result<(), StepError> {
            self.fails.clone().map_or(Ok(()), Err)
        }
        async fn undo(&self, _: &Cx<'_, ()>) -> Result<(), StepError> {
            self.undo_fails.clone().map_or(Ok(()), Err)
        }
    }

    /// How a plan goes: the step that fails, how, and whether what was done can be taken back.
    #[derive(Clone, Copy, Default)]
    struct Story {
        fails: Option<(StepName, Class)>,
        undo_fails: bool,
    }

    impl Story {
        fn blocked<S: Step<World>>() -> Self {
            Self { fails: Some((S::NAME, Class::Blocked)), undo_fails: false }
        }

        fn fatal<S: Step<World>>() -> Self {
            Self { fails: Some((S::NAME, Class::Fatal)), undo_fails: false }
        }

        fn act<S: Step<World>>(self) -> Acted<S> {
            let error = |class| StepError { class, ..StepError::fatal("told to fail", "none") };
            let fails = self.fails.filter(|(name, _)| *name == S::NAME).map(|(_, class)| error(class));
            Acted { fails, undo_fails: self.undo_fails.then(|| error(Class::Blocked)), as_step: PhantomData }
        }
    }

    type Slots = replicate::CreateSlots;
    type DropReverse = finalize::DropReverse;

    /// A journal, written by the executor as it would write it.
    struct Desk {
        journal: Journal,
        _dir: tempfile::TempDir,
    }

    impl Desk {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { journal: Journal::open(dir.path().join("journal.sqlite")).unwrap(), _dir: dir }
        }

        fn executor(&self) -> Executor<'_> {
            Executor::new(&self.journal, EventSink::new(), RetryPolicy::default(), StopSignal::new())
        }

        fn upgrade_plan(id: &str, story: Story) -> Plan<()> {
            Plan::new(id, "upgrade", serde_json::Value::Null).then(story.act::<Slots>())
        }

        async fn upgrade(&self, id: &str, story: Story) -> Standing {
            self.execute(&Self::upgrade_plan(id, story)).await
        }

        async fn unwind(&self, id: &str, story: Story) -> Standing {
            let cause = StepError::fatal("changed our minds", "none");
            self.executor().unwind(&Self::upgrade_plan(id, story), &(), cause).await.unwrap();
            self.standing()
        }

        async fn switchover(&self, id: &str, from: Side, story: Story) -> Standing {
            let plan = Plan::new(id, "switchover", serde_json::json!({ "from": from }))
                .then(story.act::<Fence>())
                .then(story.act::<MoveClients>())
                .then(story.act::<TurnReplication>());
            self.execute(&plan).await
        }

        async fn finalize(&self, id: &str, story: Story) -> Standing {
            let plan = Plan::new(id, "finalize", serde_json::Value::Null).then(story.act::<DropReverse>());
            self.execute(&plan).await
        }

        async fn execute(&self, plan: &Plan<()>) -> Standing {
            self.executor().execute(plan, &()).await.unwrap();
            self.standing()
        }

        fn standing(&self) -> Standing {
            standing(&self.journal.plans().unwrap())
        }
    }

    const WELL: Story = Story { fails: None, undo_fails: false };

    /// An open plan that did not pass its point of no return.
    fn open(plan: &str, kind: &str, serving: Side) -> Standing {
        let (past_point_of_no_return, unwinding, clients_moved) = (false, false, false);
        let (plan, kind) = (plan.to_owned(), kind.to_owned());
        Standing::Open { plan, kind, serving, past_point_of_no_return, unwinding, clients_moved, paused: false }
    }

    fn past_no_return(plan: &str, kind: &str, serving: Side, clients_moved: bool) -> Standing {
        let (plan, kind) = (plan.to_owned(), kind.to_owned());
        Standing::Open {
            plan,
            kind,
            serving,
            past_point_of_no_return: true,
            unwinding: false,
            clients_moved,
            paused: false,
        }
    }

    fn unwinding(plan: &str, kind: &str, serving: Side) -> Standing {
        let (plan, kind) = (plan.to_owned(), kind.to_owned());
        let (past_point_of_no_return, clients_moved) = (false, false);
        Standing::Open { plan, kind, serving, past_point_of_no_return, unwinding: true, clients_moved, paused: false }
    }

    #[tokio::test]
    async fn upgrade_stands_open_until_it_is_in_sync_and_nothing_is_left_of_one_that_was_unwound() {
        let desk = Desk::new();
        assert_eq!(desk.standing(), Standing::Nothing);
        assert_eq!(desk.upgrade("u1", Story::blocked::<Slots>()).await, open("u1", "upgrade", Side::Source));
        let stuck = Story { undo_fails: true, ..Story::fatal::<Slots>() };
        assert_eq!(desk.upgrade("u1", stuck).await, unwinding("u1", "upgrade", Side::Source));
        assert_eq!(desk.upgrade("u1", WELL).await, Standing::Nothing, "the unwinding goes on, and ends");
        assert_eq!(desk.upgrade("u2", WELL).await, Standing::InSync);
        let stuck = Story { undo_fails: true, ..WELL };
        assert_eq!(desk.unwind("u2", stuck).await, unwinding("u2", "upgrade", Side::Source), "it was done before");
        assert_eq!(desk.unwind("u2", WELL).await, Standing::Nothing);
    }

    #[tokio::test]
    async fn switchover_and_rollback_stand_with_the_side_that_serves() {
        use Side::{Source, Target};
        let desk = Desk::new();
        desk.upgrade("u1", WELL).await;
        let held = desk.switchover("s1", Source, Story::blocked::<Fence>()).await;
        assert_eq!(held, open("s1", "switchover", Source));
        assert_eq!(held.traffic(), "the source serves reads and writes", "nobody waits before the pause");
        assert_eq!(desk.switchover("s1", Source, Story::fatal::<Fence>()).await, Standing::InSync, "taken back");
        let moving = desk.switchover("s2", Source, Story::blocked::<MoveClients>()).await;
        assert_eq!(moving, past_no_return("s2", "switchover", Source, false));
        assert_eq!(moving.traffic(), "the target takes over; `pgleap resume` finishes it");
        let moved = desk.switchover("s2", Source, Story::blocked::<TurnReplication>()).await;
        assert_eq!(moved, past_no_return("s2", "switchover", Source, true));
        assert_eq!(moved.traffic(), "the target serves reads and writes; the way back is not ready yet");
        assert_eq!(desk.switchover("s2", Source, WELL).await, Standing::SwitchedOver);

        let held = desk.switchover("s3", Target, Story::blocked::<Fence>()).await;
        assert_eq!(held, open("s3", "switchover", Target));
        assert_eq!(desk.switchover("s3", Target, Story::fatal::<Fence>()).await, Standing::SwitchedOver, "taken back");
        let moving = desk.switchover("s4", Target, Story::blocked::<MoveClients>()).await;
        assert_eq!(moving.traffic(), "the source takes over; `pgleap resume` finishes it");
        assert_eq!(desk.switchover("s4", Target, WELL).await, Standing::InSync);
    }

    #[tokio::test]
    async fn unwinding_counts_whatever_came_between_and_the_next_upgrade_begins_anew() {
        let desk = Desk::new();
        desk.upgrade("u1", WELL).await;
        desk.switchover("s1", Side::Source, WELL).await;
        desk.switchover("s2", Side::Target, WELL).await;
        let stuck = Story { undo_fails: true, ..WELL };
        assert_eq!(desk.unwind("u1", stuck).await, unwinding("u1", "upgrade", Side::Source));
        assert_eq!(desk.unwind("u1", WELL).await, Standing::Nothing);
        assert_eq!(desk.upgrade("u2", WELL).await, Standing::InSync);
        assert_eq!(desk.switchover("s3", Side::Source, WELL).await, Standing::SwitchedOver);
    }

    #[tokio::test]
    async fn finalize_stands_with_the_target_also_when_it_gives_a_switchover_up() {
        let desk = Desk::new();
        desk.upgrade("u1", WELL).await;
        desk.switchover("s1", Side::Source, WELL).await;
        let under_way = past_no_return("f1", "finalize", Side::Target, false);
        assert_eq!(desk.finalize("f1", Story::blocked::<DropReverse>()).await, under_way);
        assert_eq!(under_way.traffic(), "the target serves reads and writes");
        assert_eq!(desk.finalize("f1", WELL).await, Standing::Finalized);

        let desk = Desk::new();
        desk.upgrade("u1", WELL).await;
        desk.switchover("s1", Side::Source, Story::blocked::<TurnReplication>()).await;
        assert_eq!(desk.finalize("f1", Story::blocked::<DropReverse>()).await, under_way);
        assert_eq!(desk.finalize("f1", WELL).await, Standing::Finalized);
        let text = "[source]\ndsn = \"host=/ user=u dbname=d\"\n[target]\nversion = 18\nport = 1\ndata_dir = \"/t\"\n\
                    [provider]\nkind = \"self_managed\"\nwork_dir = \"/w\"\n[route]\nkind = \"pgbouncer\"\n\
                    [[route.pgbouncer]]\nadmin = \"host=/ user=u\"\nini = \"/i\"\n";
        let config = Config::parse(text, std::path::Path::new("/")).unwrap();
        let world = World::describe(config, "7f3a".into(), crate::guard::Launch::Task).await.unwrap();
        let chain = Chain::new(&world, &desk.journal, EventSink::new(), StopSignal::new());
        let refused = chain.resume().await.unwrap_err();
        assert_eq!(refused.to_string(), "cannot resume now: nothing was interrupted", "the switchover was given up");
    }
}
