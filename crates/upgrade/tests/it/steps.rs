//! Each step of the upgrade keeps its contract on real servers: undone without a run, run again, undone twice.

use pgleap_saga::{EventSink, Executor, Observed, Outcome, Plan, RetryPolicy, Reversal, Step, StepError, StepName};
use pgleap_upgrade::{World, provision, replicate, verify, world::Cx};

use crate::bed::{Bed, as_found, assert_as_found, client, end, guard, small};

/// What a step's contract allows beyond being run once.
#[derive(Clone, Copy, PartialEq)]
enum Allows {
    /// It sees its effect; it may be undone and run again.
    All,
    /// As [`Allows::All`], but only the journal knows that its effect is whole, or looking costs as much as doing.
    Unseen,
    /// It sees its effect; its files do not go back to where they were.
    Seen,
    /// It may be run again.
    Again,
    /// It may be run once: what it takes away is its output.
    Once,
}

/// A step that is put through all that its contract allows, whenever it is run.
struct Thorough<S>(S, Allows);

impl<S: Step<World>> Thorough<S> {
    async fn take_back(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        self.0.undo(cx).await?;
        self.0.undo(cx).await?;
        let done = matches!(self.0.probe(cx).await?, Observed::Done(_));
        assert!(!done, "`{}` sees an effect that was taken back", S::NAME);
        Ok(())
    }
}

impl<S: Step<World>> Step<World> for Thorough<S> {
    type Output = S::Output;
    const NAME: StepName = S::NAME;
    const REVISION: u32 = S::REVISION;
    const REVERSAL: Reversal = S::REVERSAL;
    const STANDING: bool = S::STANDING;

    fn summary(&self) -> String {
        self.0.summary()
    }
    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<S::Output>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<S::Output, StepError> {
        let (undoable, allows) = (matches!(self.1, Allows::All | Allows::Unseen), self.1);
        assert!(!undoable || S::REVERSAL == Reversal::Undo);
        if undoable {
            self.take_back(cx).await?;
        }
        let mut output = self.0.run(cx).await?;
        let seen = matches!(self.0.probe(cx).await?, Observed::Done(_));
        let must_see = matches!(allows, Allows::All | Allows::Seen);
        assert!(seen || !must_see, "`{}` does not see its own effect", S::NAME);
        if matches!(allows, Allows::Unseen | Allows::Again) {
            output = self.0.run(cx).await?;
        }
        if !undoable {
            return Ok(output);
        }
        self.take_back(cx).await?;
        self.0.run(cx).await
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        self.0.undo(cx).await?;
        self.0.undo(cx).await
    }
}

fn plan(world: &World) -> Plan<World> {
    let (target, budgets) = (&world.config.target, &world.config.budgets);
    let upgrade = provision::UpgradeCopy { major: target.version, transfer: world.config.provider.transfer };
    Plan::new("upgrade-1", "upgrade", serde_json::Value::Null)
        .then(Thorough(provision::ClaimDirectories { data_dir: String::new() }, Allows::All))
        .then(Thorough(provision::PrepareDatabases { marker: true }, Allows::All))
        .then(Thorough(replicate::CreatePublications, Allows::All))
        .then(Thorough(replicate::CreateSlots, Allows::All))
        .then(Thorough(provision::BaseBackup, Allows::Unseen))
        .then(Thorough(provision::FixBoundary, Allows::Again))
        .then(Thorough(provision::RecoverCopy, Allows::Seen))
        .then(Thorough(provision::ProveCopy, Allows::Again))
        .then(Thorough(provision::QuarantineCopy, Allows::Once))
        .then(Thorough(provision::InitTarget { major: target.version }, Allows::Unseen))
        .then(Thorough(upgrade, Allows::Seen))
        .then(Thorough(provision::StartTarget { port: target.port }, Allows::All))
        .then(Thorough(provision::ProveTarget, Allows::Again))
        .then(Thorough(provision::UpdateExtensions, Allows::Again))
        .then(Thorough(provision::RebuildIndexes, Allows::Again))
        .then(Thorough(replicate::CreateSubscriptions, Allows::Unseen))
        .then(Thorough(replicate::AdvanceOrigins, Allows::Again))
        .then(Thorough(replicate::EnableSubscriptions, Allows::All))
        .then(Thorough(replicate::Analyze, Allows::Again))
        .then(Thorough(replicate::CatchUp { max_lag_bytes: budgets.max_lag_bytes }, Allows::Again))
        .then(Thorough(verify::CompareTables, Allows::Again))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_may_be_undone_before_it_ran_run_again_and_undone_twice() {
    let mut spec = small(15, 18, "steps");
    spec.databases.push("ledger".into());
    let bed = Bed::start(spec).await;
    let _guard = guard(&bed.lab);
    let before = as_found(&bed.lab).await;
    let plan = plan(&bed.world);
    let names = |plan: &Plan<World>| plan.describe().into_iter().map(|step| step.name).collect::<Vec<_>>();
    let real = pgleap_upgrade::chain::upgrade_plan("upgrade-1".into(), &bed.world.config);
    assert_eq!(names(&plan), names(&real), "a step that joins the upgrade joins this test");

    let executor = Executor::new(&bed.journal, EventSink::new(), RetryPolicy::default(), bed.stop.clone());
    assert_eq!(executor.execute(&plan, &bed.world).await.unwrap(), Outcome::Done);
    let cause = StepError::fatal("the test turns back", "none");
    let outcome = executor.unwind(&plan, &bed.world, cause.clone()).await.unwrap();
    assert_eq!(outcome, Outcome::Unwound { cause });
    assert_as_found(&before, &as_found(&bed.lab).await);
    end(bed.lab).await;
}

/// Preflight finds such a view before; what it does not find is told by the logs, which go with the target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restore_that_fails_in_the_middle_of_pg_upgrade_is_told_with_its_error_and_statement() {
    let bed = Bed::start(small(15, 18, "restore")).await;
    let _guard = guard(&bed.lab);
    let view = "CREATE VIEW timed AS SELECT checkpoints_timed FROM pg_stat_bgwriter";
    client(&bed.lab.bypassing(bed.lab.source_port, "shop")).await.batch_execute(view).await.unwrap();
    let plan = pgleap_upgrade::chain::upgrade_plan("upgrade-1".into(), &bed.world.config);
    let executor = Executor::new(&bed.journal, EventSink::new(), RetryPolicy::default(), bed.stop.clone());
    let outcome = executor.execute(&plan, &bed.world).await.unwrap();
    let Outcome::Unwound { cause } = outcome else { panic!("{outcome:#?}") };
    let told = format!("{cause:?}");
    for word in ["pg_upgrade failed", "VIEW timed", "checkpoints_timed does not exist", "Command was: CREATE VIEW"] {
        assert!(told.contains(word), "`{word}` is missing in {told}");
    }
    end(bed.lab).await;
}
