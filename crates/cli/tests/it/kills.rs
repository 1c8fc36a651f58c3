//! kill -9 at every fault point of the chain, then `pgleap resume`: the same end, and the ledger is clean.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use pgleap_canary::{Canary, CanaryConfig, audit, prepare};
use pgleap_lab::{Application, Lab, LabSpec};
use tokio::process::Command;

/// Deaths of one story; there are fewer fault points, and a chain that needs more does not end by itself.
const MOST_DEATHS: usize = 400;
const PATIENCE: Duration = Duration::from_secs(120);

/// Points next to which another lies with the same state of the world and the journal: each record is written in one
/// transaction with the one before it. `make test-matrix` dies at these too.
const TWINS: &str = "*.before_started\n*.before_succeeded\n*.after_succeeded\n*.before_undo_started\n*.before_undone\n\
                     *.after_undone\n*.before_direction_changed\n*.before_failed\n*.after_failed\n*.before_plan_closed\n\
                     *.before_section_started\n*.before_plan_opened\n";

struct Story {
    config: PathBuf,
    points: PathBuf,
    deaths: usize,
}

impl Story {
    /// Runs one command, which dies at the first fault point that no earlier one died at.
    async fn command(&self, verb: &str) -> ExitStatus {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
        command.args(["--yes", "--config"]).arg(&self.config).arg(verb);
        command.env("PGLEAP_FAULT", format!("kill-each:{}", self.points.display())).env("PGLEAP_FAULT_ALONE", "1");
        let log = self.config.with_file_name("pgleap.log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        tokio::time::timeout(PATIENCE, command.status()).await.expect("the command ends").unwrap()
    }

    /// Does what `verb` says, however often it takes to die on the way.
    async fn act(&mut self, verb: &str) {
        let mut next = verb;
        for _ in 0..MOST_DEATHS {
            let status = self.command(next).await;
            match (status.signal(), status.code()) {
                (Some(9), _) => {
                    self.deaths += 1;
                    // a death before anything was journaled leaves nothing to resume
                    next = if self.is_open() { "resume" } else { self.after_death(verb) };
                    if next.is_empty() {
                        return;
                    }
                }
                // a switchover that was interrupted in its pause is taken back by `resume`: begin it anew
                (None, Some(4 | 5)) if verb != "run" => next = verb,
                (None, Some(0)) => return,
                other => panic!("`pgleap {next}` ended with {other:?}; see {}", self.config.display()),
            }
        }
        panic!("`pgleap {verb}` does not come to an end; see {}", self.config.display());
    }

    /// Reads what `pgleap status` says.
    fn status(&self) -> serde_json::Value {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pgleap"))
            .args(["status", "--format", "json", "--config"])
            .arg(&self.config)
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn is_open(&self) -> bool {
        self.status().to_string().contains("\"standing\":\"open\"")
    }

    /// Returns the verb again if it was not done when the process died, and nothing if it was.
    fn after_death<'a>(&self, verb: &'a str) -> &'a str {
        let reached = match verb {
            "run" | "rollback" => "\"standing\":\"in_sync\"",
            "switchover" => "\"standing\":\"switched_over\"",
            _ => "\"standing\":\"finalized\"",
        };
        if self.status().to_string().contains(reached) { "" } else { verb }
    }

    fn seen(&self) -> BTreeSet<String> {
        std::fs::read_to_string(&self.points)
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.starts_with('*'))
            .map(str::to_owned)
            .collect()
    }
}

async fn canary(lab: &Lab, database: &str) -> Canary {
    prepare(&lab.bypassing(lab.source_port, database)).await.unwrap();
    let config = CanaryConfig {
        connect: lab.through_pooler(database),
        clients: 3,
        rate: Some(40.0),
        ledger: None,
        // clients of a paused pooler wait until `resume`
        transaction_timeout: PATIENCE,
        label: database.to_owned(),
    };
    Canary::start(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgleap_killed_at_every_fault_point_resumes_to_the_same_end_without_losing_a_write() {
    let directory = std::env::temp_dir().join(format!("pgl-{}-kills", std::process::id()));
    let mut spec = LabSpec::new(15, 18, &directory);
    spec.readers = true;
    let lab = Lab::start(spec).await.unwrap();
    std::fs::write(lab.config_path(), lab.config_text()).unwrap();
    let mut canaries = Vec::new();
    for database in &lab.spec.databases {
        canaries.push((database.clone(), canary(&lab, database).await));
    }
    let application = Application::start(&lab.through_pooler("shop"), 1, 10);
    let readers = Application::reading(&lab.reading_through_pooler("shop"), 2, 20);

    let mut story = Story { config: lab.config_path(), points: directory.join("points"), deaths: 0 };
    if std::env::var_os("PGLEAP_TEST_MATRIX").is_none() {
        std::fs::write(&story.points, TWINS).unwrap();
    }
    for verb in ["run", "switchover", "rollback", "switchover", "finalize"] {
        story.act(verb).await;
        if verb == "run" {
            lab.start_target_standby().await.unwrap();
        }
    }
    assert_eq!(story.after_death("finalize"), "", "finalized: {}", story.status());

    let seen = story.seen();
    assert_eq!(seen.len(), story.deaths, "one death at each point");
    for expected in [
        "replicate.create_slots.after_started",
        "provision.base_backup.after_run",
        "provision.upgrade_copy.after_check",
        "readers.admit.after_shut",
        "readers.admit.after_undo",
        "readers.move_pools.after_pause",
        "switchover.pause_pools.after_pause",
        "switchover.fence.after_block",
        "switchover.carry_over.after_arrival",
        "switchover.move_clients.after_point_of_no_return",
        "switchover.move_clients.after_decision",
        "switchover.turn_replication.between",
        "switchover.fence.before_undo",
        "finalize.drop_reverse.after_run",
    ] {
        assert!(seen.contains(expected), "nobody died at {expected}: {seen:#?}");
    }
    for clients in [application, readers] {
        let applied = clients.stop().await;
        assert_eq!(applied.failed, 0, "{:?}", applied.first_failure);
    }
    for (database, canary) in canaries {
        let report = canary.stop().await;
        let audit = audit(&lab.directly(lab.target_port, &database), &report.ledger).await.unwrap();
        assert!(audit.is_clean(), "database {database}: {audit}");
        assert_eq!(report.stats.failed_transactions, 0, "{:?}", report.stats.failures);
        assert!(report.stats.transactions > 20);
    }
    assert!(!Path::new(&directory.join("w")).exists(), "the work directory goes with `finalize`");
    println!("{} deaths", story.deaths);
    lab.destroy().await.unwrap();
}
