//! The boundary between copy and stream: exact to the commit, and refused when it is not.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use pgleap_lab::Lab;
use pgleap_saga::{EventSink, Executor, Observed, Outcome, Plan, RetryPolicy, Reversal, Step, StepError, StepName};
use pgleap_upgrade::{
    Standing, World,
    pg::{Lsn, Side, decode, marker},
    provision::{
        self, FixBoundary, PrepareDatabases, RecoverCopy,
        copy::Copy,
        fix_boundary::{Boundary, parse_lsn},
        recover_copy::Recovered,
    },
    replicate, verify,
    world::Cx,
};
use tokio_postgres::Client;

use crate::{
    bed::{Bed, LONG, as_found, ask, assert_as_found, assert_standing, client, end, guard, small, until},
    rig::{Load, Rig, assert_done},
};

/// Without a key, what is applied twice is there twice; its rows are published whole.
const TABLE: &str = "CREATE TABLE edge (who text NOT NULL, n int NOT NULL); ALTER TABLE edge REPLICA IDENTITY FULL";
const ROWS: &str = "SELECT who || ' ' || n FROM edge ORDER BY 1";
const PRESENT: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text";

/// Transactions around a boundary that is the commit position of one of them.
struct Edge {
    /// How they reach the source.
    config: tokio_postgres::Config,
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    /// Open since before the boundary.
    long: Client,
    /// The last transaction before the boundary.
    last: decode::Decoded,
    /// The one whose commit record starts exactly at it.
    exact: decode::Decoded,
}

impl Edge {
    async fn prepare(lab: &Lab) -> Arc<Self> {
        let config = lab.directly(lab.source_port, "shop");
        client(&config).await.batch_execute(TABLE).await.unwrap();
        Arc::new(Self { config, seen: Mutex::default() })
    }

    /// Commits a row in a transaction of its own and returns its id.
    async fn commit(&self, who: &str) -> u32 {
        let sql = format!("INSERT INTO edge VALUES ('{who}', 1) RETURNING pg_current_xact_id()::xid::text");
        ask(&self.config, &sql).await[0].parse().unwrap()
    }

    async fn begin(&self, sql: &str) -> Client {
        let client = client(&self.config).await;
        client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
        client
    }

    /// Writes across a boundary, and finds out from the slot where it is.
    async fn cross(&self, cx: &Cx<'_>) -> Lsn {
        let long = self.begin("INSERT INTO edge VALUES ('long', 1)").await;
        let nested = self
            .begin("INSERT INTO edge VALUES ('nested', 1); SAVEPOINT a; INSERT INTO edge VALUES ('nested', 2)")
            .await;
        let released = self.begin("SAVEPOINT a; INSERT INTO edge VALUES ('released', 1); RELEASE a").await;
        let aborted = self.begin("INSERT INTO edge VALUES ('aborted', 1); SAVEPOINT a").await;
        let last = self.commit("last").await;
        let exact = self.commit("exact").await;
        self.commit("after").await;
        nested
            .batch_execute(
                "SAVEPOINT b; INSERT INTO edge VALUES ('nested', 3); ROLLBACK TO b; INSERT INTO edge VALUES ('nested', 4); \
                 RELEASE a; COMMIT",
            )
            .await
            .unwrap();
        released.batch_execute("COMMIT").await.unwrap();
        aborted.batch_execute("ROLLBACK TO a; INSERT INTO edge VALUES ('aborted', 2); ROLLBACK").await.unwrap();

        let facts = cx.output::<PrepareDatabases>().unwrap();
        let shop = facts.databases.iter().find(|database| database.name == "shop").unwrap();
        let session = cx.world.source.db("shop").await.unwrap();
        let until = parse_lsn(session.query_one(PRESENT, &[]).await.unwrap().get(0)).unwrap();
        let slot = cx.world.stream(Side::Source, shop);
        let decoded = decode::peek(&session, &slot, &cx.world.publication(), until).await.unwrap();
        let find = |xid| *decoded.iter().find(|transaction| transaction.xid == xid).unwrap();
        let seen = Seen { long, last: find(last), exact: find(exact) };
        let boundary = seen.exact.commit;
        *self.seen.lock().unwrap() = Some(seen);
        boundary
    }

    /// Ends the long transaction, and waits until the target shows each row that was committed, once.
    async fn arrives_once(&self, lab: &Lab) {
        let long = self.seen.lock().unwrap().take().unwrap().long;
        long.batch_execute("INSERT INTO edge VALUES ('long', 2); COMMIT").await.unwrap();
        let target = lab.directly(lab.target_port, "shop");
        until("the long transaction to arrive", async || {
            ask(&target, ROWS).await.contains(&"long 2".to_owned()).then_some(())
        })
        .await;
        let expected =
            ["after 1", "exact 1", "last 1", "long 1", "long 2", "nested 1", "nested 2", "nested 4", "released 1"];
        assert_eq!(ask(&target, ROWS).await, expected);
    }
}

/// Fixes the boundary as the real step does, and then moves it to where a commit record starts.
struct FixAtCommit(Arc<Edge>);

impl Step<World> for FixAtCommit {
    type Output = Boundary;
    const NAME: StepName = <FixBoundary as Step<World>>::NAME;
    const REVISION: u32 = <FixBoundary as Step<World>>::REVISION;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        FixBoundary.summary()
    }
    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<Boundary>, StepError> {
        FixBoundary.probe(cx).await
    }
    async fn run(&self, cx: &Cx<'_>) -> Result<Boundary, StepError> {
        FixBoundary.run(cx).await?;
        let lsn = self.0.cross(cx).await;
        for database in cx.output::<PrepareDatabases>()?.databases {
            marker::write(&*cx.world.source.db(&database.name).await?, Side::Source).await?;
        }
        let session = cx.world.source.db("shop").await?;
        Ok(Boundary { lsn, seen_until: parse_lsn(session.query_one(PRESENT, &[]).await?.get(0))? })
    }
    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

/// How a recovery misses the boundary by one commit.
#[derive(Clone, Copy, PartialEq)]
enum Off {
    /// Not at all: the real step.
    Nothing,
    /// The record that starts at the boundary is replayed too: the server's default.
    Inclusive,
    /// It ends before the last commit before the boundary.
    Short,
}

/// Recovers the copy to one commit beside the boundary, in the place and under the name of the real step.
struct RecoverBeside(Arc<Edge>, Off);

impl Step<World> for RecoverBeside {
    type Output = Recovered;
    const NAME: StepName = <RecoverCopy as Step<World>>::NAME;
    const REVISION: u32 = <RecoverCopy as Step<World>>::REVISION;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        RecoverCopy.summary()
    }
    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<Recovered>, StepError> {
        RecoverCopy.probe(cx).await
    }
    async fn run(&self, cx: &Cx<'_>) -> Result<Recovered, StepError> {
        let (lsn, inclusive) = match self.1 {
            Off::Nothing => return RecoverCopy.run(cx).await,
            Off::Inclusive => (cx.output::<FixBoundary>()?.lsn, "on"),
            Off::Short => (self.0.seen.lock().unwrap().as_ref().unwrap().last.commit, "off"),
        };
        let world = cx.world;
        let facts = cx.output::<PrepareDatabases>()?;
        let copy = Copy::of(world, facts.major(), &facts.bootstrap_superuser)?;
        let from = world.source.endpoint.conninfo(None, Some(&world.places().passfile()), "a careless recovery");
        let settings = [
            ("primary_conninfo", from),
            ("recovery_target_lsn", lsn.to_string()),
            ("recovery_target_inclusive", inclusive.to_owned()),
            ("recovery_target_action", "promote".to_owned()),
            ("hot_standby", "on".to_owned()),
        ];
        world.account.write_file(copy.server.data_dir.join("standby.signal"), "", 0o600).unwrap();
        let settings = settings.map(|(name, value)| (name.to_owned(), value)).into();
        copy.start_recovery(world, settings).await?;
        let deadline = Instant::now() + LONG;
        let first_own_xid = loop {
            if let Some(xid) = first_own_xid(&copy).await? {
                break xid;
            }
            assert!(Instant::now() < deadline, "the copy was not promoted");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        Ok(Recovered { replayed: lsn, first_own_xid })
    }
    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        RecoverCopy.undo(cx).await
    }
}

/// Returns the first id that the copy may hand out, once it is promoted.
async fn first_own_xid(copy: &Copy) -> Result<Option<u64>, StepError> {
    let Some(session) = copy.session_if_up("postgres").await? else { return Ok(None) };
    if session.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?.get(0) {
        return Ok(None);
    }
    let row = session.query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint", &[]).await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).ok())
}

/// Returns the plan of the upgrade with the boundary at a commit, and a recovery that is `off`.
fn plan(world: &World, edge: &Arc<Edge>, off: Off) -> Plan<World> {
    let (target, budgets) = (&world.config.target, &world.config.budgets);
    Plan::new("upgrade-1", "upgrade", serde_json::Value::Null)
        .then(provision::ClaimDirectories { data_dir: target.data_dir.display().to_string() })
        .then(PrepareDatabases { marker: true })
        .then(replicate::CreatePublications)
        .then(replicate::CreateSlots)
        .then(provision::BaseBackup)
        .then(FixAtCommit(edge.clone()))
        .then(RecoverBeside(edge.clone(), off))
        .then(provision::ProveCopy)
        .then(provision::QuarantineCopy)
        .then(provision::InitTarget { major: target.version })
        .then(provision::UpgradeCopy { major: target.version, transfer: world.config.provider.transfer })
        .then(provision::StartTarget { port: target.port })
        .then(provision::ProveTarget)
        .then(provision::UpdateExtensions)
        .then(provision::RebuildIndexes)
        .then(replicate::CreateSubscriptions)
        .then(replicate::AdvanceOrigins)
        .then(replicate::EnableSubscriptions)
        .then(replicate::Analyze)
        .then(replicate::CatchUp { max_lag_bytes: budgets.max_lag_bytes })
        .then(verify::CompareTables)
}

async fn execute(world: &World, journal: &pgleap_saga::Journal, edge: &Arc<Edge>, off: Off) -> Outcome {
    let executor = Executor::new(journal, EventSink::new(), RetryPolicy::default(), pgleap_saga::StopSignal::new());
    executor.execute(&plan(world, edge, off), world).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_commit_at_the_boundary_or_are_open_across_it_arrive_once() {
    let bed = Bed::start(small(15, 18, "edge")).await;
    let _guard = guard(&bed.lab);
    let edge = Edge::prepare(&bed.lab).await;
    assert_eq!(execute(&bed.world, &bed.journal, &edge, Off::Nothing).await, Outcome::Done);
    edge.arrives_once(&bed.lab).await;
    end(bed.lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boundary_at_a_commit_is_exact_while_everybody_writes() {
    let mut spec = small(15, 18, "busy");
    spec.databases.push("ledger".into());
    let rig = Rig::start_with(spec, Load { clients: 4, rate: 150.0, application: 2 }).await;
    let _guard = guard(&rig.lab);
    let edge = Edge::prepare(&rig.lab).await;
    assert_eq!(execute(&rig.world, &rig.journal, &edge, Off::Nothing).await, Outcome::Done);
    edge.arrives_once(&rig.lab).await;
    assert_done(rig.chain().switchover().await);
    let port = rig.lab.target_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    end(lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_source_is_upgraded_without_waiting_for_somebody_to_write() {
    let bed = Bed::start(small(15, 18, "idle")).await;
    let _guard = guard(&bed.lab);
    assert_done(tokio::time::timeout(LONG, bed.chain().run()).await.unwrap());
    assert_standing(&bed.chain(), Standing::InSync);
    end(bed.lab).await;
}

/// Misses the boundary by one commit on purpose; returns why the chain turned back, and the commit.
async fn refused(name: &str, off: Off) -> (StepError, String) {
    let bed = Bed::start(small(15, 18, name)).await;
    let _guard = guard(&bed.lab);
    let edge = Edge::prepare(&bed.lab).await;
    let before = as_found(&bed.lab).await;
    let outcome = execute(&bed.world, &bed.journal, &edge, off).await;
    let Outcome::Unwound { cause } = outcome else { panic!("{outcome:#?}") };
    let seen = edge.seen.lock().unwrap().take().unwrap();
    seen.long.batch_execute("ROLLBACK").await.unwrap();

    let records = bed.journal.records(0).unwrap();
    let begun: Vec<_> = records.iter().filter_map(|record| record.step.as_deref()).collect();
    assert_eq!(begun.iter().filter(|step| step.starts_with("replicate.create_subscriptions")).count(), 0);
    assert!(!bed.lab.spec.dir.join("target").exists(), "a target was made from a copy that is not to be used");
    assert_as_found(&before, &as_found(&bed.lab).await);

    let culprit = if off == Off::Short { seen.last } else { seen.exact };
    assert!(cause.message.contains(&format!("boundary {}", seen.exact.commit)), "{cause}");
    end(bed.lab).await;
    (cause, format!("1 (xid {} at {})", culprit.xid, culprit.commit))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_that_replayed_the_commit_at_the_boundary_is_refused_by_xid_and_position() {
    let (cause, culprit) = refused("twice", Off::Inclusive).await;
    assert_eq!(cause.cause, Some(format!("transactions that would be applied twice: {culprit}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_that_lacks_the_last_commit_before_the_boundary_is_refused_by_xid_and_position() {
    let (cause, culprit) = refused("lost", Off::Short).await;
    assert_eq!(cause.cause, Some(format!("transactions that would be lost: {culprit}")));
}
