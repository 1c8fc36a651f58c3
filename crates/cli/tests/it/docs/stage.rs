//! A stage on which a document's story is told: real servers, and the program run as its readers would.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgleap_lab::{Lab, LabSpec};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::reading::Line;

const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What asks for a `yes` on a terminal; there is none here.
const ASKING: [&str; 5] = ["switchover", "rehearse", "rollback", "unwind", "finalize"];
/// The database of the documents.
const DATABASE: &str = "orders";

/// What a page of the runbook takes for granted, beyond what the page before it left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Given {
    Nothing,
    /// A table without replica identity.
    NoIdentity,
    /// A `pgleap run` that was interrupted while it copied.
    Interrupted,
    /// A prepared transaction.
    PreparedTransaction,
    /// The writes are on the source again, and a `pgleap switchover` was killed in the write pause.
    KilledInThePause,
}

/// The servers of one story, and what is open while it is told.
pub struct Stage {
    pub lab: Lab,
    canary: Option<Child>,
    session: Option<tokio_postgres::Client>,
    log: PathBuf,
}

pub type Told = Result<(), String>;

impl Stage {
    pub async fn set(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("pgl-{}-{name}", std::process::id()));
        let mut spec = LabSpec::new(15, 18, &directory);
        spec.databases = vec![DATABASE.to_owned()];
        spec.source_settings = vec![("max_prepared_transactions".into(), "5".into())];
        spec.write_pause = "10s".into();
        let lab = Lab::start(spec).await.unwrap();
        std::fs::write(lab.config_path(), lab.config_text()).unwrap();
        let log = directory.join("story.log");
        Self { lab, canary: None, session: None, log }
    }

    /// Ends the story: servers are stopped, and the directory stays if something went wrong.
    pub async fn strike(mut self, told: Told) {
        if let Some(canary) = &mut self.canary {
            drop(canary.kill().await);
        }
        match told {
            Ok(()) => self.lab.destroy().await.unwrap(),
            Err(why) => {
                self.lab.stop().await;
                panic!("{why}\nall output is in {}", self.log.display());
            }
        }
    }

    /// The documents' addresses and places are those of an ordinary host; here they are the laboratory's.
    pub fn here(&self, text: &str) -> String {
        let pooler = self.lab.pooler();
        let directory = self.lab.spec.dir.display();
        let bindirs = format!("bindirs = {:?}", self.lab.spec.bindirs);
        [
            ("port=5432", format!("port={}", self.lab.source_port)),
            ("port=6432 user=pgbouncer", format!("port={} user=pooladmin", pooler.spec.port)),
            ("port=6432", format!("port={}", pooler.spec.port)),
            ("port = 5433", format!("port = {}", self.lab.target_port)),
            ("/etc/pgbouncer/pgbouncer.ini", pooler.ini_path.display().to_string()),
            ("/etc/pgleap/passfile", format!("{directory}/passfile")),
            ("/var/lib/postgresql/18/main.pgleap", format!("{directory}/w")),
            ("/var/lib/postgresql/18/main", format!("{directory}/target")),
            ("bindirs = []", bindirs),
        ]
        .iter()
        .fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    fn command(&self, command: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_pgleap")).parent().unwrap();
        let path = std::env::join_paths(
            std::iter::once(bin.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {}", self.here(command))).current_dir(&self.lab.spec.dir).kill_on_drop(true);
        shell.env("PATH", path.unwrap()).env("PGPASSFILE", self.lab.spec.dir.join("passfile")).stdin(Stdio::null());
        shell.env_remove("PGLEAP_CONFIG").env_remove("PGPASSWORD");
        shell
    }

    /// What the run was foretold to take stands in the report beside what it took, and is kept for the next plan.
    pub fn foretold(&self) -> Told {
        let read = |name: &str| {
            std::fs::read_to_string(self.lab.spec.dir.join(name)).map_err(|error| format!("`{name}`: {error}"))
        };
        let report: serde_json::Value =
            serde_json::from_str(&read("report/report.json")?).map_err(|e| e.to_string())?;
        let stages = report["foretold"].as_array().cloned().unwrap_or_default();
        if stages.len() < 7 || stages.iter().any(|stage| stage["actual_s"].is_null()) {
            return Err(format!("not every stage was foretold and reached: {stages:#?}"));
        }
        match read("state/history.jsonl")?.lines().count() {
            1 => Ok(()),
            lines => Err(format!("the history has {lines} lines")),
        }
    }

    async fn output(&self, command: &str) -> Result<Output, String> {
        let ran = tokio::time::timeout(PATIENCE, self.command(command).output()).await;
        ran.map_err(|_| format!("`{command}` does not end"))?.map_err(|error| format!("`{command}`: {error}"))
    }

    /// Runs a line to its end, whichever way a reader would end it.
    pub async fn run(&mut self, line: &Line) -> Told {
        if line.is("canary") && line.has("--ledger") {
            return self.begin_canary(line).await;
        }
        if line.is("canary") {
            self.end_canary().await?;
        }
        if line.is("watch") && !line.has("--once") {
            return self.watch(line).await;
        }
        let asks = ASKING.iter().any(|verb| line.is(verb)) || line.has("--fix") || line.has("--undo");
        let asks = asks && !line.has("--yes");
        let output = self.output(&format!("{}{}", line.command, if asks { " --yes" } else { "" })).await?;
        let said = format!(
            "$ {}\n{}{}",
            line.command,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        self.note(&said);
        match output.status.code() {
            Some(code) if code == line.exit => Ok(()),
            code => Err(format!("{}: exit {code:?}, the document says {}\n{said}", line.place, line.exit)),
        }
    }

    pub fn note(&self, text: &str) {
        use std::io::Write;
        let mut log = File::options().create(true).append(true).open(&self.log).unwrap();
        writeln!(log, "{text}").unwrap();
    }

    async fn begin_canary(&mut self, line: &Line) -> Told {
        let log = File::create(self.lab.spec.dir.join("canary.log")).unwrap();
        let mut command = self.command(&line.command);
        self.canary = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().map_err(|e| e.to_string())?);
        let ledger = self.lab.spec.dir.join("canary.ledger");
        until(&format!("{}: writes its ledger", line.place), async || {
            std::fs::metadata(&ledger).is_ok_and(|ledger| ledger.len() > 0)
        })
        .await
    }

    async fn end_canary(&mut self) -> Told {
        let Some(mut canary) = self.canary.take() else { return Ok(()) };
        signal(&canary, Signal::SIGINT);
        let ended = tokio::time::timeout(PATIENCE, canary.wait()).await.map_err(|_| "the canary does not end")?;
        match ended.map_err(|error| error.to_string())?.code() {
            Some(0) => Ok(()),
            code => Err(format!("the canary ended with {code:?}")),
        }
    }

    async fn watch(&self, line: &Line) -> Told {
        let mut child =
            self.command(&line.command).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        first.map_err(|_| format!("{}: shows nothing", line.place))?.map_err(|error| error.to_string())?;
        signal(&child, Signal::SIGINT);
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await.map_err(|_| "the watch does not end")?;
        let code = ended.map_err(|error| error.to_string())?.code();
        if code == Some(line.exit) { Ok(()) } else { Err(format!("{}: ended with {code:?}", line.place)) }
    }

    async fn status(&self) -> serde_json::Value {
        let output = self.output("pgleap status --format json").await;
        output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default()
    }

    pub async fn standing(&self) -> String {
        self.status().await["standing"]["standing"].as_str().unwrap_or_default().to_owned()
    }

    async fn sql(&self, statement: &str) -> Told {
        let config = self.lab.directly(self.lab.source_port, DATABASE);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move { drop(connection.await) });
        client.batch_execute(statement).await.map_err(|error| format!("{statement}: {error}"))
    }

    pub async fn given(&mut self, given: Given) -> Told {
        match given {
            Given::Nothing => Ok(()),
            Given::NoIdentity => self.sql("CREATE TABLE public.audit_trail (at timestamptz)").await,
            Given::PreparedTransaction => {
                self.sql("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'forgotten'").await
            }
            Given::Interrupted => {
                let mut run = self.command("pgleap run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                until("the slots are there", async || self.step_is_done("replicate.create_slots").await).await?;
                signal(&run, Signal::SIGINT);
                let code = run.wait().await.map_err(|error| error.to_string())?.code();
                if code == Some(4) { Ok(()) } else { Err(format!("the interrupted run ended with {code:?}")) }
            }
            Given::KilledInThePause => {
                self.run(&Line { place: "given".into(), command: "pgleap rollback".into(), exit: 0 }).await?;
                // a pool that cannot drain keeps the pause open
                let config = self.lab.through_pooler(DATABASE);
                let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(|e| e.to_string())?;
                tokio::spawn(async move { drop(connection.await) });
                client.batch_execute("BEGIN; SELECT 1").await.map_err(|error| error.to_string())?;
                self.session = Some(client);
                let mut command = self.command("pgleap switchover --yes");
                let mut switchover = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                until("the write pause begins", async || {
                    let status = self.status().await;
                    let sections = status["plan"]["sections"].as_array().is_some_and(|all| !all.is_empty());
                    sections && status["standing"]["standing"] == "open"
                })
                .await?;
                // as a host dies: the process that would take over goes first
                second_of(&switchover).into_iter().for_each(|pid| kill(pid, Signal::SIGKILL).unwrap());
                switchover.kill().await.map_err(|error| error.to_string())
            }
        }
    }

    async fn step_is_done(&self, name: &str) -> bool {
        let status = self.status().await;
        let steps = status["plan"]["steps"].as_array().cloned().unwrap_or_default();
        steps.iter().any(|step| step["name"] == name && step["status"] == "done")
    }

    /// Removes what the page's first refusal was about.
    pub async fn cure(&mut self, given: Given) -> Told {
        self.session = None;
        match given {
            Given::NoIdentity => self.sql("ALTER TABLE public.audit_trail REPLICA IDENTITY FULL").await,
            Given::PreparedTransaction => self.sql("ROLLBACK PREPARED 'forgotten'").await,
            _ => Ok(()),
        }
    }
}

/// Returns the process that waits for this one's death.
fn second_of(first: &Child) -> Option<Pid> {
    let first = first.id().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
    let waits = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.contains("--when-orphaned"))
    };
    children.split_whitespace().find(waits).map(|pid| Pid::from_raw(pid.parse().unwrap()))
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Told {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        if Instant::now() > deadline {
            return Err(format!("never: {what}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
