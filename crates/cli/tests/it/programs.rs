//! The operator's own program on the way, on real servers: pgleap, the program's guard or this whole host dies in the pause; and
//! the example for Kubernetes, with a kubectl that stands in for a cluster.

use std::{
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::scene::{Clients, Scene};

const CLIENTS: Clients = Clients { count: 4, rate: 60.0, bear: Duration::from_secs(30) };

/// The example for PgBouncer, with a timer that nothing on this host's side of it needs to end the pause.
const WITH_A_TIMER: &str = r#"#!/bin/sh
read -r request
example() { PSQL='PSQL_HERE' 'EXAMPLE' 'CONSOLE' 'INI'; }
lease=$(printf '%s' "$request" | sed -n 's/.*"verb":"pause".*"lease_ms":\([0-9]*\).*/\1/p')
if [ -n "$lease" ]; then
    mark=$(date +%s%N)
    echo "$mark" > 'TIMER'
    {
        sleep "$((lease / 1000)).$(printf %03d $((lease % 1000)))"
        # one that was set again, or is not needed any more, has another mark or none
        [ "$(cat 'TIMER')" != "$mark" ] || printf '%s\n' "$request" | sed 's/"verb":"pause"/"verb":"resume"/' | example
    } </dev/null >/dev/null 2>&1 9>&- &
fi
case $request in *'"verb":"resume"'*) rm -f 'TIMER' ;; esac
printf '%s\n' "$request" | example
"#;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/route").join(name)
}

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Puts a program in the place of the poolers.
fn by_program(scene: &Scene, text: &str, settings: &str) {
    write_program(&scene.dir().join("program.sh"), text);
    let config = scene.lab.config_text();
    let (before, after) = (config.split_once("[route]").unwrap().0, config.split_once("[budgets]").unwrap().1);
    scene.configure(&format!(
        "{before}[route]\nkind = \"command\"\ncommand = [\"./program.sh\"]\n{settings}\n\n[budgets]{after}"
    ));
}

/// Returns how psql reaches the pooler's console.
fn console(scene: &Scene) -> String {
    let passfile = scene.dir().join("program.passfile");
    std::fs::write(&passfile, "*:*:*:pooladmin:pool-secret\n").unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    let port = scene.lab.pooler().spec.port;
    format!("host=127.0.0.1 port={port} user=pooladmin dbname=pgbouncer passfile={}", passfile.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_of_a_program_ends_whoever_dies_in_it() {
    let scene = Scene::set("program", |_| ()).await;
    let text = [
        ("PSQL_HERE", scene.lab.source.installation.tool("psql").display().to_string()),
        ("EXAMPLE", example("pgbouncer.sh").display().to_string()),
        ("CONSOLE", console(&scene)),
        ("INI", scene.lab.pooler().ini_path.display().to_string()),
        ("TIMER", scene.dir().join("timer").display().to_string()),
    ];
    let text = text.iter().fold(WITH_A_TIMER.to_owned(), |text, (name, value)| text.replace(name, value));
    by_program(&scene, &text, "outlives_host = \"yes\"");
    assert_eq!(scene.run(&["route-check", "--and-move"]).await.code(), Some(0), "it ends a pause by itself");
    let scene = scene.with_clients(CLIENTS).await;
    assert_eq!(scene.run(&["run"]).await.code(), Some(0));

    // pgleap: its second process finishes or takes back
    for point in [
        "switchover.pause_pools.after_pause",
        "switchover.carry_over.after_arrival",
        "switchover.move_clients.after_point_of_no_return",
        "switchover.move_clients.after_decision",
    ] {
        let status = scene.run_with(&[scene.verb()], &format!("kill:{point}"), false).await;
        assert_eq!(status.signal(), Some(9), "it did not die at {point}, but: {status:?}");
        scene.all_go_on_well(point).await;
        scene.until(&format!("the second process to finish after {point}"), || scene.standing() != "open").await;
    }
    // both processes: the guard asks the program when the lease is over
    let status = scene.run_with(&[scene.verb()], "kill:switchover.fence.after_block", true).await;
    assert_eq!(status.signal(), Some(9));
    scene.all_go_on_well("nobody but the guard is left").await;
    assert_eq!(scene.run(&["resume"]).await.code(), Some(5));

    // everything of pgleap's: the program's timer, and the fence's lease in the server
    let (mut child, _) = scene.held_alone_at(scene.verb(), "switchover.fence.after_block").await;
    let guard = std::fs::read_to_string(scene.dir().join("state/guard.lock")).unwrap();
    kill(Pid::from_raw(guard.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    child.kill().await.unwrap();
    scene.all_go_on_well("nobody of this host is left").await;
    assert_eq!(scene.standing(), "open", "nobody took over");
    assert_eq!(scene.run(&["resume"]).await.code(), Some(5));
    assert_eq!(scene.run(&[scene.verb()]).await.code(), Some(0), "the next one works");
    scene.all_go_on_well("the next one").await;
    scene.verdict().await;
}

/// A Deployment of one pod: the laboratory's PgBouncer, which the kubelet starts where the ConfigMap says.
fn cluster(scene: &Scene) -> PathBuf {
    let cluster = scene.dir().join("cluster");
    std::fs::create_dir_all(cluster.join("bin")).unwrap();
    write_program(&cluster.join("bin/kubectl"), include_str!("kubectl.sh"));
    let pooler = scene.lab.pooler();
    let (ini, pidfile) = (pooler.ini_path.display(), pooler.spec.dir.join("pgbouncer.pid"));
    let start = format!(
        "#!/bin/sh\nset -eu\nsed \"s/host=[^ ]* port=[0-9]*/host=$1 port=$2/\" {ini} > ini\ncat ini > {ini}\n\
         if [ \"$(id -u)\" = 0 ]; then exec runuser -u {} -- {bin} -d {ini}; else exec {bin} -d {ini}; fi\n",
        pooler.spec.account.name,
        bin = pooler.spec.bin.display(),
    );
    let stop = format!(
        "#!/bin/sh\npid=$(cat {0}) || exit 0\nkill -9 \"$pid\"\nwhile kill -0 \"$pid\" 2>/dev/null; do sleep 0.02; done\n\
         rm -f {0}\n",
        pidfile.display()
    );
    write_program(&cluster.join("start"), &start);
    write_program(&cluster.join("stop"), &stop);
    let configmap = serde_json::json!({ "data": {
        "host": scene.lab.spec.source_host, "port": scene.lab.source_port.to_string(), "paused": "no" } });
    let deployment = serde_json::json!({
        "metadata": { "generation": 1 },
        "spec": { "replicas": 1, "template": { "metadata": { "annotations": {} } } },
        "status": { "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1 } });
    std::fs::write(cluster.join("configmap.json"), configmap.to_string()).unwrap();
    std::fs::write(cluster.join("deployment.json"), deployment.to_string()).unwrap();
    std::fs::write(cluster.join("pod"), "pod/pgbouncer-1\n").unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_kubernetes_reconnect_to_the_other_side_by_a_rollout_there_and_back() {
    if std::process::Command::new("jq").arg("--version").output().is_err() {
        eprintln!("NOT TRIED: jq is not here; `scripts/setup test` brings it");
        return;
    }
    // each question is some dozen processes
    let scene = Scene::set("kube", |spec| spec.write_pause = "10s".into()).await;
    let cluster = cluster(&scene);
    let psql = scene.lab.source.installation.tool("psql");
    let text = format!(
        "#!/bin/sh\nexport PATH=\"{0}/bin:{1}:$PATH\" CLUSTER={0} CONSOLE='{2}'\nexec {3} databases pgbouncer pgbouncer\n",
        cluster.display(),
        psql.parent().unwrap().display(),
        console(&scene),
        example("kubernetes.sh").display()
    );
    by_program(&scene, &text, "clients = \"reconnect\"");
    assert_eq!(scene.run(&["route-check", "--and-move"]).await.code(), Some(0), "it keeps the contract");
    let scene = scene.with_clients(CLIENTS).await;
    assert_eq!(scene.run(&["run"]).await.code(), Some(0));
    for verb in ["switchover", "rollback", "switchover"] {
        assert_eq!(scene.run(&[verb]).await.code(), Some(0), "{verb}");
        scene.all_go_on(verb).await;
    }
    let pods = std::fs::read_to_string(cluster.join("pod")).unwrap();
    assert_ne!(pods.trim(), "pod/pgbouncer-1", "no rollout replaced it");
    let failures = scene.canaries[0].snapshot().failures;
    // who connected anew waited: nobody met a server that is closed
    assert!(!failures.contains_key("42501"), "{failures:#?}");
    scene.verdict().await;
}
