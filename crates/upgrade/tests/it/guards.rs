//! One guard and one PgBouncer: what a pause, a decision and a question mean to it, in every order, and what it does to files.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pgleap_local::{Account, InitOptions, KillOnDrop, PoolerSpec, Server, StopMode, StopOnDrop, find, free_port};
use pgleap_saga::StepError;
use pgleap_upgrade::{
    config,
    guard::{
        GuardClient, Launch, Ward,
        client::Place,
        launch::Beside,
        note::Turn,
        protocol::{self, Answer, Reply, Request, Status, Verb},
    },
    pg::Secret,
    pgbouncer::{
        admin::{Admin, Entry},
        ini::Address,
        pooler::Move,
    },
};
use tokio::{io::BufStream, net::UnixStream, time::timeout};
use tokio_postgres::NoTls;

use crate::{
    bed::{LONG, ask, client, connect, until},
    preflight::poolers,
    rig::directory,
};

/// A lease that is waited for, and one that is not.
const BRIEF: Duration = Duration::from_secs(2);
const AMPLE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);

struct Scene {
    dir: PathBuf,
    client: Arc<GuardClient>,
    console: String,
    pooler: KillOnDrop,
    old: Address,
    new: Address,
}

impl Scene {
    async fn start(bin: PathBuf, name: &str) -> Self {
        Self::between(address(1), address(2), bin, name, |_| ()).await
    }

    async fn between(
        old: Address,
        new: Address,
        bin: PathBuf,
        name: &str,
        change: impl FnOnce(&mut PoolerSpec),
    ) -> Self {
        let dir = directory(name);
        let port = free_port().unwrap();
        let mut spec = PoolerSpec {
            bin,
            dir: dir.join("p"),
            port,
            account: Account::for_servers(None).unwrap(),
            databases: vec![("shop".into(), old.host.clone(), old.port, "shop".into())],
            users: vec![("admin".into(), "secret".into())],
            admin_users: vec!["admin".into()],
            pool_mode: "transaction".into(),
            extra: Vec::new(),
        };
        change(&mut spec);
        let account = Account::for_servers(None).unwrap();
        account.create_dir(&dir, 0o755).unwrap();
        let pooler = KillOnDrop(spec.start().await.unwrap());
        let ward = Ward::PgBouncer(described(&pooler), Some(Secret::new("secret")));
        let console = ward.console();
        let beside = Arc::new(Beside::new(Launch::Task, dir.clone(), vec![ward]));
        let client = Arc::new(GuardClient::new("it".into(), console.clone(), Place::Beside(beside)));
        Self { dir, client, console, pooler, old, new }
    }

    async fn ask(&self, verb: Verb) -> Result<Answer, StepError> {
        self.client.ask(verb, SOON).await
    }

    async fn entry(&self) -> Entry {
        match self.ask(Verb::Entries).await.unwrap() {
            Answer::Entries(entries) => entries.into_iter().find(|entry| entry.name == "shop").unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn status(&self) -> Status {
        match self.ask(Verb::Status).await.unwrap() {
            Answer::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    async fn turn(&self, id: &str, old: &Address, new: &Address) -> Turn {
        let step = Move { entries: vec![self.entry().await], old: old.clone(), new: new.clone() };
        Turn { id: id.to_owned(), moves: vec![step] }
    }

    async fn hold(&self, turn: &Turn, lease: Duration) {
        let millis = u64::try_from(lease.as_millis()).unwrap();
        let verb = Verb::Hold { turn: turn.clone(), lease_ms: millis, within_ms: millis };
        self.client.ask(verb, lease).await.unwrap();
    }

    /// Holds, decides and resumes: a turn from its beginning to its end.
    async fn lead(&self, turn: &Turn) {
        self.hold(turn, AMPLE).await;
        self.ask(Verb::Decide { turn: turn.clone() }).await.unwrap();
        self.ask(Verb::Resume { turn: turn.id.clone(), entries: turn.entries() }).await.unwrap();
    }

    fn end(self) {
        let Self { dir, pooler, .. } = self;
        drop(pooler);
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// Puts the file elsewhere, and a link in its place.
    fn link(&self) {
        let (path, real) = (&self.pooler.0.ini_path, self.dir.join("real.ini"));
        std::fs::rename(path, &real).unwrap();
        std::os::unix::fs::symlink(real, path).unwrap();
    }

    /// Begins the file with a line that PgBouncer cannot read, or takes it away.
    fn spoil(&self, spoilt: bool) {
        const NONSENSE: &str = "[databases]\nno such line\n";
        let path = &self.pooler.0.ini_path;
        let text = std::fs::read_to_string(path).unwrap();
        let text = if spoilt { NONSENSE.to_owned() + &text } else { text.replace(NONSENSE, "") };
        std::fs::write(path, text).unwrap();
    }
}

fn described(pooler: &KillOnDrop) -> config::Pooler {
    config::Pooler {
        host: "127.0.0.1".into(),
        port: pooler.0.spec.port,
        user: "admin".into(),
        password: None,
        ini: pooler.0.ini_path.clone(),
        guard: None,
    }
}

fn address(n: u16) -> Address {
    Address { host: "127.0.0.1".into(), port: n }
}

/// A connection of somebody else, on which everything is said by hand.
struct Orphan(BufStream<UnixStream>);

impl Orphan {
    async fn say(&mut self, scene: &Scene, verb: Verb, knows: Option<&Reply>) -> Reply {
        let until_ms = knows.map(|reply| reply.now_ms + 60_000);
        let request = Request { pooler: scene.console.clone(), verb, until_ms, epoch: knows.map(|reply| reply.epoch) };
        protocol::write(&mut self.0, &request).await.unwrap();
        protocol::read(&mut self.0).await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decision_that_arrives_after_a_later_turn_is_not_followed() {
    let Some(bin) = poolers().into_iter().next() else { return };
    let scene = Scene::start(bin, "gdl").await;
    let there = scene.turn("7f3a switchover-1", &scene.old, &scene.new).await;
    let mut orphan = Orphan(BufStream::new(UnixStream::connect(Beside::socket(&scene.dir)).await.unwrap()));
    scene.hold(&there, AMPLE).await;
    let known = orphan.say(&scene, Verb::Status, None).await;
    // the same decision on another connection, and everything that follows, while the first one is under way
    scene.ask(Verb::Decide { turn: there.clone() }).await.unwrap();
    scene.ask(Verb::Resume { turn: there.id.clone(), entries: there.entries() }).await.unwrap();
    assert!(scene.entry().await.leads_to(&scene.new));
    let back = scene.turn("7f3a switchover-2", &scene.new, &scene.old).await;
    scene.lead(&back).await;
    assert!(scene.entry().await.leads_to(&scene.old));

    let late = orphan.say(&scene, Verb::Decide { turn: there.clone() }, Some(&known)).await;
    assert!(matches!(&late.answer, Answer::Refused(error) if error.message.contains("was overtaken")), "{late:?}");
    assert!(scene.entry().await.leads_to(&scene.old), "clients would meet the fence");
    // whoever gathers poolers later knows how things stand, and is heard
    scene.ask(Verb::Decide { turn: there }).await.unwrap();
    assert!(scene.entry().await.leads_to(&scene.new));
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decision_on_a_part_of_what_is_held_leaves_nobody_waiting() {
    let Some(bin) = poolers().into_iter().next() else { return };
    let two = |spec: &mut PoolerSpec| spec.databases.push(("reads".into(), "127.0.0.1".into(), 1, "shop".into()));
    let scene = Scene::between(address(1), address(2), bin, "gpt", two).await;
    let Answer::Entries(entries) = scene.ask(Verb::Entries).await.unwrap() else { panic!("no entries") };
    let (old, new) = (scene.old.clone(), scene.new.clone());
    let all = Turn { id: "7f3a switchover-1".into(), moves: vec![Move { entries: entries.clone(), old, new }] };
    scene.hold(&all, BRIEF).await;
    // whoever gathers poolers knows of some of them alone
    let mut some = all.clone();
    some.moves[0].entries.truncate(1);
    scene.ask(Verb::Decide { turn: some.clone() }).await.unwrap();
    scene.ask(Verb::Resume { turn: some.id.clone(), entries: some.entries() }).await.unwrap();
    until("its guard to end the rest", async || scene.status().await.held.is_none().then_some(())).await;
    let Answer::Entries(now) = scene.ask(Verb::Entries).await.unwrap() else { panic!("no entries") };
    assert_eq!(now.len(), 2);
    assert!(now.iter().all(|entry| !entry.paused && entry.leads_to(&scene.new)), "{now:?}");
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_pooler_that_cannot_be_led_are_let_go_and_it_is_led_as_soon_as_it_can_be() {
    let mut answered = Vec::new();
    for (n, bin) in poolers().into_iter().enumerate() {
        let scene = Scene::start(bin, &format!("grl{n}")).await;
        let turn = scene.turn("7f3a switchover-1", &scene.old, &scene.new).await;
        scene.hold(&turn, BRIEF).await;
        assert!(scene.entry().await.paused);
        scene.spoil(true);
        let deciding = tokio::spawn({
            let (client, turn) = (scene.client.clone(), turn.clone());
            async move { client.ask(Verb::Decide { turn }, Duration::from_secs(10)).await }
        });
        // somebody new is answered meanwhile
        let mut orphan = Orphan(BufStream::new(UnixStream::connect(Beside::socket(&scene.dir)).await.unwrap()));
        let status = async || match orphan.say(&scene, Verb::Status, None).await.answer {
            Answer::Status(status) => status.decided.then_some(()),
            other => panic!("{other:?}"),
        };
        until("the decision to be noted", status).await;
        answered.push(!deciding.is_finished());
        deciding.await.unwrap().unwrap_err();
        until("clients to be let go", async || (!scene.entry().await.paused).then_some(())).await;
        assert!(scene.entry().await.leads_to(&scene.old), "where they are refused");

        scene.spoil(false);
        until("its guard to forget the turn", async || scene.status().await.held.is_none().then_some(())).await;
        let entry = scene.entry().await;
        assert!(entry.leads_to(&scene.new) && !entry.paused, "{entry:?}");
        scene.end();
    }
    // 1.26 says at once that it cannot read the file; the others say nothing, and are looked at until the lease is over
    assert!(answered.len() < 2 || answered.contains(&true), "whoever asks waits for a rewrite");
}

/// Returns how `path` is called from the directory that this process works in, which the poolers that it starts inherit.
fn from_here(path: &Path) -> String {
    let depth = std::env::current_dir().unwrap().components().count() - 1;
    "../".repeat(depth) + path.strip_prefix("/").unwrap().to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_led_in_the_files_that_hold_them_as_pgbouncer_reads_those() {
    for (n, bin) in poolers().into_iter().enumerate() {
        let scene = Scene::start(bin, &format!("gin{n}")).await;
        let (account, main) = (Account::for_servers(None).unwrap(), scene.pooler.0.ini_path.clone());
        let (conf, kept) = (scene.dir.join("p/conf.d"), scene.dir.join("kept"));
        account.create_dir(&conf, 0o755).unwrap();
        account.create_dir(&kept, 0o755).unwrap();
        // one that is included from an included file, by a path relative to where PgBouncer runs, through a link
        let one = format!(
            "; of team one\none = host=127.0.0.1 port=1   dbname=x\n\n%include {}\n",
            from_here(&conf.join("two.ini"))
        );
        let two = "two = host=127.0.0.1 port=1\n# counts, as it comes last\nshop=host=127.0.0.1 port=1 dbname=later\n";
        // a second heading of `[pgbouncer]` would put every setting back to its default
        let more = "[databases]\nelse = host=127.0.0.1 port=3\n";
        account.write_file(conf.join("one.ini"), &one, 0o640).unwrap();
        account.write_file(kept.join("two.ini"), two, 0o644).unwrap();
        account.write_file(conf.join("more.ini"), more, 0o644).unwrap();
        std::os::unix::fs::symlink(kept.join("two.ini"), conf.join("two.ini")).unwrap();
        let text = std::fs::read_to_string(&main).unwrap();
        // the first of two, which does not count, leads elsewhere and stays
        let text = text.replace("port=1 dbname=shop", "port=9 dbname=shop");
        let (entries, rest) = text.split_once("\n[pgbouncer]").unwrap();
        let included = format!("{entries}%include {}\n", conf.join("one.ini").display());
        let text = format!("{included}[pgbouncer]{rest}\n%include {}\n", conf.join("more.ini").display());
        std::fs::write(&main, &text).unwrap();
        scene.link();
        scene.ask(Verb::Reload).await.unwrap();
        let entries = async || match scene.ask(Verb::Entries).await.unwrap() {
            Answer::Entries(entries) => entries,
            other => panic!("{other:?}"),
        };
        let leading = async |to: &Address| {
            let mut all = entries().await;
            all.retain(|entry| entry.leads_to(to));
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all
        };
        let old = leading(&scene.old).await;
        assert_eq!(old.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["one", "shop", "two"]);
        assert_eq!(old[1].database, "later", "the last of two counts");

        let files = [&main, &conf.join("one.ini"), &kept.join("two.ini"), &conf.join("more.ini")];
        let read = || files.map(|path| std::fs::read_to_string(path).unwrap());
        let before = read();
        let step = Move { entries: old.clone(), old: scene.old.clone(), new: scene.new.clone() };
        scene.ask(Verb::Rehearse { moves: vec![step.clone()] }).await.unwrap();
        assert_eq!(read(), before, "a rehearsal changes nothing");
        let there = Turn { id: "7f3a switchover-1".into(), moves: vec![step] };
        scene.lead(&there).await;
        assert_eq!(leading(&scene.new).await.len(), 3);
        let expected = before.clone().map(|text| text.replace("port=1", "port=2"));
        assert_eq!(read(), expected.clone(), "comments, order and spacing are kept");
        assert!(conf.join("two.ini").is_symlink() && main.is_symlink());
        let mode = std::os::unix::fs::PermissionsExt::mode(&conf.join("one.ini").metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o640);
        // it would be read so by a pooler that is started again, too
        scene.pooler.0.restart().await.unwrap();
        assert_eq!(leading(&scene.new).await.len(), 3);

        let step = Move { entries: leading(&scene.new).await, old: scene.new.clone(), new: scene.old.clone() };
        let back = Turn { id: "7f3a switchover-2".into(), moves: vec![step.clone()] };
        scene.lead(&back).await;
        assert_eq!(read(), before);

        // what no file holds cannot be led, and a file that cannot be found is told
        std::fs::write(conf.join("one.ini"), one.replace("one =", "another =")).unwrap();
        let refused = scene.ask(Verb::Rehearse { moves: vec![step.clone()] }).await.unwrap_err();
        assert!(refused.message.starts_with("entries [\"one\"] of PgBouncer"), "{refused:?}");
        std::fs::remove_file(conf.join("two.ini")).unwrap();
        let refused = scene.ask(Verb::Rehearse { moves: vec![step] }).await.unwrap_err();
        assert!(refused.message.contains("two.ini`"), "{refused:?}");
        scene.end();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn included_file_of_a_pooler_that_died_in_the_pause_is_led_by_its_guard_and_by_the_next_one() {
    let Some(bin) = poolers().into_iter().next() else { return };
    let scene = Scene::start(bin, "gid").await;
    let (account, main) = (Account::for_servers(None).unwrap(), scene.pooler.0.ini_path.clone());
    // by a path relative to where PgBouncer runs
    let included = scene.dir.join("p/entries.ini");
    let (entries, rest) = std::fs::read_to_string(&main)
        .map(|text| text.split_once("\n[pgbouncer]").map(|(entries, rest)| (entries.to_owned(), rest.to_owned())))
        .unwrap()
        .unwrap();
    account.write_file(&included, &entries, 0o644).unwrap();
    std::fs::write(&main, format!("%include {}\n[pgbouncer]{rest}", from_here(&included))).unwrap();
    scene.ask(Verb::Reload).await.unwrap();
    let turn = scene.turn("7f3a switchover-1", &scene.old, &scene.new).await;
    scene.ask(Verb::Rehearse { moves: turn.moves.clone() }).await.unwrap();
    scene.hold(&turn, AMPLE).await;
    scene.pooler.0.kill9().await.unwrap();

    // what a guard that is started again finds
    let next = scene.dir.join("next");
    std::fs::create_dir(&next).unwrap();
    for file in std::fs::read_dir(&scene.dir).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "json") {
            std::fs::copy(&file, next.join(file.file_name().unwrap())).unwrap();
        }
    }
    let ward = Ward::PgBouncer(described(&scene.pooler), Some(Secret::new("secret")));
    let beside = Arc::new(Beside::new(Launch::Task, next, vec![ward]));
    let next = GuardClient::new("it".into(), scene.console.clone(), Place::Beside(beside));
    let led = entries.replace("port=1", "port=2");
    assert_ne!(led, entries);
    for guard in [&scene.client, &next] {
        // whatever comes of it: no console answers
        drop(guard.ask(Verb::Decide { turn: turn.clone() }, SOON).await);
        assert_eq!(std::fs::read_to_string(&included).unwrap(), led);
        std::fs::write(&included, &entries).unwrap();
    }
    scene.end();
}

/// A server that pools lead to, or will.
struct Behind {
    server: StopOnDrop,
    port: u16,
}

const APP: &str = "app-secret";

impl Behind {
    /// Starts one with a role and a database for the application.
    async fn start(dir: &Path, name: &str, tls: bool) -> Self {
        let account = Account::for_servers(None).unwrap();
        account.create_dir(dir, 0o755).unwrap();
        let (data_dir, log) = (dir.join(name), dir.join(format!("{name}.log")));
        let server = Server { installation: find(15, &[]).unwrap(), account: account.clone(), data_dir, log };
        server.init(&InitOptions::default()).await.unwrap();
        let port = free_port().unwrap();
        let mut conf =
            format!("port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n");
        if tls {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            let files = [("server.crt", params.self_signed(&key).unwrap().pem()), ("server.key", key.serialize_pem())];
            for (name, text) in files {
                account.write_file(server.data_dir.join(name), text, 0o600).unwrap();
            }
            conf.push_str("ssl = on\n");
        }
        server.append_conf(&conf).unwrap();
        server.write_hba(HBA).unwrap();
        server.start(&[], LONG).await.unwrap();
        let behind = Self { server: StopOnDrop(server), port };
        behind.run(&format!("CREATE ROLE app LOGIN PASSWORD '{APP}'")).await;
        behind.run("CREATE DATABASE shop").await;
        behind
    }

    fn address(&self) -> Address {
        address(self.port)
    }

    async fn run(&self, sql: &str) -> Vec<String> {
        ask(&login(self.port, "postgres", "", "postgres"), sql).await
    }

    /// Takes the right to connect away, as from the side that follows.
    async fn close(&self) {
        self.run("REVOKE CONNECT ON DATABASE shop FROM PUBLIC").await;
    }

    async fn rules(&self, rules: &str) {
        self.server.0.write_hba(rules).unwrap();
        self.run("SELECT pg_reload_conf()").await;
    }
}

const HBA: &str = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";

fn login(port: u16, user: &str, password: &str, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user(user).password(password).dbname(database);
    config
}

impl Scene {
    /// Asks the guard to let the pooler log in at the new address.
    async fn try_logins(&self) -> Result<Vec<String>, StepError> {
        let turn = self.turn("", &self.old, &self.new).await;
        match self.client.ask(Verb::TryLogins { moves: turn.moves }, LONG).await? {
            Answer::Tried(unknown) => Ok(unknown),
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&self, what: &str, words: &str) {
        let refused = self.try_logins().await.unwrap_err();
        assert!(refused.message.contains("cannot log in where its clients are to be led"), "{what}: {refused:?}");
        let cause = refused.cause.unwrap();
        let place = format!("`app` by `shop` at {}: ", self.new);
        assert!(cause.starts_with(&place) && cause.contains(words), "{what}: {cause}");
    }

    /// Returns the names of all entries, as the console shows them.
    async fn shown(&self) -> Vec<String> {
        let admin = Admin::enter(&described(&self.pooler), Some(&Secret::new("secret"))).await.unwrap();
        let mut names: Vec<_> =
            admin.show("DATABASES").await.unwrap().into_iter().map(|mut row| row.remove("name").unwrap()).collect();
        names.sort();
        names
    }

    fn file(&self) -> String {
        std::fs::read_to_string(&self.pooler.0.ini_path).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooler_proves_before_anybody_waits_that_it_can_log_in_at_the_new_address() {
    for (n, bin) in poolers().into_iter().enumerate() {
        let dir = directory(&format!("gtl{n}"));
        let (old, new) = (Behind::start(&dir, "old", false).await, Behind::start(&dir, "new", false).await);
        new.close().await;
        let name = format!("gtl{n}");
        let scene = Scene::between(old.address(), new.address(), bin, &name, |spec| {
            spec.users.push(("app".into(), APP.into()));
            spec.users.push(("ghost".into(), "whoever".into()));
            spec.extra.push(("server_login_retry".into(), "1".into()));
        })
        .await;
        let pooler = scene.pooler.0.spec.port;
        // such an entry leads to the database of its name
        std::fs::write(&scene.pooler.0.ini_path, scene.file().replace(" dbname=shop", "")).unwrap();
        scene.link();
        scene.ask(Verb::Reload).await.unwrap();
        scene.try_logins().await.expect("nobody has come by it yet");
        let at_work = client(&login(pooler, "app", APP, "shop")).await;
        at_work.batch_execute("BEGIN").await.unwrap();
        // it is known to no server: that it does not get in says nothing of the new one
        connect(&login(pooler, "ghost", "whoever", "shop")).await.err().unwrap();
        let text = scene.file();

        let unknown = scene.try_logins().await.expect("the new side is closed, and lets nobody in who has logged in");
        let ghost = format!("`ghost` by `shop` does not get in at {} either: ", scene.old);
        assert!(unknown.len() == 1 && unknown[0].starts_with(&ghost), "{unknown:?}");
        new.run("ALTER ROLE app PASSWORD 'changed'").await;
        scene.refused("the password is another one", "password authentication failed for user \"app\"").await;
        new.run("DROP ROLE app").await;
        scene.refused("there is no such role", "password authentication failed for user \"app\"").await;
        new.run(&format!("CREATE ROLE app LOGIN PASSWORD '{APP}'")).await;
        new.rules(&format!("host shop app 127.0.0.1/32 reject\n{HBA}")).await;
        scene.refused("a rule rejects it", "pg_hba.conf rejects connection").await;
        new.rules(&HBA.replace("host all all", "host all others")).await;
        scene.refused("no rule lets it in", "no pg_hba.conf entry").await;
        new.rules(HBA).await;
        new.run("ALTER ROLE app NOLOGIN").await;
        scene.refused("it may not log in", "not permitted to log in").await;
        new.run("ALTER ROLE app LOGIN; ALTER DATABASE shop RENAME TO shed").await;
        scene.refused("there is no such database", "\"shop\" does not exist").await;
        new.run("ALTER DATABASE shed RENAME TO shop").await;
        scene.try_logins().await.unwrap();
        new.server.0.stop(StopMode::Fast, LONG).await.unwrap();
        scene.refused("it does not run", "").await;
        scene.spoil(true);
        let refused = scene.try_logins().await.unwrap_err();
        let told =
            refused.message.contains("does not read its configuration anew") || refused.message.contains("RELOAD");
        assert!(told, "what RELOAD would not take in the pause: {refused:?}");
        scene.spoil(false);

        assert_eq!(scene.file(), text, "the file is as it was");
        assert!(scene.pooler.0.ini_path.is_symlink());
        at_work.batch_execute("SELECT 1; COMMIT").await.expect("no client is touched");
        assert_eq!(scene.shown().await, ["pgbouncer", "shop"]);

        let turn = scene.turn("7f3a switchover-1", &scene.old, &scene.new).await;
        scene.hold(&turn, AMPLE).await;
        let refused = scene.try_logins().await.unwrap_err();
        assert!(refused.message.contains("holds the pause `7f3a switchover-1`"), "{refused:?}");
        scene.ask(Verb::Resume { turn: turn.id.clone(), entries: turn.entries() }).await.unwrap();
        drop((old, new));
        scene.end();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooler_proves_its_logins_by_keys_that_only_it_has_by_entries_of_one_role_and_by_tls() {
    for (n, bin) in poolers().into_iter().enumerate() {
        let name = format!("gtk{n}");
        let dir = directory(&name);
        let (old, new) = (Behind::start(&dir, "old", true).await, Behind::start(&dir, "new", true).await);
        new.close().await;
        // the same secret on both sides, as a copy has it, and in the pooler's file: no password anywhere
        let secret = old.run("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").await.remove(0);
        new.run(&format!("ALTER ROLE app PASSWORD '{secret}'")).await;
        let scene = Scene::between(old.address(), new.address(), bin, &name, |spec| {
            spec.users.push(("app".into(), secret));
            spec.extra.push(("server_tls_sslmode".into(), "require".into()));
            spec.extra.push(("server_login_retry".into(), "1".into()));
        })
        .await;
        let pooler = scene.pooler.0.spec.port;
        client(&login(pooler, "app", APP, "shop")).await;
        scene.try_logins().await.expect("by the keys that a client brought");
        new.run("ALTER ROLE app PASSWORD 'app-secret'").await;
        scene.refused("the same password, and another secret", "").await;

        // an entry of one role, with its password
        let text = scene.file();
        let line = format!("shop = host=127.0.0.1 port={} dbname=shop", old.port);
        std::fs::write(&scene.pooler.0.ini_path, text.replace(&line, &format!("{line} user=app password={APP}")))
            .unwrap();
        scene.ask(Verb::Reload).await.unwrap();
        scene.try_logins().await.expect("nobody has come by it yet, and its role is known");
        new.run("ALTER ROLE app PASSWORD 'changed'").await;
        scene.refused("the entry's password is another one", "password authentication failed").await;
        new.run(&format!("ALTER ROLE app PASSWORD '{APP}'")).await;
        scene.try_logins().await.unwrap();

        new.run("ALTER SYSTEM SET ssl = off").await;
        new.run("SELECT pg_reload_conf()").await;
        scene.refused("the new side has no TLS", "").await;
        drop((old, new));
        scene.end();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_guard_left_of_a_trial_is_gone_when_the_next_one_begins() {
    let Some(bin) = poolers().into_iter().next() else { return };
    let scene = Scene::start(bin, "gtf").await;
    let text = scene.file();
    let left =
        "\n; pgleap tries logins: what follows goes in a moment\n[databases]\npgleap_trial_0_new = host=h port=1\n";
    std::fs::write(&scene.pooler.0.ini_path, text.clone() + left).unwrap();
    scene.ask(Verb::Status).await.unwrap();
    until("the lines to go", async || (scene.file() == text).then_some(())).await;
    scene.end();
}

#[cfg(feature = "faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trial_that_ends_anywhere_leaves_no_entry_once_it_is_rehearsed_again_and_nobody_waits_for_its_logins() {
    use pgleap_saga::fault::Script;
    use pgleap_upgrade::pgbouncer::PgBouncer;
    use tokio::{sync::Mutex, time::Instant};

    for (n, bin) in poolers().into_iter().enumerate() {
        let scene = Scene::between(address(1), address(2), bin, &format!("gte{n}"), |spec| {
            spec.extra.push(("server_login_retry".into(), "1".into()));
        })
        .await;
        // whose entry it is, is known without anybody
        let text = scene.file().replace(" dbname=shop", " dbname=shop user=app");
        std::fs::write(&scene.pooler.0.ini_path, &text).unwrap();
        scene.ask(Verb::Reload).await.unwrap();
        let moves = scene.turn("", &scene.old, &scene.new).await.moves;
        let pgbouncer = PgBouncer::new(described(&scene.pooler), Some(Secret::new("secret")));
        let command = Mutex::new(());
        let begin = async || Ok::<_, StepError>(command.lock().await);
        // nobody gets in, and nobody waits to be told so
        let soon = || Instant::now() + Duration::from_secs(1);
        for (arrival, lives) in [false, true, true].into_iter().enumerate() {
            let script = Script::kill_at(arrival);
            let tried = script.run(pgbouncer.try_logins(&moves, soon(), begin())).await;
            assert!(tried.is_none(), "{:?} {tried:?}", script.arrivals());
            let left = scene.shown().await;
            assert_eq!(left.iter().any(|name| name.starts_with("pgleap_trial_")), lives, "{left:?}");
            let Answer::Entries(entries) = scene.ask(Verb::Entries).await.unwrap() else { panic!("no entries") };
            assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["shop"]);
            scene.ask(Verb::Rehearse { moves: moves.clone() }).await.unwrap();
            assert_eq!((scene.shown().await, scene.file()), (vec!["pgbouncer".into(), "shop".into()], text.clone()));
        }
        let script = Script::hold_at("trial.before_clear");
        let tried = async {
            let unknown = script.run(pgbouncer.try_logins(&moves, soon(), begin())).await.unwrap().unwrap();
            assert_eq!(unknown.len(), 1, "it gets in nowhere");
        };
        let meddle = async {
            script.held().await;
            assert!(command.try_lock().is_ok());
            script.release();
        };
        tokio::join!(tried, meddle);
        assert_eq!(scene.shown().await, ["pgbouncer", "shop"]);
        scene.end();
    }
}

/// Comes, asks, and goes; an error is what it was refused with.
async fn come(port: u16, entry: &'static str) -> Result<(), String> {
    let once = async {
        let (client, connection) = login(port, "app", APP, entry).connect(NoTls).await?;
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.map(drop)
    };
    let came = timeout(LONG, once).await.map_err(|_| "waits for ever".to_owned())?;
    came.map_err(|error: tokio_postgres::Error| {
        error.as_db_error().map_or(error.to_string(), |said| said.message().into())
    })
}

/// Does so again and again, until told to end; returns how often, and what it was refused with.
async fn come_and_go(port: u16, entry: &'static str, end: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut times, mut refused) = (0, Vec::new());
    while !end.load(Ordering::Relaxed) {
        match come(port, entry).await {
            Ok(()) => times += 1,
            Err(error) => refused.push(error),
        }
    }
    (times, refused)
}

/// Returns what a PgBouncer was told, by its log, between a RELOAD in a pause and RESUME.
fn between_reload_and_resume(log: &str) -> Vec<&str> {
    let told: Vec<_> = log.lines().filter(|line| line.contains(" command issued")).collect();
    let (mut paused, mut between) = (BTreeSet::new(), Vec::new());
    for pair in told.windows(2) {
        let entry = pair[0].split('\'').nth(1);
        if pair[0].contains(" PAUSE ") {
            paused.insert(entry);
        } else if pair[0].contains(" RESUME ") {
            paused.remove(&entry);
        } else if !paused.is_empty() && !pair[1].contains(" RESUME ") {
            between.push(pair[1]);
        }
    }
    between
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_log_in_while_they_are_led_wait_and_are_not_refused() {
    const TURNS: usize = 6;
    for (n, bin) in poolers().into_iter().enumerate() {
        let dir = directory(&format!("gcg{n}"));
        let (old, new) = tokio::join!(Behind::start(&dir, "old", false), Behind::start(&dir, "new", false));
        let scene = Scene::between(old.address(), new.address(), bin, &format!("gcgp{n}"), |spec| {
            spec.users.push(("app".into(), APP.into()));
            spec.databases.push(("reads".into(), old.address().host, old.port, "shop".into()));
            // one login that fails is never forgotten
            spec.extra.push(("server_login_retry".into(), "600".into()));
        })
        .await;
        let end = Arc::new(AtomicBool::new(false));
        let port = scene.pooler.0.spec.port;
        let often = |n: usize| tokio::spawn(come_and_go(port, ["shop", "reads"][n % 2], end.clone()));
        let clients: Vec<_> = (0..6).map(often).collect();
        let admin = Admin::enter(&described(&scene.pooler), Some(&Secret::new("secret"))).await.unwrap();
        let mut ways = [&scene.old, &scene.new];
        for turn in 0..TURNS {
            let both = admin.entries().await.unwrap();
            let step =
                |entry: &Entry| Move { entries: vec![entry.clone()], old: ways[0].clone(), new: ways[1].clone() };
            let moves: Vec<_> =
                ["shop", "reads"].map(|name| step(both.iter().find(|e| e.name == name).unwrap())).into();
            scene.ask(Verb::TryLogins { moves: moves.clone() }).await.unwrap();
            // in turns of their own, those who only read first: there is no trial between
            if turn % 2 == 1 {
                for step in moves.into_iter().rev() {
                    scene.ask(Verb::WarmUp { entries: 1 }).await.unwrap();
                    let id = format!("7f3a switchover-{turn} {}", step.entries[0].name);
                    scene.lead(&Turn { id, moves: vec![step] }).await;
                }
                ways.reverse();
                continue;
            }
            let turn = Turn { id: format!("7f3a switchover-{turn}"), moves };
            scene.ask(Verb::WarmUp { entries: 2 }).await.unwrap();
            scene.hold(&turn, AMPLE).await;
            scene.ask(Verb::Decide { turn: turn.clone() }).await.unwrap();
            let resume = |entries| Verb::Resume { turn: turn.id.clone(), entries };
            scene.ask(resume(turn.moves[0].entries.clone())).await.unwrap();
            // those who go on later have all that time to log in
            let logged_in = async || {
                let pools = admin.show("POOLS").await.unwrap();
                pools.iter().any(|pool| pool["database"] == "reads" && pool["cl_waiting"] == "3").then_some(())
            };
            until("clients to wait for the second entry", logged_in).await;
            let newcomers: Vec<_> = (0..10).map(|_| tokio::spawn(come(port, "reads"))).collect();
            scene.ask(resume(turn.entries())).await.unwrap();
            for newcomer in newcomers {
                newcomer.await.unwrap().unwrap();
            }
            assert!(admin.entries().await.unwrap().iter().all(|entry| entry.leads_to(ways[1]) && !entry.paused));
            ways.reverse();
        }
        end.store(true, Ordering::Relaxed);
        for client in clients {
            let (times, refused) = client.await.unwrap();
            assert!(refused.is_empty() && times > TURNS, "{times} {refused:?}");
        }
        let log = std::fs::read_to_string(scene.dir.join("p/pgbouncer.log")).unwrap();
        assert_eq!(between_reload_and_resume(&log), Vec::<&str>::new());
        scene.end();
        drop((old, new));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
