//! Twelve PgBouncers on four hosts, source and target on two more: whatever is lost at whatever fault point of a switchover,
//! nobody waits past the write budget and a lease, no acknowledged write is lost, and never do both sides take writes.
//!
//! `make test-matrix` loses everything everywhere, and prints what it took; otherwise each phase has its turn. `PGLEAP_SWEEP`, a
//! list of how points begin, such as `switchover.fence,switchover.carry_over`, is for a part of it.

use std::{
    collections::BTreeMap,
    fmt,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use pgleap_canary::{Canary, prepare};
use pgleap_lab::{Lab, ROLES};
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::{
    guards::{authority, behind_guards},
    hosts::{Cut, Host, Network},
    scene::{Clients, DATABASE, Scene, connect},
};

const HOSTS: usize = 4;
const POOLERS_EACH: usize = 3;
const POOLERS: usize = HOSTS * POOLERS_EACH;
const SOURCE: &str = "10.99.0.1";
const LEAP: &str = "10.99.0.2";

/// The laboratory's write budget, and a lease. Nothing is allowed for the machine or for the clients, who after an error of
/// their own wait for up to a quarter of a second: what they saw is what counts.
const PROMISED: Duration = Duration::from_millis(2000 + 2500);
/// Longer than everything that waits for something that is lost: who would wait for its return is seen to.
const LOST_FOR: Duration = Duration::from_secs(6);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const AT_ONCE_MS: f64 = 500.0;
const CLIENTS: Clients = Clients { count: 2, rate: 10.0, bear: Duration::from_secs(30) };

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    /// pgleap, by kill -9; its second process is beside it.
    Pgleap,
    /// A guard, by kill -9; its service manager starts it again.
    Guard,
    /// A PgBouncer, by kill -9; started again later.
    Pooler,
    /// The link of a guard and its poolers, which know.
    LinkDown,
    /// The same, and nobody knows.
    BlackHole,
    /// The link of pgleap and the target, and nobody knows.
    PgleapCutOff,
}
use Loss::{BlackHole, Guard, LinkDown, Pgleap, PgleapCutOff, Pooler};

const LOSSES: [Loss; 6] = [Pgleap, Guard, Pooler, LinkDown, BlackHole, PgleapCutOff];

/// Each phase, and each loss before and after the decision.
const ROUNDS: [(&str, Loss); 13] = [
    ("switchover.check_gates.after_run", BlackHole),
    ("switchover.warm_up.after_run", LinkDown),
    ("switchover.pause_pools.after_started", Pooler),
    ("switchover.pause_pools.after_pause", Pgleap),
    ("switchover.fence.after_block", PgleapCutOff),
    ("switchover.fence.after_run", Guard),
    ("switchover.carry_over.after_arrival", BlackHole),
    ("switchover.move_clients.after_point_of_no_return", LinkDown),
    ("switchover.move_clients.after_point_of_no_return", Guard),
    ("switchover.move_clients.after_decision", Pgleap),
    ("switchover.move_clients.after_decision", Guard),
    ("switchover.turn_replication.between", PgleapCutOff),
    ("switchover.gather_poolers.after_started", Pooler),
];

/// Points next to which another lies with the same state of the world and the journal.
const TWINS: [&str; 6] = [
    ".before_started",
    ".before_succeeded",
    ".after_succeeded",
    ".before_section_started",
    ".before_plan_closed",
    ".before_plan_opened",
];

/// A host with a guard and poolers.
struct Pool {
    host: Host,
    guard: Child,
}

struct Fleet {
    network: Network,
    scene: Scene,
    pools: Vec<Pool>,
    source: Host,
}

/// What a round took.
#[derive(Debug, Default)]
struct Seen {
    /// The longest wait of clients whose link was not cut, and whose pooler was not killed.
    waited: Duration,
    /// The longest pause of a pooler on a host that was cut off.
    paused: Duration,
    moved: bool,
}

#[derive(Default)]
struct Figures {
    rounds: usize,
    moved: usize,
    waited: Duration,
    paused: Duration,
    at: String,
}

impl Figures {
    fn add(&mut self, point: &str, seen: &Seen) {
        self.rounds += 1;
        self.moved += usize::from(seen.moved);
        self.paused = self.paused.max(seen.paused);
        if seen.waited > self.waited {
            (self.waited, self.at) = (seen.waited, point.to_owned());
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, moved, waited, paused, at } = self;
        write!(f, "{rounds} rounds, {moved} moved; longest wait {waited:.0?} (at {at}), longest pause {paused:.0?}")
    }
}

impl Fleet {
    async fn start(network: Network) -> Self {
        let spec = Scene::spec("sweep", |spec| {
            spec.source_host = SOURCE.into();
            spec.target_host = LEAP.into();
            spec.pooler_settings =
                vec![("default_pool_size".into(), "2".into()), ("server_login_retry".into(), "1".into())];
        });
        let (source, leap) = (network.host("source", SOURCE).await, network.host("leap", LEAP).await);
        let lab = source.does(Lab::start_servers(spec)).await.unwrap();
        let config = lab.bypassing(lab.source_port, DATABASE);
        let prepared = async move {
            prepare(&config).await.unwrap();
            // each round compares every row
            connect(config).await.batch_execute("TRUNCATE pgbench_accounts").await.unwrap();
        };
        source.does(prepared).await;
        let mut fleet =
            Self { scene: Scene { lab, host: leap, canaries: Vec::new() }, network, pools: Vec::new(), source };
        let tls = fleet.scene.dir().join("tls");
        std::fs::create_dir(&tls).unwrap();
        let addresses: Vec<_> = (0..HOSTS).map(|number| format!("10.99.0.{}", 11 + number)).collect();
        let names: Vec<_> = (0..HOSTS).map(|number| format!("pool{number}")).collect();
        let mut subjects: Vec<_> = names.iter().map(String::as_str).zip(addresses.iter().map(String::as_str)).collect();
        subjects.push(("pgleap", LEAP));
        authority(&tls, "authority", &subjects);
        for (name, address) in names.iter().zip(&addresses) {
            fleet.add_pool(name, address).await;
        }
        let entry = |address: &String| {
            let entry = |port| {
                format!(
                    "[[route.pgbouncer]]\nguard = \"{address}:7432\"\n\
                     admin = \"host=127.0.0.1 port={port} user=pooladmin\"\n\n"
                )
            };
            (6432..).take(POOLERS_EACH).map(entry).collect::<String>()
        };
        fleet.scene.configure(&behind_guards(
            &fleet.scene.lab.config_text(),
            &addresses.iter().map(entry).collect::<String>(),
        ));
        fleet
    }

    /// Starts poolers and their guard on a host; each host calls its poolers alike.
    async fn add_pool(&mut self, name: &str, address: &str) {
        let host = self.network.host(name, address).await;
        let mut text = format!(
            "listen = \"{address}:7432\"\nnotes = \"notes-{name}\"\n[tls]\ncertificate = \"tls/{name}.pem\"\n\
             key = \"tls/{name}.key\"\nauthority = \"tls/authority.pem\"\n"
        );
        for port in (6432..).take(POOLERS_EACH) {
            let spec = self.scene.lab.pooler_spec(self.scene.lab.poolers.len(), port);
            let started = async move {
                let pooler = spec.start().await.unwrap();
                let canary = Canary::start(CLIENTS.at(&pooler)).await.unwrap();
                (pooler, canary)
            };
            let (pooler, canary) = host.does(started).await;
            text.push_str(&format!(
                "[[pgbouncer]]\nadmin = \"host=127.0.0.1 port={port} user=pooladmin\"\n\
                 password = {{ passfile = \"passfile\" }}\nini = \"{}\"\n",
                pooler.ini_path.display()
            ));
            self.scene.lab.poolers.push(pooler);
            self.scene.canaries.push(canary);
        }
        std::fs::write(self.scene.dir().join(format!("{name}.toml")), text).unwrap();
        let guard = start_guard(&host, self.scene.dir()).await;
        let log = self.scene.dir().join(format!("{name}.log"));
        let listens = || std::fs::read_to_string(&log).is_ok_and(|said| said.contains("listening on"));
        self.scene.until("a guard to listen", listens).await;
        self.pools.push(Pool { host, guard });
    }

    /// Returns every fault point of a switchover and of a rollback but twins, in their order.
    async fn points(&self) -> Vec<String> {
        let mut points = Vec::new();
        for _ in 0..2 {
            let file = self.scene.dir().join("points");
            let status = self.scene.run_with(&[self.scene.verb()], &format!("trace:{}", file.display()), false).await;
            assert_eq!(status.code(), Some(0));
            for point in std::fs::read_to_string(&file).unwrap().lines() {
                let is_twin = TWINS.iter().any(|twin| point.ends_with(twin));
                if !is_twin && !points.iter().any(|known| known == point) {
                    points.push(point.to_owned());
                }
            }
            std::fs::remove_file(&file).unwrap();
        }
        points
    }

    /// Loses something when the command to move the writes comes to a point; `number` says which of its kind.
    async fn lose(&mut self, loss: Loss, point: &str, number: usize) -> Seen {
        let verb = self.scene.verb();
        let round = format!("{verb} {point} {loss:?}");
        for canary in &self.scene.canaries {
            // a connection that was cut off may need a while: that is not this round's
            self.scene.until("the last round's waits to end", || canary.snapshot().waiting_ms < AT_ONCE_MS).await;
            canary.mark(&round);
        }
        let (host, pooler) = (number % HOSTS, number % POOLERS);
        let behind = |host: usize| (host * POOLERS_EACH..(host + 1) * POOLERS_EACH).collect::<Vec<_>>();
        // whose clients may be kept from their server by what is lost, and who is asked how long it is paused
        let (hurt, watched) = match loss {
            LinkDown | BlackHole => (behind(host), behind(host)),
            PgleapCutOff => ((0..POOLERS).collect(), (0..HOSTS).map(|host| host * POOLERS_EACH).collect()),
            Pooler => (vec![pooler], Vec::new()),
            Pgleap | Guard => Default::default(),
        };
        let mut pauses = Vec::new();
        for number in watched {
            pauses.push(Pauses::watch(&self.pools[number / POOLERS_EACH].host, &self.scene.lab.poolers[number]).await);
        }
        let code = if loss == Pgleap {
            let status = self.scene.run_with(&[verb], &format!("kill:{point}"), false).await;
            assert_eq!(status.signal(), Some(9), "{round}: it did not die, but {status:?}");
            None
        } else {
            let (mut child, here) = self.scene.held_at(verb, point).await;
            self.take(loss, host, pooler).await;
            std::fs::remove_file(&here).unwrap();
            let ended = tokio::time::timeout(LOST_FOR, child.wait()).await;
            self.give_back(loss, host, pooler).await;
            match ended {
                Ok(status) => status.unwrap().code(),
                Err(_) => self.scene.end(child).await.code(),
            }
        };
        assert!(matches!(code, None | Some(0 | 4 | 5)), "{round}: {code:?}");
        self.settle(&round).await;
        let mut seen = Seen { moved: self.scene.verb() != verb, ..Seen::default() };
        for pause in pauses {
            seen.paused = seen.paused.max(pause.end().await);
        }
        self.scene.all_go_on(&round).await;
        for (_, canary) in self.scene.canaries.iter().enumerate().filter(|(number, _)| !hurt.contains(number)) {
            let stall = canary.snapshot().periods.last().unwrap().longest_stall_ms;
            seen.waited = seen.waited.max(Duration::from_secs_f64(stall / 1000.0));
        }
        seen
    }

    async fn take(&mut self, loss: Loss, host: usize, pooler: usize) {
        let victim = self.scene.lab.poolers[pooler].clone();
        let pool = &mut self.pools[host];
        match loss {
            Pgleap => {}
            Guard => {
                pool.guard.kill().await.unwrap();
                pool.guard = start_guard(&pool.host, self.scene.dir()).await;
            }
            Pooler => victim.kill9().await.unwrap(),
            LinkDown => self.network.cut(&pool.host, Cut::Down).await,
            BlackHole => self.network.cut(&pool.host, Cut::BlackHole).await,
            PgleapCutOff => self.network.cut(&self.scene.host, Cut::BlackHole).await,
        }
    }

    async fn give_back(&mut self, loss: Loss, host: usize, pooler: usize) {
        let victim = self.scene.lab.poolers[pooler].clone();
        match loss {
            Pgleap | Guard => {}
            Pooler => {
                let place = &self.pools[pooler / POOLERS_EACH].host;
                place.does(async move { victim.restart().await.unwrap() }).await;
            }
            LinkDown => self.network.mend(&self.pools[host].host, Cut::Down).await,
            BlackHole => self.network.mend(&self.pools[host].host, Cut::BlackHole).await,
            PgleapCutOff => self.network.mend(&self.scene.host, Cut::BlackHole).await,
        }
    }

    /// Waits for the second process; where it leaves the plan open, as before the pause, somebody types `resume`.
    async fn settle(&self, round: &str) {
        self.scene.until("the second process to end", || self.scene.is_unlocked() && !self.somebody_stands_by()).await;
        for _ in 0..5 {
            if self.scene.standing() != "open" {
                return;
            }
            let code = self.scene.run(&["resume"]).await.code();
            assert!(matches!(code, Some(0 | 4 | 5)), "{round}: `resume` ended with {code:?}");
        }
        panic!("{round}: `resume` does not come to an end; see {}", self.scene.dir().display());
    }

    fn somebody_stands_by(&self) -> bool {
        let config = self.scene.lab.config_path().display().to_string();
        std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
            std::fs::read(process.path().join("cmdline")).is_ok_and(|line| {
                let line = String::from_utf8_lossy(&line);
                line.contains(&config) && line.contains("--when-orphaned")
            })
        })
    }

    async fn verdict(mut self) {
        // the ledgers are compared where both servers can be reached
        self.scene.host = self.source;
        self.scene.verdict().await;
    }
}

/// How long a pooler was paused at a time, by itself.
struct Pauses {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Duration>,
}

impl Pauses {
    /// Asks a pooler's console on its own host, again and again.
    async fn watch(host: &Host, pooler: &pgleap_local::Pooler) -> Self {
        let mut config = Lab::through(pooler, "pgbouncer");
        config.user(ROLES[2].0).password(ROLES[2].1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let console = host.does(connect(config)).await;
        let task = tokio::spawn(async move {
            let (mut since, mut longest) = (None, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                if is_paused(&console).await {
                    longest = longest.max(since.get_or_insert_with(Instant::now).elapsed());
                } else {
                    since = None;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            longest
        });
        Self { stop, task }
    }

    async fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn is_paused(console: &Client) -> bool {
    let rows = console.simple_query("SHOW DATABASES").await.unwrap();
    rows.iter().any(|row| match row {
        SimpleQueryMessage::Row(row) => row.get("name") == Some(DATABASE) && row.get("paused") == Some("1"),
        _ => false,
    })
}

/// Whoever looks whether both sides let the application in at the same time.
struct Witness {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

const OPEN: &str = "SELECT pg_catalog.has_database_privilege('app', $1, 'CONNECT')";

impl Witness {
    /// Asks both servers, each on its own host, again and again; the looks are counted.
    async fn of(fleet: &Fleet) -> Self {
        let lab = &fleet.scene.lab;
        // a superuser in the database itself would pass the fence, and stop every switchover
        let (source, target) = (lab.directly(lab.source_port, "postgres"), lab.directly(lab.target_port, "postgres"));
        let source = fleet.source.does(connect(source)).await;
        let target = fleet.scene.host.does(connect(target)).await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let open = async |side: &Client| side.query_one(OPEN, &[&DATABASE]).await.unwrap().get::<_, bool>(0);
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                // open before and after the other one was: open at that moment too
                let both = open(&source).await && open(&target).await && open(&source).await;
                assert!(!both, "both sides let the application in");
                looks += 1;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            looks
        });
        Self { stop, task }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("never both sides")
    }
}

async fn start_guard(host: &Host, directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
    command.arg("--config").arg(directory.join(format!("{}.toml", host.name))).arg("guard");
    let log = std::fs::File::options().create(true).append(true).open(directory.join(format!("{}.log", host.name)));
    let log = log.unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
    host.does(async move { command.spawn().unwrap() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_lost_wherever_nobody_waits_past_the_lease_no_write_is_lost_and_one_side_takes_writes() {
    let network = match Network::new().await {
        Ok(network) => network,
        Err(why) => return eprintln!("NOT TRIED: {why}"),
    };
    let mut fleet = Fleet::start(network).await;
    assert_eq!(fleet.scene.run(&["run"]).await.code(), Some(0));
    let witness = Witness::of(&fleet).await;
    let part = std::env::var("PGLEAP_SWEEP").ok();
    let rounds: Vec<(String, Loss)> = if part.is_some() || std::env::var_os("PGLEAP_TEST_MATRIX").is_some() {
        let part = part.unwrap_or_default();
        let mut points = fleet.points().await;
        points.retain(|point| part.split(',').any(|begins| point.starts_with(begins)));
        points.iter().flat_map(|point| LOSSES.map(|loss| (point.clone(), loss))).collect()
    } else {
        ROUNDS.map(|(point, loss)| (point.to_owned(), loss)).into()
    };
    println!("{} rounds", rounds.len());
    let (mut figures, mut broken) = (BTreeMap::<Loss, Figures>::new(), Vec::new());
    for (number, (point, loss)) in rounds.iter().enumerate() {
        let began = Instant::now();
        let seen = fleet.lose(*loss, point, number).await;
        println!("{:4.1} s  {point} {loss:?}: {seen:?}", began.elapsed().as_secs_f64());
        figures.entry(*loss).or_default().add(point, &seen);
        if seen.waited.max(seen.paused) > PROMISED {
            broken.push(format!("{point} {loss:?}: {seen:?}"));
        }
        assert!(!witness.task.is_finished(), "{point} {loss:?}: see the witness");
    }
    println!("{} looks at both sides", witness.end().await);
    for (loss, figures) in figures {
        println!("{loss:?}: {figures}");
    }
    fleet.verdict().await;
    assert!(broken.is_empty(), "more than the {PROMISED:?} that are promised: {broken:#?}");
}
