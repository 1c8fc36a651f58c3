//! A guard on another host: reached over the network by certificates, cut off from pgleap, killed and started again.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use pgleap_canary::{Canary, CanaryConfig, audit, prepare};
use pgleap_lab::{Lab, LabSpec};
use pgleap_local::free_port;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

const CLIENTS_BEAR: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(90);

/// Signs certificates into a directory: `NAME.pem`, `NAME.key`, and its own `AUTHORITY.pem`.
fn authority(directory: &Path, name: &str, subjects: &[&str]) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(directory.join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for subject in subjects {
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{subject}.pem")), signed.pem()).unwrap();
        std::fs::write(directory.join(format!("{subject}.key")), key.serialize_pem()).unwrap();
    }
}

/// A network between pgleap and the guard that can be cut: nothing passes, and nobody is told.
struct Link {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Link {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Self { port: listener.local_addr().unwrap().port(), cut: Arc::default() };
        let cut = link.cut.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(relay(near_in, far_out, cut.clone()));
                tokio::spawn(relay(far_in, near_out, cut.clone()));
            }
        });
        link
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

async fn relay(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, cut: Arc<AtomicBool>) {
    let mut bytes = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        while cut.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

struct Scene {
    lab: Lab,
    canary: Canary,
    link: Link,
    guard: Child,
    guard_port: u16,
}

impl Scene {
    async fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("pgl-{}-{name}", std::process::id()));
        let mut spec = LabSpec::new(15, 18, &directory);
        spec.databases = vec!["shop".into()];
        // a login that was refused is soon tried again
        spec.pooler_settings = vec![("server_login_retry".into(), "1".into())];
        let lab = Lab::start(spec).await.unwrap();
        let tls = directory.join("tls");
        std::fs::create_dir(&tls).unwrap();
        authority(&tls, "authority", &["guard", "pgleap"]);
        authority(&tls, "elsewhere", &["stranger"]);

        let guard_port = free_port().unwrap();
        let (pooler, ini) = (lab.pooler.spec.port, lab.pooler.ini_path.display());
        let text = format!(
            "listen = \"127.0.0.1:{guard_port}\"\nnotes = \"notes\"\n\
             [tls]\ncertificate = \"tls/guard.pem\"\nkey = \"tls/guard.key\"\nauthority = \"tls/authority.pem\"\n\
             [[pgbouncer]]\nadmin = \"host=127.0.0.1 port={pooler} user=pooladmin\"\n\
             password = {{ passfile = \"passfile\" }}\nini = \"{ini}\"\n"
        );
        std::fs::write(directory.join("guard.toml"), text).unwrap();
        let link = Link::to(guard_port).await;
        let remote = format!(
            "[[route.pgbouncer]]\nguard = \"127.0.0.1:{}\"\nadmin = \"host=127.0.0.1 port={pooler} user=pooladmin\"\n\n\
             [route.tls]\ncertificate = \"tls/pgleap.pem\"\nkey = \"tls/pgleap.key\"\nauthority = \"tls/authority.pem\"\n\n",
            link.port
        );
        let text = lab.config_text();
        let (before, rest) = text.split_once("[[route.pgbouncer]]").unwrap();
        let (_, after) = rest.split_once("[budgets]").unwrap();
        std::fs::write(lab.config_path(), format!("{before}{remote}[budgets]{after}")).unwrap();

        prepare(&lab.bypassing(lab.source_port, "shop")).await.unwrap();
        let config = CanaryConfig {
            connect: lab.through_pooler("shop"),
            clients: 4,
            rate: Some(80.0),
            ledger: None,
            transaction_timeout: CLIENTS_BEAR,
            label: "shop".into(),
        };
        let canary = Canary::start(config).await.unwrap();
        let guard = start_guard(&directory);
        let scene = Self { lab, canary, link, guard, guard_port };
        scene.until("the guard to listen", || std::net::TcpStream::connect(("127.0.0.1", guard_port)).is_ok()).await;
        scene
    }

    fn dir(&self) -> PathBuf {
        self.lab.spec.dir.clone()
    }

    fn begin(&self, verb: &str, fault: Option<String>) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
        command.args(["--yes", "--config"]).arg(self.lab.config_path()).arg(verb);
        command.envs(fault.map(|fault| ("PGLEAP_FAULT", fault)));
        let log = std::fs::File::options().create(true).append(true).open(self.dir().join("pgleap.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        command.spawn().unwrap()
    }

    async fn code(&self, mut child: Child) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the command does not end; see {}", self.dir().display())).unwrap().code()
    }

    async fn until(&self, what: &str, mut look: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !look() {
            assert!(Instant::now() < deadline, "waited in vain for {what}; see {}", self.dir().display());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn held_at(&self, verb: &str, point: &str) -> (Child, PathBuf) {
        let here = self.dir().join("here");
        let child = self.begin(verb, Some(format!("hold:{point}:{}", here.display())));
        self.until(&format!("`{verb}` to come to {point}"), || here.exists()).await;
        (child, here)
    }

    async fn clients_go_on(&self, after: &str) {
        let before = self.canary.snapshot().transactions;
        self.until(&format!("clients to go on: {after}"), || self.canary.snapshot().transactions > before + 40).await;
    }

    fn failed(&self) -> u64 {
        self.canary.snapshot().failed_transactions
    }

    async fn verdict(mut self, port: u16) {
        let report = self.canary.stop().await;
        let audit = audit(&self.lab.directly(port, "shop"), &report.ledger).await.unwrap();
        assert!(audit.is_clean(), "{audit}");
        self.guard.kill().await.unwrap();
        self.lab.destroy().await.unwrap();
    }
}

fn start_guard(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
    command.arg("--config").arg(directory.join("guard.toml")).arg("guard");
    let log = std::fs::File::options().create(true).append(true).open(directory.join("guard-service.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Calls the guard as somebody with this certificate, through pgleap itself: `check` asks the guard what it sees.
async fn called_by(scene: &Scene, who: &str) -> String {
    let text = std::fs::read_to_string(scene.lab.config_path()).unwrap();
    let text = text.replace("tls/pgleap.", &format!("tls/{who}."));
    let path = scene.dir().join(format!("{who}.toml"));
    std::fs::write(&path, text).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_pgleap")).arg("--config").arg(&path).arg("check").output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guard_on_another_host_holds_pauses_for_whoever_has_a_certificate_and_for_nobody_else() {
    let mut scene = Scene::start("remote").await;
    let said = called_by(&scene, "stranger").await;
    assert!(said.contains("the guard of PgBouncer") && said.contains("fatal alert"), "{said}");
    let mut plain = TcpStream::connect(("127.0.0.1", scene.guard_port)).await.unwrap();
    plain.write_all(b"{\"pooler\":\"x\",\"verb\":\"status\"}\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("refused"), "it spoke to somebody without TLS");
    let log = std::fs::read_to_string(scene.dir().join("guard-service.log")).unwrap();
    assert!(log.matches("was turned away").count() >= 2, "{log}");

    assert_eq!(scene.code(scene.begin("run", None)).await, Some(0));
    assert_eq!(scene.code(scene.begin("switchover", None)).await, Some(0));
    assert_eq!(scene.failed(), 0);

    // it dies in the pause, and its service manager starts it again
    let (child, here) = scene.held_at("rollback", "switchover.fence.after_block").await;
    scene.guard.kill().await.unwrap();
    scene.guard = start_guard(&scene.dir());
    scene.until("the guard to be back", || std::net::TcpStream::connect(("127.0.0.1", scene.guard_port)).is_ok()).await;
    std::fs::remove_file(&here).unwrap();
    let code = scene.code(child).await;
    assert!(matches!(code, Some(0 | 4)), "{code:?}");
    scene.clients_go_on("the guard was killed in the pause").await;
    assert_eq!(scene.failed(), 0, "the guard was killed in the pause");
    let port = if code == Some(0) { scene.lab.source_port } else { scene.lab.target_port };
    scene.verdict(port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_to_a_guard_may_be_cut_in_every_phase_of_the_pause() {
    let scene = Scene::start("cut").await;
    assert_eq!(scene.code(scene.begin("run", None)).await, Some(0));
    // before the decision: the lease ends, and everybody goes on where they were
    for point in [
        "switchover.warm_up.after_succeeded",
        "switchover.pause_pools.after_pause",
        "switchover.carry_over.after_arrival",
    ] {
        let (child, here) = scene.held_at("switchover", point).await;
        scene.link.cut(true);
        std::fs::remove_file(&here).unwrap();
        scene.clients_go_on(point).await;
        assert_eq!(scene.failed(), 0, "{point}");
        assert_eq!(scene.code(child).await, Some(5), "{point}: it is taken back, with the link still cut");
        scene.link.cut(false);
        scene.clients_go_on("the link is back").await;
        assert_eq!(scene.failed(), 0, "{point}");
    }
    // after it: clients meet the fence until the link is back, and never a writable old side
    let (child, here) = scene.held_at("switchover", "switchover.move_clients.after_point_of_no_return").await;
    scene.link.cut(true);
    std::fs::remove_file(&here).unwrap();
    let log = scene.dir().join("guard-service.log");
    let leases = || std::fs::read_to_string(&log).unwrap().matches("clients go on at the old address").count();
    // the first PAUSE was not sent before the link was cut: delivered when nobody waited for it any more, it was not done
    scene.until("the lease to end", || leases() == 3).await;
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("a request that nobody waits for any more was not done"), "{said}");
    if let Ok((client, connection)) = scene.lab.through_pooler("shop").connect(tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        client.batch_execute("SELECT 1").await.expect_err("the fence refuses whoever goes on at the old side");
    }
    scene.link.cut(false);
    assert_eq!(scene.code(child).await, Some(0), "it is finished");
    scene.clients_go_on("the switchover was finished").await;
    let port = scene.lab.target_port;
    scene.verdict(port).await;
}
