//! A world of named things in memory, steps that make and remove them, and a rig that runs a plan on it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pgleap_saga::{
    Cx, Event, EventKind, EventSink, Executor, Journal, Observed, Outcome, Plan, PlanState, Record, RetryPolicy,
    StepError, StopSignal,
};
use tokio::sync::broadcast;

/// What a step does instead of (or before) its work, once.
pub enum Act {
    Fail(StepError),
    Hang,
    Sleep(Duration),
    /// As `Sleep`, but no one else runs meanwhile: the deadline cannot cut it short.
    Block(Duration),
    Panic,
    Lose(&'static str),
    Stop(StopSignal),
    Note(&'static str),
    Do(Box<dyn FnOnce() + Send>),
}

#[derive(Default)]
pub struct World {
    things: Mutex<BTreeMap<&'static str, bool>>,
    acts: Mutex<BTreeMap<String, VecDeque<Act>>>,
    calls: Mutex<Vec<String>>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Lets the call, `prepare.copy/run`, do this the next time; several acts are done at one call each.
    pub fn at(&self, call: &str, act: Act) -> &Self {
        lock(&self.acts).entry(call.into()).or_default().push_back(act);
        self
    }

    /// Lets the first so many calls do this.
    pub fn at_first(&self, calls: usize, call: &str, act: fn() -> Act) -> &Self {
        (0..calls).fold(self, |world, _| world.at(call, act()))
    }

    /// The things that exist whole.
    pub fn things(&self) -> Vec<&'static str> {
        lock(&self.things).iter().filter(|(_, whole)| **whole).map(|(name, _)| *name).collect()
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.things).is_empty()
    }

    /// Calls of `run` and `undo` so far, in order.
    pub fn calls(&self) -> Vec<String> {
        lock(&self.calls).iter().filter(|call| !call.ends_with("/probe")).cloned().collect()
    }

    pub fn set(&self, name: &'static str, whole: bool) {
        lock(&self.things).insert(name, whole);
    }

    pub fn lose(&self, name: &str) {
        lock(&self.things).remove(name);
    }

    pub fn look(&self, name: &'static str) -> Observed<String> {
        match lock(&self.things).get(name) {
            None => Observed::Absent,
            Some(false) => Observed::Partial("half made".into()),
            Some(true) => Observed::Done(format!("{name}, found")),
        }
    }

    pub async fn act(&self, cx: &Cx<'_, Self>, name: &str, call: &str) -> Result<(), StepError> {
        let call = format!("{name}/{call}");
        let act = lock(&self.acts).get_mut(&call).and_then(VecDeque::pop_front);
        lock(&self.calls).push(call);
        match act {
            Some(Act::Fail(error)) => return Err(error),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Sleep(time)) => tokio::time::sleep(time).await,
            Some(Act::Block(time)) => std::thread::sleep(time),
            Some(Act::Panic) => panic!("told to panic"),
            Some(Act::Lose(thing)) => self.lose(thing),
            Some(Act::Stop(stop)) => {
                stop.request();
                tokio::task::yield_now().await;
            }
            Some(Act::Note(text)) => cx.note(text),
            Some(Act::Do(work)) => work(),
            None => {}
        }
        Ok(())
    }
}

/// Declares a step that makes the thing of its own name, half and then whole.
macro_rules! makes {
    ($step:ident, $name:literal, $reversal:ident, standing: $standing:literal, revision: $revision:literal) => {
        pub struct $step;

        impl pgleap_saga::Step<$crate::world::World> for $step {
            type Output = String;
            const NAME: pgleap_saga::StepName = pgleap_saga::StepName($name);
            const REVISION: u32 = $revision;
            const REVERSAL: pgleap_saga::Reversal = pgleap_saga::Reversal::$reversal;
            const STANDING: bool = $standing;

            fn summary(&self) -> String {
                format!("make {}", $name)
            }
            async fn probe(
                &self,
                cx: &pgleap_saga::Cx<'_, $crate::world::World>,
            ) -> Result<pgleap_saga::Observed<String>, pgleap_saga::StepError> {
                cx.world.act(cx, $name, "probe").await?;
                Ok(cx.world.look($name))
            }
            async fn run(
                &self,
                cx: &pgleap_saga::Cx<'_, $crate::world::World>,
            ) -> Result<String, pgleap_saga::StepError> {
                cx.world.act(cx, $name, "run").await?;
                cx.world.set($name, false);
                pgleap_saga::fault_point!(concat!($name, ".half_made"));
                cx.world.set($name, true);
                cx.world.act(cx, $name, "made").await?;
                Ok(format!("{}, made", $name))
            }
            async fn undo(
                &self,
                cx: &pgleap_saga::Cx<'_, $crate::world::World>,
            ) -> Result<(), pgleap_saga::StepError> {
                cx.world.act(cx, $name, "undo").await?;
                assert!(Self::REVERSAL == pgleap_saga::Reversal::Undo, "{} is never undone", $name);
                pgleap_saga::fault_point!(concat!($name, ".half_undone"));
                cx.world.lose($name);
                Ok(())
            }
        }
    };
    ($step:ident, $name:literal) => {
        makes!($step, $name, Undo, standing: false, revision: 1);
    };
}
pub(crate) use makes;

makes!(Copy, "prepare.copy");
makes!(Server, "prepare.start_server", Undo, standing: true, revision: 1);
makes!(Pause, "switchover.pause");
makes!(Fence, "switchover.fence");
makes!(Open, "switchover.open", PointOfNoReturn, standing: false, revision: 1);
makes!(Resume, "switchover.resume");
makes!(Follow, "soak.follow");

pub const BUDGET: Duration = Duration::from_secs(2);

/// Copy, a server that must stay up, and a write pause with the point of no return in it.
pub fn switchover() -> Plan<World> {
    switchover_within(BUDGET)
}

pub fn switchover_within(budget: Duration) -> Plan<World> {
    Plan::new("switchover-1", "switchover", serde_json::json!({ "source": "orders" }))
        .then(Copy)
        .then(Server)
        .section("write pause", budget, |s| s.then(Pause).then(Fence).then(Open).then(Resume))
        .then(Follow)
}

/// Two steps and a standing one between them; there is always a way back.
pub fn prepare() -> Plan<World> {
    Plan::new("prepare-1", "prepare", serde_json::json!({})).then(Copy).then(Server).then(Follow)
}

/// A journal in a directory of its own, and what is needed to run plans on it.
pub struct Rig {
    pub directory: tempfile::TempDir,
    pub journal: Journal,
    pub world: World,
    pub sink: EventSink,
    pub stop: StopSignal,
    events: Mutex<broadcast::Receiver<Event>>,
}

impl Rig {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path().join("journal")).unwrap();
        let sink = EventSink::new();
        let events = Mutex::new(sink.subscribe());
        Self { directory, journal, world: World::default(), sink, stop: StopSignal::new(), events }
    }

    pub fn executor(&self) -> Executor<'_> {
        Executor::new(&self.journal, self.sink.clone(), RetryPolicy::default(), self.stop.clone())
    }

    pub async fn execute(&self, plan: &Plan<World>) -> Outcome {
        self.executor().execute(plan, &self.world).await.unwrap()
    }

    /// Another process on the same journal and world: nobody has asked it to stop.
    pub fn next_process(mut self) -> Self {
        self.stop = StopSignal::new();
        drop(self.journal);
        self.journal = Journal::open(self.directory.path().join("journal")).unwrap();
        self
    }

    pub fn state(&self) -> PlanState {
        self.journal.plans().unwrap().pop().unwrap()
    }

    pub fn records(&self) -> Vec<Record> {
        self.journal.records(0).unwrap()
    }

    /// `kind step` of every record that is no line of the story.
    pub fn facts(&self) -> Vec<String> {
        let fact = |r: Record| format!("{} {}", r.kind.as_str(), r.step.unwrap_or_default()).trim().to_owned();
        self.records().into_iter().map(fact).filter(|fact| !fact.starts_with("note")).collect()
    }

    /// Events since the last call.
    pub fn events(&self) -> Vec<EventKind> {
        let mut events = lock(&self.events);
        std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.kind).collect()
    }
}

pub fn transient() -> Act {
    Act::Fail(StepError::transient("connection refused"))
}

pub fn blocked() -> Act {
    Act::Fail(StepError::blocked("the disk is full", "make room"))
}

pub fn fatal() -> Act {
    Act::Fail(StepError::fatal("the slot is lost", "start again"))
}
