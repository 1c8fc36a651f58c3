//! A laboratory without clients, and what tests use to look into it: SQL, events, the journal, a dump of the catalogs.

use std::time::{Duration, Instant};

use nix::{errno::Errno, sys::signal::Signal, unistd::Pid};
use pgleap_lab::{Lab, LabSpec};
use pgleap_local::{KillOnDrop, Server, StopOnDrop, run};
use pgleap_saga::{Event, EventKind, EventSink, Journal, Outcome, Step, StepError, StopSignal};
use pgleap_upgrade::{Chain, Config, Standing, World, chain::ChainError, guard::Launch};
use tokio::sync::broadcast;
use tokio_postgres::{Client, NoTls};

use crate::rig::directory;

/// How long anything that is awaited may take, on a busy machine.
pub const LONG: Duration = Duration::from_secs(90);

/// A laboratory that nobody writes to.
pub struct Bed {
    pub lab: Lab,
    pub world: World,
    pub journal: Journal,
    pub stop: StopSignal,
}

/// Returns a small laboratory: one database, and no waiting for the disk.
pub fn small(from: u16, to: u16, name: &str) -> LabSpec {
    let mut spec = LabSpec::new(from, to, directory(name));
    spec.databases = vec!["shop".into()];
    spec.source_settings = vec![("fsync".into(), "off".into())];
    spec
}

impl Bed {
    pub async fn start(spec: LabSpec) -> Self {
        Self::start_with(spec, "").await
    }

    /// Starts it with further lines under `[budgets]`, the last section of the configuration.
    pub async fn start_with(spec: LabSpec, budgets: &str) -> Self {
        let lab = Lab::start(spec).await.unwrap();
        std::fs::write(lab.config_path(), lab.config_text() + budgets).unwrap();
        let config = Config::load(&lab.config_path()).unwrap();
        std::fs::create_dir_all(&config.state_dir).unwrap();
        let journal = Journal::open(config.state_dir.join("journal.sqlite")).unwrap();
        let world = World::describe(config, "7f3a".into(), Launch::Task).await.unwrap();
        Self { lab, world, journal, stop: StopSignal::new() }
    }

    pub fn chain(&self) -> Chain<'_> {
        Chain::new(&self.world, &self.journal, EventSink::new(), self.stop.clone())
    }
}

/// Opens a session; its driver ends with it.
pub async fn client(config: &tokio_postgres::Config) -> Client {
    connect(config).await.unwrap()
}

/// Opens a session, if the server lets it in.
pub async fn connect(config: &tokio_postgres::Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Returns the first column of every row as text, one line each.
pub async fn ask(config: &tokio_postgres::Config, sql: &str) -> Vec<String> {
    let rows = client(config).await.simple_query(sql).await.unwrap();
    let text = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
        _ => None,
    };
    rows.iter().filter_map(text).collect()
}

/// Polls until `look` finds something.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{place}: waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits for an event that `wanted` knows; `false` if the run ended without it.
pub async fn event(events: &mut broadcast::Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> bool {
    loop {
        match events.recv().await {
            Ok(event) if wanted(&event) => return true,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return false,
        }
    }
}

/// Whether an attempt at step `S` began.
pub fn began<S: Step<World>>(event: &Event) -> bool {
    matches!(event.kind, EventKind::StepStarted { .. }) && event.step.as_deref() == Some(S::NAME.0)
}

/// Whether the clock of the write pause began to run.
pub fn pause_began(event: &Event) -> bool {
    matches!(event.kind, EventKind::SectionStarted { .. })
}

/// Returns the newest output of a step, as the journal has it.
pub fn output<S: Step<World>>(world: &World, journal: &Journal) -> S::Output {
    pgleap_saga::Cx::standalone(world, journal).output::<S>().unwrap()
}

/// Returns why a plan turned back.
#[track_caller]
pub fn assert_unwound(outcome: Result<Outcome, ChainError>) -> StepError {
    match outcome {
        Ok(Outcome::Unwound { cause }) => cause,
        other => panic!("{other:#?}"),
    }
}

/// Returns what a plan waits for a person for.
#[track_caller]
pub fn assert_blocked(outcome: Result<Outcome, ChainError>) -> StepError {
    match outcome {
        Ok(Outcome::Blocked(failure)) => failure.error,
        other => panic!("{other:#?}"),
    }
}

#[track_caller]
pub fn assert_standing(chain: &Chain<'_>, expected: Standing) {
    assert_eq!(chain.standing().unwrap(), expected);
}

/// Who is who in the cluster: what `pg_dumpall` leaves out of its globals, or tells differently after a round trip.
const CLUSTER: &str = "
    SELECT pg_catalog.concat_ws(' ', 'slot', slot_name, plugin, database) FROM pg_catalog.pg_replication_slots
     UNION ALL SELECT 'subscription ' || subname FROM pg_catalog.pg_subscription
     UNION ALL SELECT 'origin ' || roname FROM pg_catalog.pg_replication_origin
     UNION ALL SELECT pg_catalog.concat_ws(' ', 'setting', coalesce(d.datname, '-'), s.setrole, s.setconfig)
                 FROM pg_catalog.pg_db_role_setting AS s LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
     UNION ALL SELECT pg_catalog.concat_ws(' ', 'access', d.datname, coalesce(r.rolname, 'PUBLIC'), g.rolname,
                                           a.privilege_type, a.is_grantable)
                 FROM pg_catalog.pg_database AS d,
              LATERAL pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS a
                 LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee JOIN pg_catalog.pg_roles AS g ON g.oid = a.grantor
     UNION ALL SELECT pg_catalog.concat_ws(' ', 'database', datname, datallowconn, datconnlimit) FROM pg_catalog.pg_database
     UNION ALL SELECT pg_catalog.concat_ws(' ', 'setting of the cluster', name, setting) FROM pg_catalog.pg_settings
                WHERE source IN ('configuration file', 'override', 'command line')
     ORDER BY 1";
const DATABASE: &str = "
    SELECT 'publication ' || pubname FROM pg_catalog.pg_publication
     UNION ALL SELECT 'schema ' || nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
     UNION ALL SELECT pg_catalog.concat_ws(' ', 'identity', oid::regclass, relreplident) FROM pg_catalog.pg_class
                WHERE relkind IN ('r', 'p') AND oid >= 16384
     ORDER BY 1";

/// Returns everything of the source that an upgrade may not leave changed: catalogs, and the pooler's configuration.
pub async fn as_found(lab: &Lab) -> Vec<String> {
    let mut found = ask(&lab.directly(lab.source_port, "postgres"), CLUSTER).await;
    let dump = async |program: &str, arguments: &[&str]| {
        let mut command = lab.account.command(lab.source.installation.tool(program));
        command.arg("-h").arg(lab.spec.dir.join("s")).arg("-p").arg(lab.source_port.to_string());
        command.args(["-U", "postgres"]).args(arguments);
        run(command, LONG).await.unwrap().stdout
    };
    let mut dumps = dump("pg_dumpall", &["-g"]).await;
    for database in lab.spec.databases.iter().map(String::as_str).chain(["postgres"]) {
        found.extend(ask(&lab.directly(lab.source_port, database), DATABASE).await);
        dumps.push_str(&dump("pg_dump", &["--schema-only", database]).await);
    }
    // newer dumps guard themselves by a word that is another one each time
    found.extend(dumps.lines().filter(|line| !line.contains("restrict ")).map(str::to_owned));
    found.push(std::fs::read_to_string(&lab.pooler().ini_path).unwrap());
    found
}

/// Fails the test with the lines that came or went.
#[track_caller]
pub fn assert_as_found(before: &[String], after: &[String]) {
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}

/// Kills the source as a crash would, and starts it again as an operator would.
pub async fn crash_source(lab: &Lab) {
    kill(&lab.source).await;
    lab.source.start(&[], LONG).await.unwrap();
}

/// Kills a server as a power cut would: the postmaster and all its children, without a word.
pub async fn kill(server: &Server) {
    // stopped first, so that it starts no further child and sees none of them die
    signal(server, Signal::SIGSTOP);
    signal(server, Signal::SIGKILL);
    until("the killed server to be gone", async || server.running().is_none().then_some(())).await;
}

/// Sends a signal to a server's postmaster, then to all its children.
pub fn signal(server: &Server, signal: Signal) {
    let postmaster = i32::try_from(server.running().unwrap().pid).unwrap();
    let children = children(postmaster);
    for pid in std::iter::once(postmaster).chain(children) {
        let sent = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        assert!(matches!(sent, Ok(()) | Err(Errno::ESRCH)), "{sent:?}");
    }
}

/// Returns the processes that `parent` started.
fn children(parent: i32) -> Vec<i32> {
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let parent_of = |pid: &i32| {
        // the second field, the program's name, may hold spaces and parentheses
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    pids.filter(|pid| parent_of(pid) == Some(parent)).collect()
}

/// Ends what a test began; a failing test leaves its directory.
pub async fn end(lab: Lab) {
    lab.destroy().await.unwrap();
}

/// Stops what a failing test leaves running, and shows the ends of its logs.
pub struct Guard {
    _servers: Vec<StopOnDrop>,
    _poolers: Vec<KillOnDrop>,
}

/// Returns the guard of a laboratory: to be held to the end of the test.
pub fn guard(lab: &Lab) -> Guard {
    let copy = Server {
        data_dir: lab.spec.dir.join("w/copy"),
        log: lab.spec.dir.join("w/log/copy.log"),
        ..lab.source.clone()
    };
    let servers = [lab.source.clone(), lab.target().unwrap(), copy].map(StopOnDrop);
    Guard { _servers: servers.into(), _poolers: lab.poolers.iter().cloned().map(KillOnDrop).collect() }
}
