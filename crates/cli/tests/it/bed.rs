//! A directory with a configuration, the program run in it, and journals driven by steps that only pretend.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use pgleap_saga::{
    Cx, EventSink, Executor, Journal, Observed, Outcome, Plan, RetryPolicy, Reversal, Step, StepError, StepName,
    StopSignal,
};
use serde_json::{Value, json};

/// A configuration whose servers nobody runs.
pub const CONFIG: &str = r#"
state_dir = "state"

[source]
dsn = "host=127.0.0.1 port=59432 user=postgres"

[target]
version = 18
port = 59433
data_dir = "target"

[provider]
kind = "self_managed"

[route]
kind = "pgbouncer"

[[route.pgbouncer]]
admin = "host=127.0.0.1 port=59632 user=pgbouncer"
ini = "pgbouncer.ini"
"#;

/// How the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Exit code, stdout and stderr as one text, for comparison.
    pub fn all(&self) -> String {
        format!("exit {}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in:\n{}", self.all()))
    }
}

/// A directory of its own.
pub struct Bed {
    pub directory: tempfile::TempDir,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(CONFIG)
    }

    pub fn with(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("pgleap.toml"), config).unwrap();
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null());
        for variable in ["PGLEAP_CONFIG", "PGPASSWORD", "PGPASSFILE", "NO_COLOR", "HOME"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs the program to its end, without a terminal.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Opens the journal that the program will find.
    pub fn journal(&self) -> Journal {
        std::fs::create_dir_all(self.path("state")).unwrap();
        let journal = Journal::open(self.path("state/journal.sqlite")).unwrap();
        journal.set_meta("upgrade_id", "7f3a").unwrap();
        journal
    }
}

/// A step that does nothing but say what it was told to.
pub struct Pretend<const N: usize>;

/// Names, summaries and outputs of the steps that pretend: those of the chain that status and report know.
type Part = (&'static str, &'static str, fn() -> Value, Reversal);

pub const PARTS: [Part; 12] = [
    ("provision.prepare_databases", "give every database the marker table", facts, Reversal::Undo),
    ("replicate.create_slots", "create a slot for every database", || Value::Null, Reversal::Undo),
    ("provision.base_backup", "copy the source", || Value::Null, Reversal::Undo),
    ("provision.fix_boundary", "fix the boundary", boundary, Reversal::Nothing),
    ("provision.prove_copy", "prove the boundary on the copy", proofs, Reversal::Nothing),
    (
        "provision.start_target",
        "start the target",
        || json!({ "version": "18.1", "version_num": 180_001 }),
        Reversal::Undo,
    ),
    ("provision.prove_target", "prove the boundary on the target", || Value::Null, Reversal::Nothing),
    ("replicate.catch_up", "catch up", || json!({ "seconds": 8.0, "lag_bytes": 0 }), Reversal::Nothing),
    ("verify.compare_tables", "compare every table", comparison, Reversal::Nothing),
    ("switchover.pause_pools", "pause every pool", || json!(4), Reversal::Undo),
    ("switchover.carry_over", "carry over", carried, Reversal::Nothing),
    ("switchover.move_clients", "move clients", || json!({ "write_pause_ms": 38.25 }), Reversal::PointOfNoReturn),
];

fn facts() -> Value {
    json!({ "version_num": 150_018, "version": "15.18 (Debian 15.18-1)", "system_identifier": "1",
            "bootstrap_superuser": "postgres",
            "databases": [{ "oid": 5, "name": "orders" }, { "oid": 6, "name": "billing" }] })
}
fn boundary() -> Value {
    json!({ "lsn": "0/3000060", "seen_until": "0/3000100" })
}
fn proofs() -> Value {
    json!([{ "database": "orders", "witnesses": [], "before": 12, "after": 3 },
           { "database": "billing", "witnesses": [], "before": 1, "after": 0 }])
}
fn carried() -> Value {
    json!({ "audit": "silence", "sequences": 3, "reverse_from": "0/4000028" })
}
fn comparison() -> Value {
    json!({ "tables": [
        { "database": "billing", "table": "public.invoice", "rows": 1204, "status": "equal" },
        { "database": "orders", "table": "public.entry", "rows": 118_000, "status": "moving", "parts": 1, "of": 64 }] })
}

/// What pretending steps need: where one is to fail.
#[derive(Default)]
pub struct World {
    pub fails: Option<(&'static str, StepError)>,
}

impl<const N: usize> Step<World> for Pretend<N> {
    type Output = Value;
    const NAME: StepName = StepName(PARTS[N].0);
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = PARTS[N].3;

    fn summary(&self) -> String {
        PARTS[N].1.to_owned()
    }
    async fn probe(&self, _: &Cx<'_, World>) -> Result<Observed<Value>, StepError> {
        Ok(Observed::Absent)
    }
    async fn run(&self, cx: &Cx<'_, World>) -> Result<Value, StepError> {
        match &cx.world.fails {
            Some((step, error)) if *step == PARTS[N].0 => return Err(error.clone()),
            _ => {}
        }
        if PARTS[N].0 == "replicate.catch_up" {
            for lag in [50_331_648.0, 12_000_000.0, 4096.0] {
                cx.sample("lag_bytes", lag);
            }
            cx.note("setting `password_encryption` is not carried over: it has no meaning here");
        }
        Ok(PARTS[N].2())
    }
    async fn undo(&self, _: &Cx<'_, World>) -> Result<(), StepError> {
        Ok(())
    }
}

pub fn upgrade() -> Plan<World> {
    Plan::new("upgrade-1", "upgrade", Value::Null)
        .then(Pretend::<0>)
        .then(Pretend::<1>)
        .then(Pretend::<2>)
        .then(Pretend::<3>)
        .then(Pretend::<4>)
        .then(Pretend::<5>)
        .then(Pretend::<6>)
        .then(Pretend::<7>)
        .then(Pretend::<8>)
}

pub fn switchover(id: &str, from: &str) -> Plan<World> {
    Plan::new(id, "switchover", json!({ "from": from })).section("write pause", Duration::from_secs(2), |pause| {
        pause.then(Pretend::<9>).then(Pretend::<10>).then(Pretend::<11>)
    })
}

/// Runs a plan to whatever end it finds.
pub fn drive(journal: &Journal, plan: &Plan<World>, world: &World) -> Outcome {
    drive_until(journal, plan, world, StopSignal::new())
}

/// As [`drive`], and heeds the signal.
pub fn drive_until(journal: &Journal, plan: &Plan<World>, world: &World, stop: StopSignal) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let executor = Executor::new(journal, EventSink::new(), RetryPolicy::default(), stop);
    runtime.block_on(executor.execute(plan, world)).unwrap()
}
