//! A laboratory with clients that write from beginning to end, and the ledger that judges.

#![allow(dead_code, reason = "tests and benches each use a part of it")]

use std::{path::PathBuf, time::Duration};

use pgleap_canary::{Audit, Canary, CanaryConfig, Report};
use pgleap_lab::{Application, Lab, LabSpec};
use pgleap_saga::{EventSink, Journal, Outcome, StopSignal};
use pgleap_upgrade::{Chain, Config, World, guard::Launch};

/// What each client does at least before its ledger is judged.
const ENOUGH: u64 = 20;

/// A laboratory under load.
pub struct Rig {
    pub lab: Lab,
    pub world: World,
    pub journal: Journal,
    pub stop: StopSignal,
    canaries: Vec<(String, Canary)>,
    application: Application,
}

/// What the clients saw in the end.
pub struct Verdict {
    pub reports: Vec<(String, Report)>,
    pub audits: Vec<(String, Audit)>,
    pub application: pgleap_lab::Applied,
}

impl Verdict {
    /// Fails the test if anything was lost, applied twice, or shown to a client as an error.
    pub fn assert_clean(&self) {
        for ((database, report), (_, audit)) in self.reports.iter().zip(&self.audits) {
            assert!(audit.is_clean(), "database {database}: {audit:?}");
            assert!(report.stats.transactions > ENOUGH, "the canary must have written: {:?}", report.stats);
            assert_eq!(report.stats.failed_transactions, 0, "database {database}: {:?}", report.stats.failures);
            assert_eq!(report.stats.stale_reads, 0, "database {database}");
        }
        assert_eq!(self.application.failed, 0, "{:?}", self.application.first_failure);
        assert!(self.application.transactions > ENOUGH);
    }

    pub fn longest_stall_ms(&self) -> f64 {
        self.reports.iter().map(|(_, report)| report.stats.longest_client_stall_ms).fold(0.0, f64::max)
    }
}

/// Returns a directory for one test: short, as sockets are in it; kept if the test fails.
pub fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pgl-{}-{name}", std::process::id()))
}

/// How many clients write, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Canary clients for each database.
    pub clients: usize,
    /// Canary transactions per second for each database.
    pub rate: f64,
    /// Clients that change the laboratory's own tables.
    pub application: u32,
}

impl Rig {
    pub async fn start(spec: LabSpec) -> Self {
        Self::start_with(spec, Load { clients: 4, rate: 60.0, application: 2 }).await
    }

    pub async fn start_with(spec: LabSpec, load: Load) -> Self {
        let lab = Lab::start(spec).await.unwrap();
        let config = lab.config_text();
        Self::over(lab, &config, load).await
    }

    /// Puts clients and an upgrade over a laboratory that runs.
    pub async fn over(lab: Lab, config: &str, load: Load) -> Self {
        Self::over_by(lab, config, load, |lab, database| lab.through_pooler(database)).await
    }

    /// Like [`Self::over`], with clients that connect by another way than the pooler.
    pub async fn over_by(lab: Lab, config: &str, load: Load, way: fn(&Lab, &str) -> tokio_postgres::Config) -> Self {
        std::fs::write(lab.config_path(), config).unwrap();
        let config = Config::load(&lab.config_path()).unwrap();
        std::fs::create_dir_all(&config.state_dir).unwrap();
        let journal = Journal::open(config.state_dir.join("journal.sqlite")).unwrap();
        let world = World::describe(config, "7f3a".into(), Launch::Task).await.unwrap();
        let mut canaries = Vec::new();
        for database in &lab.spec.databases {
            let connect = way(&lab, database);
            // the schema belongs to the application's role, which may create one in its own database
            pgleap_canary::prepare(&lab.bypassing(lab.source_port, database)).await.unwrap();
            let config = CanaryConfig {
                connect,
                clients: load.clients,
                rate: Some(load.rate),
                ledger: None,
                transaction_timeout: Duration::from_secs(30),
                label: database.clone(),
            };
            canaries.push((database.clone(), Canary::start(config).await.unwrap()));
        }
        let application = Application::start(&way(&lab, &lab.spec.databases[0]), load.application, 20);
        Self { lab, world, journal, stop: StopSignal::new(), canaries, application }
    }

    /// Writes another configuration, by which everything goes from now on.
    pub async fn edit(&mut self, config: &str) {
        std::fs::write(self.lab.config_path(), config).unwrap();
        let config = Config::load(&self.lab.config_path()).unwrap();
        self.world = World::describe(config, "7f3a".into(), Launch::Task).await.unwrap();
    }

    pub fn chain(&self) -> Chain<'_> {
        let sink = EventSink::new();
        if std::env::var_os("PGLEAP_TEST_EVENTS").is_some() {
            let mut events = sink.subscribe();
            tokio::spawn(async move {
                while let Ok(event) = events.recv().await {
                    eprintln!("{}", serde_json::to_string(&event).unwrap());
                }
            });
        }
        Chain::new(&self.world, &self.journal, sink, self.stop.clone())
    }

    /// Begins a new period: stalls and failures are counted for each.
    pub fn mark(&self, name: &str) {
        for (_, canary) in &self.canaries {
            canary.mark(name);
        }
    }

    /// Returns how many canary transactions were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.canaries.iter().map(|(_, canary)| canary.snapshot().transactions).sum()
    }

    /// Lets every client work for a while: a verdict over a handful of writes proves nothing.
    async fn have_worked(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let enough = || {
            let canaries = self.canaries.iter().all(|(_, canary)| canary.snapshot().transactions > ENOUGH);
            canaries && self.application.so_far().transactions > ENOUGH
        };
        while !enough() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the clients and audits their ledgers against the cluster at `port`.
    pub async fn verdict(self, port: u16) -> (Lab, Verdict) {
        let (mut reports, mut audits) = (Vec::new(), Vec::new());
        self.have_worked().await;
        let application = self.application.stop().await;
        for (database, canary) in self.canaries {
            let report = canary.stop().await;
            audits.push((
                database.clone(),
                pgleap_canary::audit(&self.lab.directly(port, &database), &report.ledger).await.unwrap(),
            ));
            reports.push((database, report));
        }
        (self.lab, Verdict { reports, audits, application })
    }
}

/// Fails the test unless the plan ended well.
#[track_caller]
pub fn assert_done(outcome: Result<Outcome, pgleap_upgrade::chain::ChainError>) {
    match outcome {
        Ok(Outcome::Done) => {}
        other => panic!("{other:#?}"),
    }
}
