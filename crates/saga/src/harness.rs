//! Runs a plan through every failure and every death, and asks after each whether the world is as it must be.
//!
//! A step is covered the moment it joins a plan: whoever has a plan describes it once as a [`Scenario`] and calls
//! [`every_case`]. Worlds may be maps in memory or real servers; a case that goes wrong panics with its own name.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use rusqlite::Connection;
use serde_json::Value;

use crate::{
    Class, Cx, Direction, EngineError, EventSink, Executor, Journal, JournalError, Observed, Outcome, Plan, PlanState,
    Release, RetryPolicy, Reversal, StepError, StepName, StopSignal, fault::Script, plan::AnyStep,
};

/// A plan, the world it works on, and how that must look in the end.
pub trait Scenario {
    /// What the steps work on.
    type World: Sync + 'static;

    /// Returns a fresh world, as it is before the plan.
    fn world(&self) -> impl Future<Output = Self::World>;

    /// Returns the plan; called again for every resume, with the same id and steps.
    fn plan(&self, world: &Self::World) -> Plan<Self::World>;

    /// Looks at the world after the plan reached `end`; an error says what is wrong with it.
    fn check(&self, world: &Self::World, end: End) -> impl Future<Output = Result<(), String>>;
}

/// How a plan ended, and so how the world must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every step holds.
    Done,
    /// The world is as it was before.
    Unwound,
}

/// Runs every case below; returns how many there were.
pub async fn every_case<S: Scenario>(scenario: &S) -> usize {
    straight(scenario).await
        + every_step_twice(scenario).await
        + undo_without_run(scenario).await
        + fail_at_every_step(scenario).await
        + die_at_every_point(scenario).await
        + die_at_every_point_of_unwinding(scenario).await
        + die_once_at_every_point(scenario).await
        + lose_the_journal_at_every_write(scenario).await
}

/// Runs the plan to its end, and once more, which must change nothing.
pub async fn straight<S: Scenario>(scenario: &S) -> usize {
    let case = Case::new(scenario, "straight").await;
    let journal = case.journal();
    case.expect(case.run(&journal, Twist::None).await, &Outcome::Done);
    let records = case.records(&journal);
    case.expect(case.run(&journal, Twist::None).await, &Outcome::Done);
    case.assert(case.records(&journal) == records, "executing a closed plan wrote to the journal");
    case.check(End::Done).await;
    1
}

/// Makes every effect twice in a row, and in another world takes everything back twice in a row, and then again.
pub async fn every_step_twice<S: Scenario>(scenario: &S) -> usize {
    let case = Case::new(scenario, "every run twice").await;
    case.expect(case.run(&case.journal(), Twist::RunTwice).await, &Outcome::Done);
    case.check(End::Done).await;

    let case = Case::new(scenario, "every undo twice").await;
    let Some(last) = case.last_with_a_way_back() else { return 1 };
    let journal = case.journal();
    let error = StepError::fatal("told to fail", "none");
    let fail = Twist::Fail { step: last, when: When::AfterRun, error, fired: Arc::default() };
    let outcome = case.run(&journal, Twist::Both(Box::new(fail), Box::new(Twist::UndoTwice))).await;
    case.assert(matches!(outcome, Outcome::Unwound { .. } | Outcome::Done), &format!("ended as {outcome:?}"));
    if outcome != Outcome::Done {
        case.check(End::Unwound).await;
        case.undo_all(&journal).await;
        case.check(End::Unwound).await;
    }
    2
}

/// Takes back every step of a plan that never ran.
pub async fn undo_without_run<S: Scenario>(scenario: &S) -> usize {
    let case = Case::new(scenario, "undo without run").await;
    case.undo_all(&case.journal()).await;
    case.check(End::Unwound).await;
    1
}

/// Fails once in each step's probe, before its effect and after it, in every class, and resumes.
pub async fn fail_at_every_step<S: Scenario>(scenario: &S) -> usize {
    let steps = scenario.plan(&scenario.world().await).entries.len();
    let mut cases = 0;
    for step in 0..steps {
        for when in [When::Probe, When::BeforeRun, When::AfterRun] {
            for class in [Class::Transient, Class::Blocked, Class::Fatal] {
                fail_once(scenario, step, when, class).await;
                cases += 1;
            }
        }
    }
    cases
}

async fn fail_once<S: Scenario>(scenario: &S, step: usize, when: When, class: Class) {
    let mut case = Case::new(scenario, "").await;
    let (name, section, past) = {
        let plan = scenario.plan(&case.world);
        let no_return = plan.entries.iter().position(|e| e.step.reversal() == Reversal::PointOfNoReturn);
        let past = no_return.is_some_and(|p| step > p || (step == p && when != When::Probe));
        (plan.entries[step].step.name(), plan.entries[step].section, past)
    };
    case.name = format!("{class:?} failure {when:?} in `{name}`");
    let journal = case.journal();
    let fired = Arc::new(AtomicBool::new(false));
    let error = StepError { class, message: "told to fail".into(), cause: None, hint: None };
    let twist = Twist::Fail { step, when, error: error.clone(), fired: fired.clone() };
    let outcome = case.run(&journal, twist).await;
    let failure = crate::Failure { step: name.0.into(), error: error.clone() };
    // A step that the scenario's world has from the start is adopted, and its run never asked.
    let class = if fired.load(Ordering::Relaxed) { class } else { Class::Transient };
    let expected = match class {
        Class::Transient => Outcome::Done,
        _ if section.is_some() && !past => Outcome::Unwound { cause: error },
        Class::Blocked => Outcome::Blocked(failure),
        Class::Fatal if past => Outcome::NeedsOperator(failure),
        Class::Fatal => Outcome::Unwound { cause: error },
    };
    case.expect(outcome.clone(), &expected);
    if matches!(outcome, Outcome::Blocked(_) | Outcome::NeedsOperator(_)) {
        case.expect(case.run(&journal, Twist::None).await, &Outcome::Done);
    }
    case.check(if matches!(outcome, Outcome::Unwound { .. }) { End::Unwound } else { End::Done }).await;
}

/// Dies at every fault point on the way to the end, the points around each journal write among them, and resumes.
pub async fn die_at_every_point<S: Scenario>(scenario: &S) -> usize {
    die_at_each(scenario, "", || Twist::None).await
}

/// Dies at every fault point of a run that fails for good as late as it can, and resumes.
pub async fn die_at_every_point_of_unwinding<S: Scenario>(scenario: &S) -> usize {
    let Some(step) = Case::new(scenario, "").await.last_with_a_way_back() else { return 0 };
    let error = StepError::fatal("told to fail", "none");
    let twist = || Twist::Fail { step, when: When::AfterRun, error: error.clone(), fired: Arc::default() };
    die_at_each(scenario, "unwinding, ", twist).await
}

async fn die_at_each<S: Scenario>(scenario: &S, what: &str, twist: impl Fn() -> Twist) -> usize {
    let points = {
        let case = Case::new(scenario, "trace").await;
        let script = Script::trace();
        script.run(case.run(&case.journal(), twist())).await;
        script.arrivals()
    };
    for (arrival, point) in points.iter().enumerate() {
        let case = Case::new(scenario, &format!("{what}killed at `{point}` (arrival {arrival})")).await;
        let script = Script::kill_at(arrival);
        let killed = script.run(case.run(&case.journal(), twist())).await;
        case.assert(killed.is_none(), "the point was not reached");
        case.resume_and_check().await;
    }
    points.len()
}

/// Dies at every point once, in one life of the plan: each resume dies at the first point that is new to it.
pub async fn die_once_at_every_point<S: Scenario>(scenario: &S) -> usize {
    let case = Case::new(scenario, "killed once at every point").await;
    let mut seen = HashSet::new();
    loop {
        let script = Script::kill_at_new(seen.clone());
        if script.run(case.run(&case.journal(), Twist::None)).await.is_some() {
            break;
        }
        let arrivals = script.arrivals();
        case.assert(!arrivals.is_empty(), "a run died before its first point");
        seen.extend(arrivals);
    }
    case.resume_and_check().await;
    1
}

/// Loses the journal at each write on the way to the end, and of a run that fails for good as late as it can: whoever
/// waits in a section that has a way back is let go. Resumes with the journal at hand again.
pub async fn lose_the_journal_at_every_write<S: Scenario>(scenario: &S) -> usize {
    let last = Case::new(scenario, "").await.last_with_a_way_back();
    let late = || last.map(|step| (step, StepError::fatal("told to fail", "none")));
    let mut cases = 0;
    for late in [None, late()] {
        let twist = || match late.clone() {
            None => Twist::None,
            Some((step, error)) => Twist::Fail { step, when: When::AfterRun, error, fired: Arc::default() },
        };
        for write in 1.. {
            let case =
                Case::new(scenario, &format!("journal lost after record {write}, failing: {}", late.is_some())).await;
            let journal = case.journal();
            case.fill_after(write);
            let ended = case.try_run(&journal, twist()).await;
            let (waited, let_go) = match &ended {
                Ok(_) => break,
                Err(EngineError::Journal(JournalError::Write(_))) => (false, false),
                Err(EngineError::JournalInSection { release, .. }) => (true, matches!(release, Release::Whole { .. })),
                Err(error) => case.fail(&format!("refused: {error}")),
            };
            case.empty();
            let plans = journal.plans().unwrap_or_else(|error| case.fail(&error.to_string()));
            let open = |plan: &PlanState| plan.open_section().is_some() && !plan.past_point_of_no_return;
            case.assert(waited == plans.first().is_some_and(open), &format!("who waits is not known: {ended:?}"));
            case.assert(let_go == waited, &format!("clients are left waiting: {ended:?}"));
            drop(journal);
            case.resume_and_check().await;
            cases += 1;
        }
    }
    cases
}

struct Case<'s, S: Scenario> {
    scenario: &'s S,
    world: S::World,
    name: String,
    directory: tempfile::TempDir,
}

impl<'s, S: Scenario> Case<'s, S> {
    async fn new(scenario: &'s S, name: &str) -> Self {
        // In memory where that can be had: these runs die often, but never with the machine.
        let directory = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap_or_else(|error| panic!("harness: no temporary directory: {error}"));
        Self { scenario, world: scenario.world().await, name: name.into(), directory }
    }

    fn fail(&self, why: &str) -> ! {
        let told = Journal::read_only(self.path()).and_then(|journal| journal.records(0)).unwrap_or_default();
        let told: Vec<_> = told
            .iter()
            .map(|r| format!("  {} {} {}", r.kind.as_str(), r.step.as_deref().unwrap_or("-"), r.body))
            .collect();
        panic!("harness, {}: {why}; the journal:\n{}", self.name, told.join("\n"));
    }

    fn assert(&self, holds: bool, why: &str) {
        if !holds {
            self.fail(why);
        }
    }

    fn expect(&self, outcome: Outcome, expected: &Outcome) {
        self.assert(outcome == *expected, &format!("ended as {outcome:?}, expected {expected:?}"));
    }

    async fn check(&self, end: End) {
        if let Err(why) = self.scenario.check(&self.world, end).await {
            self.fail(&format!("{end:?}, but {why}"));
        }
    }

    fn path(&self) -> PathBuf {
        Path::join(self.directory.path(), "journal")
    }

    fn journal(&self) -> Journal {
        Journal::open(self.path()).unwrap_or_else(|error| self.fail(&format!("the journal does not open: {error}")))
    }

    fn records(&self, journal: &Journal) -> usize {
        journal.records(0).map_or_else(|error| self.fail(&error.to_string()), |records| records.len())
    }

    /// Lets every write fail, from the one after record `n` on, until [`Case::empty`].
    fn fill_after(&self, n: usize) {
        self.alter(&format!(
            "CREATE TRIGGER full BEFORE INSERT ON records WHEN (SELECT max(n) FROM records) >= {n}
             BEGIN SELECT RAISE(ABORT, 'told to be full'); END"
        ));
    }

    fn empty(&self) {
        self.alter("DROP TRIGGER full");
    }

    fn alter(&self, sql: &str) {
        let altered = Connection::open(self.path()).and_then(|journal| journal.execute_batch(sql));
        altered.unwrap_or_else(|error| self.fail(&error.to_string()));
    }

    async fn run(&self, journal: &Journal, twist: Twist) -> Outcome {
        self.try_run(journal, twist).await.unwrap_or_else(|error| self.fail(&format!("refused: {error}")))
    }

    async fn try_run(&self, journal: &Journal, twist: Twist) -> Result<Outcome, EngineError> {
        let mut plan = self.scenario.plan(&self.world);
        let twist = Arc::new(twist);
        plan.entries = plan
            .entries
            .into_iter()
            .enumerate()
            .map(|(index, mut entry)| {
                entry.step = Box::new(Twisted { inner: entry.step, index, twist: twist.clone() });
                entry
            })
            .collect();
        let retry = RetryPolicy { first: Duration::from_millis(5), ..RetryPolicy::default() };
        let executor = Executor::new(journal, EventSink::new(), retry, StopSignal::new());
        executor.execute(&plan, &self.world).await
    }

    /// Resumes after a death, to the end that the journal calls for.
    async fn resume_and_check(&self) {
        let journal = self.journal();
        let plans = journal.plans().unwrap_or_else(|error| self.fail(&error.to_string()));
        let back = plans.first().is_some_and(|plan| {
            let waiting = plan.open_section().is_some() && !plan.past_point_of_no_return;
            plan.direction == Direction::Unwinding || waiting
        });
        match (self.run(&journal, Twist::None).await, back) {
            (Outcome::Done, false) => self.check(End::Done).await,
            (Outcome::Unwound { .. }, true) => self.check(End::Unwound).await,
            (outcome, _) => self.fail(&format!("the resume ended as {outcome:?}")),
        }
        let plans = journal.plans().unwrap_or_else(|error| self.fail(&error.to_string()));
        self.assert(plans.iter().all(|plan| plan.outcome.is_some()), "the plan was not closed");
    }

    async fn undo_all(&self, journal: &Journal) {
        let plan = self.scenario.plan(&self.world);
        for entry in plan.entries.iter().rev().filter(|entry| entry.step.reversal() == Reversal::Undo) {
            let cx = Cx {
                world: &self.world,
                journal,
                sink: EventSink::new(),
                plan: Some((&plan.id, &plan.names)),
                step: Some(entry.step.name()),
                deadline: None,
                stop: StopSignal::new(),
            };
            if let Err(error) = entry.step.undo(&cx).await {
                self.fail(&format!("undo of `{}` failed: {error}", entry.step.name()));
            }
        }
    }

    /// The last step whose failure still unwinds the plan.
    fn last_with_a_way_back(&self) -> Option<usize> {
        let plan = self.scenario.plan(&self.world);
        let no_return = plan.entries.iter().position(|e| e.step.reversal() == Reversal::PointOfNoReturn);
        no_return.unwrap_or(plan.entries.len()).checked_sub(1)
    }
}

/// Where in a step a failure strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Probe,
    BeforeRun,
    AfterRun,
}

/// What a run does to its steps.
enum Twist {
    None,
    RunTwice,
    UndoTwice,
    Fail { step: usize, when: When, error: StepError, fired: Arc<AtomicBool> },
    Both(Box<Twist>, Box<Twist>),
}

impl Twist {
    /// Fails if it is told to here, the first time.
    fn strike(&self, index: usize, here: When) -> Result<(), StepError> {
        match self {
            Self::Fail { step, when, error, fired }
                if *step == index && *when == here && !fired.swap(true, Ordering::Relaxed) =>
            {
                Err(error.clone())
            }
            Self::Both(one, other) => one.strike(index, here).and_then(|()| other.strike(index, here)),
            _ => Ok(()),
        }
    }

    fn undoes_twice(&self) -> bool {
        match self {
            Self::UndoTwice => true,
            Self::Both(one, other) => one.undoes_twice() || other.undoes_twice(),
            _ => false,
        }
    }
}

struct Twisted<W> {
    inner: Box<dyn AnyStep<W>>,
    index: usize,
    twist: Arc<Twist>,
}

impl<W: Sync> AnyStep<W> for Twisted<W> {
    fn name(&self) -> StepName {
        self.inner.name()
    }
    fn revision(&self) -> u32 {
        self.inner.revision()
    }
    fn reversal(&self) -> Reversal {
        self.inner.reversal()
    }
    fn standing(&self) -> bool {
        self.inner.standing()
    }
    fn summary(&self) -> String {
        self.inner.summary()
    }

    fn probe<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<Observed<Value>, StepError>> {
        Box::pin(async move {
            self.twist.strike(self.index, When::Probe)?;
            self.inner.probe(cx).await
        })
    }
    fn run<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<Value, StepError>> {
        Box::pin(async move {
            self.twist.strike(self.index, When::BeforeRun)?;
            let output = self.inner.run(cx).await?;
            let output = if matches!(*self.twist, Twist::RunTwice) { self.inner.run(cx).await? } else { output };
            self.twist.strike(self.index, When::AfterRun)?;
            Ok(output)
        })
    }
    fn undo<'f>(&'f self, cx: &'f Cx<'_, W>) -> BoxFuture<'f, Result<(), StepError>> {
        Box::pin(async move {
            self.inner.undo(cx).await?;
            if self.twist.undoes_twice() { self.inner.undo(cx).await } else { Ok(()) }
        })
    }
}
