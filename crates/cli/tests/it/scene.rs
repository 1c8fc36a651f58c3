//! A laboratory with its configuration, clients with a ledger, and the program run against it.

#![cfg_attr(not(feature = "faults"), allow(dead_code, reason = "most of it leads to fault points"))]

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use pgleap_canary::{Canary, CanaryConfig, audit, prepare};
use pgleap_lab::{Lab, LabSpec};
use pgleap_local::Pooler;
use tokio::process::{Child, Command};
use tokio_postgres::{Client, Config, NoTls};

use crate::hosts::Host;

/// The only database.
pub const DATABASE: &str = "shop";
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What clients at one pooler do.
#[derive(Clone, Copy)]
pub struct Clients {
    pub count: usize,
    /// Transactions a second, of all of them.
    pub rate: f64,
    /// One that takes longer has failed.
    pub bear: Duration,
}

pub struct Scene {
    pub lab: Lab,
    /// Where the program runs.
    pub host: Host,
    /// One for each pooler, in their order.
    pub canaries: Vec<Canary>,
}

impl Scene {
    /// Starts a laboratory from 15 to 18, but for what `change` says, and writes its configuration.
    pub async fn set(name: &str, change: impl FnOnce(&mut LabSpec)) -> Self {
        let lab = Lab::start(Self::spec(name, change)).await.unwrap();
        let scene = Self { lab, host: Host::here(), canaries: Vec::new() };
        scene.configure(&scene.lab.config_text());
        scene
    }

    pub fn spec(name: &str, change: impl FnOnce(&mut LabSpec)) -> LabSpec {
        let directory = std::env::temp_dir().join(format!("pgl-{}-{name}", std::process::id()));
        let mut spec = LabSpec::new(15, 18, &directory);
        spec.databases = vec![DATABASE.into()];
        change(&mut spec);
        spec
    }

    pub fn configure(&self, text: &str) {
        std::fs::write(self.lab.config_path(), text).unwrap();
    }

    /// Lets clients in at every pooler, each of which is on this machine.
    pub async fn with_clients(mut self, clients: Clients) -> Self {
        prepare(&self.lab.bypassing(self.lab.source_port, DATABASE)).await.unwrap();
        for pooler in &self.lab.poolers {
            self.canaries.push(Canary::start(clients.at(pooler)).await.unwrap());
        }
        self
    }

    pub fn dir(&self) -> &Path {
        &self.lab.spec.dir
    }

    /// Returns the program with these words; what it says goes to a log.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
        command.args(["--yes", "--config"]).arg(self.lab.config_path()).args(words);
        for variable in ["PGLEAP_FAULT", "PGLEAP_FAULT_ALONE"] {
            command.env_remove(variable);
        }
        let log = File::options().create(true).append(true).open(self.dir().join("pgleap.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        command
    }

    pub async fn begin(&self, command: Command) -> Child {
        let mut command = command;
        self.host.does(async move { command.spawn().unwrap() }).await
    }

    pub async fn end(&self, mut child: Child) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the command does not end; see {}", self.dir().display())).unwrap()
    }

    /// Runs the program to its end.
    pub async fn run(&self, words: &[&str]) -> ExitStatus {
        self.end(self.begin(self.command(words)).await).await
    }

    /// Runs the program, which is to die or to be held as `fault` says.
    pub async fn run_with(&self, words: &[&str], fault: &str, alone: bool) -> ExitStatus {
        let mut command = self.command(words);
        command.env("PGLEAP_FAULT", fault);
        if alone {
            command.env("PGLEAP_FAULT_ALONE", "1");
        }
        self.end(self.begin(command).await).await
    }

    /// Begins `verb`, and returns when it is held at `point`: it goes on when the file is removed.
    pub async fn held_at(&self, verb: &str, point: &str) -> (Child, PathBuf) {
        self.held(self.command(&[verb]), verb, point).await
    }

    /// As [`Self::held_at`], and no second process stands by.
    pub async fn held_alone_at(&self, verb: &str, point: &str) -> (Child, PathBuf) {
        let mut command = self.command(&[verb]);
        command.env("PGLEAP_FAULT_ALONE", "1");
        self.held(command, verb, point).await
    }

    async fn held(&self, mut command: Command, verb: &str, point: &str) -> (Child, PathBuf) {
        let here = self.dir().join("here");
        command.env("PGLEAP_FAULT", format!("hold:{point}:{}", here.display()));
        let mut child = self.begin(command).await;
        self.until(&format!("`{verb}` to come to {point}"), || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "`{verb}` did not come to {point}: {ended:?}; see {}", self.dir().display());
            here.exists()
        })
        .await;
        (child, here)
    }

    pub async fn until(&self, what: &str, mut look: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !look() {
            assert!(Instant::now() < deadline, "waited in vain for {what}; see {}", self.dir().display());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns where the upgrade stands, by `pgleap status`.
    pub fn standing(&self) -> String {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pgleap"))
            .args(["status", "--format", "json", "--config"])
            .arg(self.lab.config_path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, rest) = text.split_once("\"standing\":\"").unwrap_or_else(|| panic!("{text}"));
        rest.split('"').next().unwrap().to_owned()
    }

    /// Returns the command that moves the writes to wherever they are not.
    pub fn verb(&self) -> &'static str {
        if self.standing() == "in_sync" { "switchover" } else { "rollback" }
    }

    /// Whether the second process is gone, or whoever holds the journal.
    pub fn is_unlocked(&self) -> bool {
        File::open(self.dir().join("state/journal.sqlite.lock")).is_ok_and(|file| file.try_lock().is_ok())
    }

    pub fn acknowledged(&self) -> Vec<u64> {
        self.canaries.iter().map(|canary| canary.snapshot().transactions).collect()
    }

    pub fn failed(&self) -> Vec<u64> {
        self.canaries.iter().map(|canary| canary.snapshot().failed_transactions).collect()
    }

    /// Waits until the clients of these poolers each have done something more than `before`.
    pub async fn go_on_since(&self, before: &[u64], poolers: impl IntoIterator<Item = usize>, after: &str) {
        for number in poolers {
            let go_on = || self.canaries[number].snapshot().transactions > before[number] + 5;
            self.until(&format!("the clients of pooler {number} to go on after: {after}"), go_on).await;
        }
    }

    /// Waits until everybody goes on.
    pub async fn all_go_on(&self, after: &str) {
        self.go_on_since(&self.acknowledged(), 0..self.canaries.len(), after).await;
    }

    /// As [`Self::all_go_on`], and nobody ever saw an error.
    pub async fn all_go_on_well(&self, after: &str) {
        self.all_go_on(after).await;
        assert_eq!(self.failed(), vec![0; self.canaries.len()], "after: {after}");
    }

    /// Stops the clients, compares their ledgers with the side that serves, and removes everything.
    pub async fn verdict(self) {
        let port = if self.standing() == "in_sync" { self.lab.source_port } else { self.lab.target_port };
        for canary in self.canaries {
            let report = canary.stop().await;
            let config = self.lab.directly(port, DATABASE);
            let audit = self.host.does(async move { audit(&config, &report.ledger).await.unwrap() }).await;
            assert!(audit.is_clean(), "{}: {audit}", report.label);
            assert_eq!(report.stats.stale_reads, 0, "{}", report.label);
        }
        self.lab.destroy().await.unwrap();
    }
}

impl Clients {
    pub fn at(self, pooler: &Pooler) -> CanaryConfig {
        CanaryConfig {
            connect: Lab::through(pooler, DATABASE),
            clients: self.count,
            rate: Some(self.rate),
            ledger: None,
            transaction_timeout: self.bear,
            label: pooler.spec.dir.file_name().unwrap().to_string_lossy().into_owned(),
        }
    }
}

/// Connects; the connection lives on the runtime of whoever calls.
pub async fn connect(config: Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}
