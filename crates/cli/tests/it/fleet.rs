//! Twelve PgBouncers in front of one source: what happens to one of them, or to their guard, costs the others' clients nothing.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgleap_canary::{Canary, CanaryConfig, audit, prepare};
use pgleap_lab::{Lab, LabSpec};
use pgleap_local::Pooler;
use tokio::process::{Child, Command};

const POOLERS: usize = 12;
/// What clients bear: the write budget, a lease, and a pooler that stands still for some seconds.
const CLIENTS_BEAR: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(90);

struct Fleet {
    lab: Lab,
    canaries: Vec<Canary>,
}

impl Fleet {
    async fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("pgl-{}-fleet", std::process::id()));
        let mut spec = LabSpec::new(15, 18, &directory);
        spec.databases = vec!["shop".into()];
        spec.poolers = POOLERS;
        spec.pooler_settings = vec![("default_pool_size".into(), "2".into())];
        let lab = Lab::start(spec).await.unwrap();
        std::fs::write(lab.config_path(), lab.config_text()).unwrap();
        prepare(&lab.bypassing(lab.source_port, "shop")).await.unwrap();
        let mut canaries = Vec::new();
        for (number, pooler) in lab.poolers().enumerate() {
            let config = CanaryConfig {
                connect: Lab::through(pooler, "shop"),
                clients: 2,
                rate: Some(10.0),
                ledger: None,
                transaction_timeout: CLIENTS_BEAR,
                label: format!("pooler {number}"),
            };
            canaries.push(Canary::start(config).await.unwrap());
        }
        Self { lab, canaries }
    }

    fn begin(&self, verb: &str, fault: Option<&str>) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
        command.args(["--yes", "--config"]).arg(self.lab.config_path()).arg(verb);
        command.envs(fault.map(|fault| ("PGLEAP_FAULT", fault)));
        let log =
            std::fs::File::options().create(true).append(true).open(self.lab.spec.dir.join("pgleap.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        command.spawn().unwrap()
    }

    async fn code(&self, mut child: Child) -> Option<i32> {
        let dir = self.lab.spec.dir.display();
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the command does not end; see {dir}")).unwrap().code()
    }

    /// Begins `verb`, does `what` while it is held at `point`, lets it go on, and returns its exit code.
    async fn held_at(&self, verb: &str, point: &str, what: impl AsyncFnOnce()) -> Option<i32> {
        let here = self.lab.spec.dir.join("here");
        let child = self.begin(verb, Some(&format!("hold:{point}:{}", here.display())));
        self.until(&format!("`{verb}` to come to {point}"), || here.exists()).await;
        what().await;
        std::fs::remove_file(&here).unwrap();
        self.code(child).await
    }

    async fn until(&self, what: &str, mut look: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !look() {
            assert!(Instant::now() < deadline, "waited in vain for {what}; see {}", self.lab.spec.dir.display());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn all_go_on(&self, after: &str) {
        let before: Vec<_> = self.canaries.iter().map(|canary| canary.snapshot().transactions).collect();
        for (number, (canary, before)) in self.canaries.iter().zip(before).enumerate() {
            self.until(&format!("the clients of pooler {number} to go on after: {after}"), || {
                canary.snapshot().transactions > before + 5
            })
            .await;
        }
    }

    fn failed(&self) -> Vec<u64> {
        self.canaries.iter().map(|canary| canary.snapshot().failed_transactions).collect()
    }
}

fn pid_in(path: PathBuf) -> Pid {
    Pid::from_raw(std::fs::read_to_string(path).unwrap().trim().parse().unwrap())
}

fn pid(pooler: &Pooler) -> Pid {
    Pid::from_raw(i32::try_from(pooler.pid().unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_twelve_poolers_or_their_guard_may_be_lost_and_the_others_clients_see_nothing() {
    let fleet = Fleet::start().await;
    let poolers: Vec<_> = fleet.lab.poolers().cloned().collect();
    let none = vec![0; POOLERS];
    assert_eq!(fleet.code(fleet.begin("run", None)).await, Some(0));

    assert_eq!(fleet.code(fleet.begin("switchover", None)).await, Some(0));
    fleet.all_go_on("a switchover").await;
    assert_eq!(fleet.failed(), none, "a switchover of twelve");

    // prepared, and then it does not answer: everybody goes on where they were
    let still = pid(&poolers[5]);
    let stopped = async || kill(still, Signal::SIGSTOP).unwrap();
    let code = fleet.held_at("rollback", "switchover.warm_up.after_succeeded", stopped).await;
    assert_eq!(code, Some(4), "it is taken back");
    let others = |number: usize| number != 5;
    let before: Vec<_> = fleet.canaries.iter().map(|canary| canary.snapshot().transactions).collect();
    for number in (0..POOLERS).filter(|number| others(*number)) {
        let go_on = || fleet.canaries[number].snapshot().transactions > before[number] + 3;
        fleet.until(&format!("the clients of pooler {number} to go on beside one that stands still"), go_on).await;
    }
    kill(still, Signal::SIGCONT).unwrap();
    fleet.all_go_on("one pooler stood still").await;
    assert_eq!(fleet.failed(), none, "one pooler stood still");

    // the guard dies in the pause: another takes its notes over
    let guard = fleet.lab.spec.dir.join("state/guard.lock");
    let killed = async || kill(pid_in(guard.clone()), Signal::SIGKILL).unwrap();
    let code = fleet.held_at("rollback", "switchover.fence.after_block", killed).await;
    assert!(matches!(code, Some(0 | 5)), "{code:?}");
    fleet.all_go_on("the guard was killed").await;
    assert_eq!(fleet.failed(), none, "the guard was killed");

    // the process dies in the pause, with twelve pools held
    let verb = if code == Some(0) { "switchover" } else { "rollback" };
    let child = fleet.begin(verb, Some("kill:switchover.carry_over.after_arrival"));
    assert_eq!(fleet.code(child).await, None, "it is killed");
    fleet.all_go_on("pgleap was killed").await;
    assert_eq!(fleet.failed(), none, "pgleap was killed");

    // a pooler dies past the point of no return: the others go on, and it is led there when it is back
    let lost = &poolers[7];
    let state = fleet.lab.spec.dir.join("state/journal.sqlite.lock");
    fleet.until("the second process to end", || !is_held(&state)).await;
    let here = fleet.lab.spec.dir.join("here");
    let point = "switchover.move_clients.after_point_of_no_return";
    let child = fleet.begin(verb, Some(&format!("hold:{point}:{}", here.display())));
    fleet.until("the point of no return", || here.exists()).await;
    kill(pid(lost), Signal::SIGKILL).unwrap();
    let before: Vec<_> = fleet.canaries.iter().map(|canary| canary.snapshot().transactions).collect();
    std::fs::remove_file(&here).unwrap();
    for number in (0..POOLERS).filter(|number| *number != 7) {
        let go_on = || fleet.canaries[number].snapshot().transactions > before[number] + 5;
        fleet.until(&format!("the clients of pooler {number} to go on beside one that died"), go_on).await;
    }
    lost.restart().await.unwrap();
    assert_eq!(fleet.code(child).await, Some(0), "it waits for the lost pooler, and finishes");
    fleet.all_go_on("a pooler was lost and came back").await;
    let mut failed = fleet.failed();
    failed.remove(7);
    assert_eq!(failed, vec![0; POOLERS - 1], "a pooler died");

    let port = if verb == "switchover" { fleet.lab.target_port } else { fleet.lab.source_port };
    for canary in fleet.canaries {
        let report = canary.stop().await;
        let audit = audit(&fleet.lab.directly(port, "shop"), &report.ledger).await.unwrap();
        assert!(audit.is_clean(), "{}: {audit}", report.label);
    }
    fleet.lab.destroy().await.unwrap();
}

fn is_held(lock: &std::path::Path) -> bool {
    std::fs::File::open(lock).is_ok_and(|file| file.try_lock().is_err())
}
