//! A laboratory with clients that write from beginning to end, and the ledger that judges them.

use std::{path::PathBuf, time::Duration};

use pgleap_canary::{Canary, CanaryConfig, Report};
use pgleap_lab::{Application, Lab, LabSpec};
use pgleap_saga::{EventSink, Journal, Outcome, StopSignal};
use pgleap_upgrade::{Chain, Config, World, chain::ChainError, guard::Launch};
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

/// The laboratory's only database.
pub const DATABASE: &str = "shop";

/// How many clients write, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Canary clients.
    pub clients: usize,
    /// Canary transactions per second; as many as possible without it.
    pub rate: Option<f64>,
    /// Clients that change the laboratory's own tables, 20 times a second each.
    pub application: u32,
}

/// A laboratory under load.
pub struct Bed {
    pub lab: Lab,
    canary: Canary,
    application: Application,
}

/// Returns a laboratory of one database, from 15 to 18, in a directory of its own: short, as sockets are in it.
pub fn spec(name: &str, scale: u32) -> LabSpec {
    let directory: PathBuf = std::env::temp_dir().join(format!("pgl-{}-{name}", std::process::id()));
    let mut spec = LabSpec::new(15, 18, directory);
    spec.databases = vec![DATABASE.into()];
    spec.scale = scale;
    spec
}

/// Connects; the connection's end shows in the next statement.
pub async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}

/// How long a probe may be under way for the target to count as in sync: as long as pgleap gives its own.
const ROUND_TRIP: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const SYNC_BUDGET: Duration = Duration::from_secs(1800);

impl Bed {
    pub async fn start(spec: LabSpec, load: Load) -> Self {
        Self::start_by(spec, load, |lab| lab.through_pooler(DATABASE)).await
    }

    /// Like [`Self::start`], with clients that connect by another way than the pooler.
    pub async fn start_by(spec: LabSpec, load: Load, way: fn(&Lab) -> tokio_postgres::Config) -> Self {
        let lab = Lab::start(spec).await.unwrap();
        std::fs::write(lab.config_path(), lab.config_text()).unwrap();
        let source = connect(&lab.directly(lab.source_port, DATABASE)).await;
        source
            .batch_execute("CREATE TABLE bench_probe (id int PRIMARY KEY, n bigint NOT NULL); INSERT INTO bench_probe VALUES (1, 0)")
            .await
            .unwrap();
        // the canary's schema belongs to the application's role, which may create one in its own database
        pgleap_canary::prepare(&lab.bypassing(lab.source_port, DATABASE)).await.unwrap();
        let config = CanaryConfig {
            connect: way(&lab),
            clients: load.clients,
            rate: load.rate,
            ledger: None,
            transaction_timeout: Duration::from_secs(30),
            label: DATABASE.into(),
        };
        let canary = Canary::start(config).await.unwrap();
        let application = Application::start(&way(&lab), load.application, 20);
        Self { lab, canary, application }
    }

    /// Enters the pooler's console.
    pub async fn console(&self) -> Client {
        let (user, password) = pgleap_lab::ROLES[2];
        let mut config = self.lab.through_pooler("pgbouncer");
        config.user(user).password(password);
        connect(&config).await
    }

    /// Begins a new period: transactions and stalls are counted for each.
    pub fn mark(&self, name: &str) {
        self.canary.mark(name);
    }

    /// Lets the clients work until they have done `count` more transactions.
    pub async fn settle(&self, count: u64) {
        let until = self.canary.snapshot().transactions + count;
        while self.canary.snapshot().transactions < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Gives the next contender the same start: nothing left over to be written, by PostgreSQL or the system.
    pub async fn level(&self) {
        connect(&self.lab.directly(self.lab.source_port, DATABASE)).await.batch_execute("CHECKPOINT").await.unwrap();
        let synced = pgleap_local::run(tokio::process::Command::new("sync"), Duration::from_secs(600)).await;
        synced.unwrap();
    }

    /// Returns when a row written on the source shows on the target within a second, by whoever it was connected.
    pub async fn in_sync(&self) -> Instant {
        let source = connect(&self.lab.directly(self.lab.source_port, DATABASE)).await;
        let target = connect(&self.lab.directly(self.lab.target_port, DATABASE)).await;
        let deadline = Instant::now() + SYNC_BUDGET;
        loop {
            let row = source.query_one("UPDATE bench_probe SET n = n + 1 RETURNING n", &[]).await.unwrap();
            let (wanted, written): (i64, _) = (row.get(0), Instant::now());
            while written.elapsed() < ROUND_TRIP {
                let row = target.query_one("SELECT n FROM bench_probe", &[]).await.unwrap();
                if row.get::<_, i64>(0) >= wanted {
                    return Instant::now();
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            assert!(Instant::now() < deadline, "the target is not in sync after {} s", SYNC_BUDGET.as_secs());
        }
    }

    /// Writes the configuration anew, with what `edit` makes of the laboratory's.
    pub fn configure(&self, edit: impl FnOnce(String) -> String) {
        std::fs::write(self.lab.config_path(), edit(self.lab.config_text())).unwrap();
    }

    /// Describes the upgrade, and opens its journal for writing.
    pub async fn upgrade(&self) -> Upgrade {
        let config = Config::load(&self.lab.config_path()).unwrap();
        std::fs::create_dir_all(&config.state_dir).unwrap();
        let journal = Journal::open(config.state_dir.join("journal.sqlite")).unwrap();
        Upgrade { world: World::describe(config, "7f3a".into(), Launch::Task).await.unwrap(), journal }
    }

    /// Stops the clients, and audits their ledger against the cluster at `port`: what lost a write measures nothing.
    pub async fn finish(self, port: u16) -> (Lab, Report) {
        self.finish_after(port, 0).await
    }

    /// Like [`Self::finish`], where so many connections may have been cut.
    pub async fn finish_after(self, port: u16, cuts: u64) -> (Lab, Report) {
        let applied = self.application.stop().await;
        let report = self.canary.stop().await;
        let audit = pgleap_canary::audit(&self.lab.directly(port, DATABASE), &report.ledger).await.unwrap();
        assert!(audit.is_clean(), "{audit:?}");
        assert!(report.stats.failed_transactions <= cuts, "{:?}", report.stats.failures);
        assert_eq!(applied.failed, 0, "{:?}", applied.first_failure);
        (self.lab, report)
    }
}

/// An upgrade in this process.
pub struct Upgrade {
    pub world: World,
    pub journal: Journal,
}

impl Upgrade {
    pub fn chain(&self) -> Chain<'_> {
        self.telling(EventSink::new())
    }

    pub fn telling(&self, events: EventSink) -> Chain<'_> {
        Chain::new(&self.world, &self.journal, events, StopSignal::new())
    }
}

/// Ends the benchmark unless the plan ended well.
#[track_caller]
pub fn assert_done(outcome: Result<Outcome, ChainError>) {
    match outcome {
        Ok(Outcome::Done) => {}
        other => panic!("{other:#?}"),
    }
}

/// Ends the benchmark unless the upgrade was taken back whole.
#[track_caller]
pub fn assert_unwound(outcome: Result<Outcome, ChainError>) {
    match outcome {
        Ok(Outcome::Unwound { .. }) => {}
        other => panic!("{other:#?}"),
    }
}
