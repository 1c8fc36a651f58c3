//! kill -9 in and after the write pause, and nobody types anything: clients go on by themselves, without an error.

use std::{
    os::unix::process::ExitStatusExt,
    process::Stdio,
    time::{Duration, Instant},
};

use pgleap_canary::{Canary, CanaryConfig, audit, prepare};
use pgleap_lab::{Lab, LabSpec};
use tokio::process::Command;

/// What clients bear: the write budget of the laboratory is 2 s, a guard's lease half a second more.
const CLIENTS_BEAR: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the first process dies, and a second one takes over.
const TAKEN_OVER: [&str; 8] = [
    "switchover.pause_pools.after_pause",
    "switchover.fence.after_block",
    "switchover.carry_over.after_arrival",
    "switchover.carry_over.after_succeeded",
    "switchover.move_clients.after_point_of_no_return",
    "switchover.move_clients.after_decision",
    "switchover.move_clients.after_run",
    "switchover.turn_replication.between",
];

/// Where a host dies, with the first process and the second: the guards' leases and the fence's end the pause.
const LEFT_ALONE: [&str; 3] =
    ["switchover.pause_pools.after_pause", "switchover.fence.after_block", "switchover.carry_over.after_arrival"];

struct Scene {
    lab: Lab,
    canary: Canary,
}

impl Scene {
    async fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("pgl-{}-{name}", std::process::id()));
        let mut spec = LabSpec::new(15, 18, &directory);
        spec.databases = vec!["shop".into()];
        let lab = Lab::start(spec).await.unwrap();
        std::fs::write(lab.config_path(), lab.config_text()).unwrap();
        prepare(&lab.bypassing(lab.source_port, "shop")).await.unwrap();
        let config = CanaryConfig {
            connect: lab.through_pooler("shop"),
            clients: 4,
            rate: Some(80.0),
            ledger: None,
            transaction_timeout: CLIENTS_BEAR,
            label: "shop".into(),
        };
        let scene = Self { canary: Canary::start(config).await.unwrap(), lab };
        assert_eq!(scene.pgleap(&["run"], &[]).await.code(), Some(0));
        scene
    }

    async fn pgleap(&self, words: &[&str], environment: &[(&str, &str)]) -> std::process::ExitStatus {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
        command.args(["--yes", "--config"]).arg(self.lab.config_path()).args(words);
        command.envs(environment.iter().copied());
        let log =
            std::fs::File::options().create(true).append(true).open(self.lab.spec.dir.join("pgleap.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        tokio::time::timeout(PATIENCE, command.status()).await.expect("the command ends").unwrap()
    }

    /// Begins to move the writes, to wherever they are not, and dies at the point.
    async fn die_at(&self, point: &str, alone: bool) {
        let verb = if self.standing() == "in_sync" { "switchover" } else { "rollback" };
        let fault = format!("kill:{point}");
        let mut environment = vec![("PGLEAP_FAULT", fault.as_str())];
        environment.extend(alone.then_some(("PGLEAP_FAULT_ALONE", "1")));
        let status = self.pgleap(&[verb], &environment).await;
        assert_eq!(status.signal(), Some(9), "it did not die at {point}, but: {status:?}");
    }

    fn standing(&self) -> String {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pgleap"))
            .args(["status", "--format", "json", "--config"])
            .arg(self.lab.config_path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, rest) = text.split_once("\"standing\":\"").unwrap_or_else(|| panic!("{text}"));
        rest.split('"').next().unwrap().to_owned()
    }

    async fn until(&self, what: &str, mut look: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !look() {
            assert!(Instant::now() < deadline, "waited in vain for {what}; see {}", self.lab.spec.dir.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn clients_go_on(&self, after: &str) {
        let before = self.canary.snapshot().transactions;
        self.until(&format!("clients to go on after {after}"), || self.canary.snapshot().transactions > before + 40)
            .await;
        let failed = self.canary.snapshot();
        assert_eq!(failed.failed_transactions, 0, "after {after}: {:?}", failed.failures);
    }

    /// A superuser writes to the fenced source: `watch` says so, again and again.
    async fn stray_writes_are_told(&self) {
        if self.standing() == "in_sync" {
            assert_eq!(self.pgleap(&["switchover"], &[]).await.code(), Some(0));
        }
        let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_pgleap"))
            .args(["--format", "json", "watch", "--config"])
            .arg(self.lab.config_path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
        let first = lines.next().unwrap().unwrap();
        assert!(!first.contains("somebody wrote"), "what comes by replication is no stray: {first}");
        let (client, connection) =
            self.lab.directly(self.lab.source_port, "shop").connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("INSERT INTO parents VALUES (-7, 'a stray')").await.unwrap();
        // a bound of looks, not of time: they come once a second
        let told = lines.take(20).any(|line| line.unwrap().contains("somebody wrote to the source, which is fenced"));
        watch.kill().unwrap();
        watch.wait().unwrap();
        assert!(told, "a stray write was not told");
    }

    async fn verdict(self) {
        let port = if self.standing() == "in_sync" { self.lab.source_port } else { self.lab.target_port };
        let report = self.canary.stop().await;
        let audit = audit(&self.lab.directly(port, "shop"), &report.ledger).await.unwrap();
        assert!(audit.is_clean(), "{audit}");
        assert_eq!(report.stats.failed_transactions, 0, "{:?}", report.stats.failures);
        self.lab.destroy().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchover_whose_process_is_killed_is_ended_by_a_second_one() {
    let scene = Scene::start("second").await;
    for point in TAKEN_OVER {
        scene.die_at(point, false).await;
        scene.clients_go_on(point).await;
        scene.until(&format!("the second process to finish after {point}"), || scene.standing() != "open").await;
    }
    scene.stray_writes_are_told().await;
    scene.verdict().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_that_everybody_forgot_is_ended_by_the_leases() {
    let scene = Scene::start("leases").await;
    for point in LEFT_ALONE {
        scene.die_at(point, true).await;
        scene.clients_go_on(point).await;
        assert_eq!(scene.standing(), "open", "nobody took over");
        // taken back, for the record and the slots; clients are not asked to wait again
        let status = scene.pgleap(&["resume"], &[]).await;
        assert_eq!(status.code(), Some(5), "after {point}");
        assert_eq!(scene.standing(), "in_sync");
    }
    assert_eq!(scene.pgleap(&["switchover"], &[]).await.code(), Some(0), "the next one works");
    scene.verdict().await;
}
