//! A guard on another host: reached over the network by certificates, cut off from pgleap, killed and started again.

use std::{
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pgleap_local::free_port;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::scene::{Clients, DATABASE, Scene};

const CLIENTS: Clients = Clients { count: 4, rate: 80.0, bear: Duration::from_secs(30) };

/// Signs certificates into a directory, each for a name and where that is: `NAME.pem`, `NAME.key`, and its own `AUTHORITY.pem`.
pub fn authority(directory: &Path, name: &str, subjects: &[(&str, &str)]) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(directory.join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (subject, address) in subjects {
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec![(*address).to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{subject}.pem")), signed.pem()).unwrap();
        std::fs::write(directory.join(format!("{subject}.key")), key.serialize_pem()).unwrap();
    }
}

/// Returns a configuration with these poolers in place of its own, behind guards that are called with the certificate `pgleap`.
pub fn behind_guards(text: &str, poolers: &str) -> String {
    let (before, after) = (text.split_once("[[route.pgbouncer]]").unwrap().0, text.split_once("[budgets]").unwrap().1);
    format!(
        "{before}{poolers}[route.tls]\ncertificate = \"tls/pgleap.pem\"\nkey = \"tls/pgleap.key\"\n\
         authority = \"tls/authority.pem\"\n\n[budgets]{after}"
    )
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

/// A scene whose pooler is behind a guard at the other end of a link.
struct Remote {
    scene: Scene,
    link: Link,
    guard: Child,
    guard_port: u16,
}

impl Remote {
    async fn start(name: &str) -> Self {
        // a login that was refused is soon tried again
        let quickly = ("server_login_retry".to_owned(), "1".to_owned());
        let scene = Scene::set(name, |spec| spec.pooler_settings = vec![quickly]).await.with_clients(CLIENTS).await;
        let tls = scene.dir().join("tls");
        std::fs::create_dir(&tls).unwrap();
        authority(&tls, "authority", &[("guard", "127.0.0.1"), ("pgleap", "127.0.0.1")]);
        authority(&tls, "elsewhere", &[("stranger", "127.0.0.1")]);

        let guard_port = free_port().unwrap();
        let pooler = scene.lab.pooler();
        let (port, ini) = (pooler.spec.port, pooler.ini_path.display());
        let text = format!(
            "listen = \"127.0.0.1:{guard_port}\"\nnotes = \"notes\"\n\
             [tls]\ncertificate = \"tls/guard.pem\"\nkey = \"tls/guard.key\"\nauthority = \"tls/authority.pem\"\n\
             [[pgbouncer]]\nadmin = \"host=127.0.0.1 port={port} user=pooladmin\"\n\
             password = {{ passfile = \"passfile\" }}\nini = \"{ini}\"\n"
        );
        std::fs::write(scene.dir().join("guard.toml"), text).unwrap();
        let link = Link::to(guard_port).await;
        let entry = format!(
            "[[route.pgbouncer]]\nguard = \"127.0.0.1:{}\"\nadmin = \"host=127.0.0.1 port={port} user=pooladmin\"\n\n",
            link.port
        );
        scene.configure(&behind_guards(&scene.lab.config_text(), &entry));
        let guard = start_guard(scene.dir());
        let remote = Self { scene, link, guard, guard_port };
        remote.guard_listens().await;
        remote
    }

    async fn guard_listens(&self) {
        let listens = || std::net::TcpStream::connect(("127.0.0.1", self.guard_port)).is_ok();
        self.scene.until("the guard to listen", listens).await;
    }

    fn guard_said(&self) -> String {
        std::fs::read_to_string(self.scene.dir().join("guard-service.log")).unwrap()
    }

    /// Calls the guard as somebody with this certificate, through pgleap itself: `check` asks the guard what it sees.
    async fn called_by(&self, who: &str) -> String {
        let text = std::fs::read_to_string(self.scene.lab.config_path()).unwrap();
        let path = self.scene.dir().join(format!("{who}.toml"));
        std::fs::write(&path, text.replace("tls/pgleap.", &format!("tls/{who}."))).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_pgleap")).arg("--config").arg(&path).arg("check").output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    async fn verdict(mut self) {
        self.scene.verdict().await;
        self.guard.kill().await.unwrap();
    }
}

fn start_guard(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgleap"));
    command.arg("--config").arg(directory.join("guard.toml")).arg("guard");
    let log = std::fs::File::options().create(true).append(true).open(directory.join("guard-service.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
    command.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guard_on_another_host_holds_pauses_for_whoever_has_a_certificate_and_for_nobody_else() {
    let mut remote = Remote::start("remote").await;
    let said = remote.called_by("stranger").await;
    assert!(said.contains("the guard of PgBouncer") && said.contains("fatal alert"), "{said}");
    let mut plain = TcpStream::connect(("127.0.0.1", remote.guard_port)).await.unwrap();
    plain.write_all(b"{\"pooler\":\"x\",\"verb\":\"status\"}\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("refused"), "it spoke to somebody without TLS");
    let log = remote.guard_said();
    assert!(log.matches("was turned away").count() >= 2, "{log}");

    assert_eq!(remote.scene.run(&["run"]).await.code(), Some(0));
    assert_eq!(remote.scene.run(&["switchover"]).await.code(), Some(0));
    remote.scene.all_go_on_well("a switchover").await;

    // it dies in the pause, and its service manager starts it again
    let (child, here) = remote.scene.held_at("rollback", "switchover.fence.after_block").await;
    remote.guard.kill().await.unwrap();
    remote.guard = start_guard(remote.scene.dir());
    remote.guard_listens().await;
    std::fs::remove_file(&here).unwrap();
    let code = remote.scene.end(child).await.code();
    assert!(matches!(code, Some(0 | 4)), "{code:?}");
    remote.scene.all_go_on_well("the guard was killed in the pause").await;
    remote.verdict().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_to_a_guard_may_be_cut_in_every_phase_of_the_pause() {
    let remote = Remote::start("cut").await;
    let scene = &remote.scene;
    assert_eq!(scene.run(&["run"]).await.code(), Some(0));
    // before the decision: the lease ends, and everybody goes on where they were
    for point in [
        "switchover.warm_up.after_succeeded",
        "switchover.pause_pools.after_pause",
        "switchover.carry_over.after_arrival",
    ] {
        let (child, here) = scene.held_at("switchover", point).await;
        remote.link.cut(true);
        std::fs::remove_file(&here).unwrap();
        scene.all_go_on_well(point).await;
        assert_eq!(scene.end(child).await.code(), Some(5), "{point}: it is taken back, with the link still cut");
        remote.link.cut(false);
        scene.all_go_on_well("the link is back").await;
    }
    // after it: clients meet the fence until the link is back, and never a writable old side
    let (child, here) = scene.held_at("switchover", "switchover.move_clients.after_point_of_no_return").await;
    remote.link.cut(true);
    std::fs::remove_file(&here).unwrap();
    let leases = || remote.guard_said().matches("clients go on at the old address").count();
    // the first PAUSE was not sent before the link was cut: delivered when nobody waited for it any more, it was not done
    scene.until("the lease to end", || leases() == 3).await;
    let said = remote.guard_said();
    assert!(said.contains("a request that nobody waits for any more was not done"), "{said}");
    if let Ok((client, connection)) = scene.lab.through_pooler(DATABASE).connect(tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        client.batch_execute("SELECT 1").await.expect_err("the fence refuses whoever goes on at the old side");
    }
    remote.link.cut(false);
    assert_eq!(scene.end(child).await.code(), Some(0), "it is finished");
    scene.all_go_on("the switchover was finished").await;
    remote.verdict().await;
}
