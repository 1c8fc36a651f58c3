//! PgBouncers that share a port (`so_reuseport`), a file of entries and a group of peers, each addressed by its own socket.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgleap_lab::{Lab, ROLES};
use pgleap_local::{free_port, run};
use pgleap_saga::{Outcome, fault::Script};

use crate::{
    bed::{LONG, ask, end, guard, small, until},
    preflight::poolers,
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 6, rate: 60.0, application: 2 };
const SIBLINGS: usize = 3;

/// The processes, each with a directory and a file of its own.
struct Siblings {
    lab: Lab,
    bin: PathBuf,
    port: u16,
}

impl Siblings {
    fn dir(&self, n: usize) -> PathBuf {
        self.lab.spec.dir.join(format!("sib{n}"))
    }

    fn entries(&self) -> PathBuf {
        self.lab.spec.dir.join("entries.ini")
    }

    async fn start(lab: Lab, bin: PathBuf, peers: bool) -> Self {
        let siblings = Self { lab, bin, port: free_port().unwrap() };
        let (lab, port) = (&siblings.lab, siblings.port);
        let entries = format!("; one file for all\n[databases]\nshop = host=127.0.0.1 port={}\n", lab.source_port);
        lab.account.write_file(siblings.entries(), entries, 0o644).unwrap();
        let userlist = lab.pooler().spec.dir.join("userlist.txt");
        let group: String =
            (0..SIBLINGS).map(|n| format!("{} = host={} port={port}\n", n + 1, siblings.dir(n).display())).collect();
        for n in 0..SIBLINGS {
            let dir = siblings.dir(n);
            lab.account.create_dir(&dir, 0o755).unwrap();
            let mut ini = format!(
                "%include {}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nso_reuseport = 1\n\
                 unix_socket_dir = {dir}\npidfile = {dir}/pid\nlogfile = {dir}/log\nauth_type = scram-sha-256\n\
                 auth_file = {}\nadmin_users = pooladmin\npool_mode = transaction\nserver_login_retry = 1\n",
                siblings.entries().display(),
                userlist.display(),
                dir = dir.display(),
            );
            if peers {
                ini.push_str(&format!("peer_id = {}\n[peers]\n{group}", n + 1));
            }
            lab.account.write_file(dir.join("pgbouncer.ini"), ini, 0o644).unwrap();
            siblings.launch(n).await;
        }
        siblings
    }

    async fn launch(&self, n: usize) {
        let mut command = self.lab.account.command(&self.bin);
        command.arg("-d").arg(self.dir(n).join("pgbouncer.ini"));
        run(command, LONG).await.unwrap();
        let socket = self.dir(n).join(format!(".s.PGSQL.{}", self.port));
        let answers = async || std::os::unix::net::UnixStream::connect(&socket).ok();
        until("a sibling to listen", answers).await;
    }

    fn kill(&self, n: usize) {
        let pid = std::fs::read_to_string(self.dir(n).join("pid")).unwrap();
        kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
        std::fs::remove_file(self.dir(n).join("pid")).unwrap();
    }

    /// Returns the configuration of the upgrade, which names each by its socket.
    fn config(&self) -> String {
        let text = self.lab.config_text();
        let (before, rest) = text.split_once("[[route.pgbouncer]]").unwrap();
        let (_, after) = rest.split_once("[budgets]").unwrap();
        let one = |n: usize| {
            let dir = self.dir(n).display().to_string();
            format!(
                "[[route.pgbouncer]]\nadmin = \"host={dir} port={} user=pooladmin\"\n\
                 password = {{ passfile = \"passfile\" }}\nini = \"{dir}/pgbouncer.ini\"\n\n",
                self.port
            )
        };
        format!("{before}{}[budgets]{after}", (0..SIBLINGS).map(one).collect::<String>())
    }

    /// Returns to which port each leads, by its own console: none of one that does not run, 0 while it is paused.
    async fn leading(&self) -> Vec<Option<u16>> {
        let mut ports = Vec::new();
        for n in 0..SIBLINGS {
            let mut config = tokio_postgres::Config::new();
            config.host_path(self.dir(n)).port(self.port).dbname("pgbouncer").user(ROLES[2].0).password(ROLES[2].1);
            let Ok(client) = crate::bed::connect(&config).await else {
                ports.push(None);
                continue;
            };
            let rows = client.simple_query("SHOW DATABASES").await.unwrap();
            ports.push(rows.iter().find_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) if row.get("name") == Some("shop") => {
                    match row.get("paused") {
                        Some("0") => row.get("port")?.parse().ok(),
                        _ => Some(0),
                    }
                }
                _ => None,
            }));
        }
        ports
    }
}

fn version(bin: &Path) -> String {
    let output = std::process::Command::new(bin).arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Drop for Siblings {
    fn drop(&mut self) {
        for n in 0..SIBLINGS {
            if self.dir(n).join("pid").exists() {
                self.kill(n);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_on_one_port_and_one_file_are_led_together_and_one_that_was_killed_comes_back_there() {
    // 1.26 lets nobody new in after the way back to a server older than 16
    let versions =
        poolers().into_iter().map(|bin| (version(&bin), bin)).filter(|(version, _)| !version.contains(" 1.26"));
    let Some((version, bin)) = versions.max() else { return };
    let peers = !version.contains(" 1.18");
    let lab = Lab::start(small(15, 18, "sib")).await.unwrap();
    let siblings = Siblings::start(lab.clone(), bin, peers).await;
    let _guard = guard(&lab);
    // clients come by the port, and the kernel deals them out
    let mut shared = lab.clone();
    shared.poolers[0].spec.port = siblings.port;
    let rig = Rig::over(shared, &siblings.config(), LOAD).await;
    let (source, target) = (lab.source_port, lab.target_port);
    assert_done(rig.chain().run().await);
    assert_done(rig.chain().switchover().await);
    assert_eq!(siblings.leading().await, [Some(target); SIBLINGS]);
    let entries = std::fs::read_to_string(siblings.entries()).unwrap();
    assert_eq!(entries, format!("; one file for all\n[databases]\nshop = host=127.0.0.1 port={target}\n"));

    // one dies when it is decided: the others' clients go on at once, and it is back with a file that leads there already
    let script = Script::hold_at("switchover.move_clients.after_point_of_no_return");
    let meddle = async {
        script.held().await;
        siblings.kill(1);
        script.release();
        until("the others to be led back", async || {
            let leading = siblings.leading().await;
            (leading == [Some(source), None, Some(source)]).then_some(())
        })
        .await;
        let before = rig.acknowledged();
        until("clients to go on beside it", async || (rig.acknowledged() > before + 20).then_some(())).await;
        siblings.launch(1).await;
        assert_eq!(siblings.leading().await[1], Some(source));
    };
    let chain = rig.chain();
    let (outcome, ()) = tokio::join!(script.run(chain.rollback()), meddle);
    assert!(matches!(outcome, Some(Ok(Outcome::Done))), "{outcome:?}");
    assert_eq!(siblings.leading().await, [Some(source); SIBLINGS]);
    let through = ask(&rig.lab.through_pooler("shop"), "SELECT current_setting('port')").await;
    assert_eq!(through, [source.to_string()]);

    let (_, verdict) = rig.verdict(source).await;
    for (_, audit) in &verdict.audits {
        assert!(audit.is_clean(), "{audit:?}");
    }
    drop(siblings);
    tokio::time::timeout(Duration::from_secs(60), end(lab)).await.unwrap();
}
