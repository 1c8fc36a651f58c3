//! A route that is the operator's own program: the example of the contract drives a real PgBouncer through switchovers.

use std::path::{Path, PathBuf};

use pgleap_lab::{Lab, LabSpec};
use pgleap_local::free_port;
use pgleap_upgrade::{
    Standing, config,
    guard::Ward,
    pg::Side,
    pgbouncer::ini::Address,
    preflight,
    route::{
        Clients,
        command::{Program, Question, Request},
        conformance::{Trial, conform},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    bed::{LONG, assert_standing, assert_unwound, end, guard, small, until},
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 3, rate: 60.0, application: 1 };

/// Stands before the example, and lets it fail in the ways that programs do: what it does at which verb is in a file.
const MOODY: &str = r#"#!/bin/sh
read -r request
verb=$(printf '%s' "$request" | sed -n 's/.*"verb":"\([a-z]*\)".*/\1/p')
case "$(cat MOOD) $verb" in
    "hang pause pause") exec sleep 600 ;;
    "fail drain drain") echo "no such backend" >&2; exit 3 ;;
    "fail check check") echo "the file is not ours" >&2; exit 1 ;;
    "nonsense drain drain") echo "ok"; exit 0 ;;
    "killed pause pause") kill -9 $$ ;;
    # works, and answers as if it had not
    "deaf pause pause") printf '%s\n' "$request" | EXAMPLE | sed 's/true/false/'; exit 0 ;;
    # once: the decision is taken, and it must be led to the target all the same
    "fail repoint repoint") echo well > MOOD; echo "try later" >&2; exit 1 ;;
    "killed repoint repoint" | "killed resume resume") echo well > MOOD; kill -9 $$ ;;
esac
printf '%s\n' "$request" | EXAMPLE
"#;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/route")
}

/// Puts a program into the laboratory and returns the configuration that names it.
fn with_program(lab: &Lab) -> String {
    let example = examples().join("pgbouncer.sh");
    let console = format!(
        "host=127.0.0.1 port={} user=pooladmin dbname=pgbouncer passfile={}",
        lab.pooler().spec.port,
        passfile(lab).display()
    );
    let run = format!(
        "PSQL={} {} '{console}' {}",
        lab.source.installation.tool("psql").display(),
        example.display(),
        lab.pooler().ini_path.display()
    );
    let script = MOODY.replace("EXAMPLE", &run).replace("MOOD", &mood(lab).display().to_string());
    let program = lab.spec.dir.join("moody.sh");
    lab.account.write_file(&program, script, 0o755).unwrap();
    set_mood(lab, "well");
    let text = lab.config_text();
    let (before, after) = (text.split_once("[route]").unwrap().0, text.split_once("[budgets]").unwrap().1);
    format!("{before}[route]\nkind = \"command\"\ncommand = [\"./moody.sh\"]\n\n[budgets]{after}")
}

/// libpq reads a password file only if nobody else can, and it belongs to whoever reads it.
fn passfile(lab: &Lab) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = lab.spec.dir.join("program.passfile");
    std::fs::write(&path, "*:*:*:pooladmin:pool-secret\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn mood(lab: &Lab) -> PathBuf {
    lab.spec.dir.join("mood")
}

fn set_mood(lab: &Lab, to: &str) {
    std::fs::write(mood(lab), to).unwrap();
}

/// A switchover with a program that does not what it should: one error, and clients go on at the source.
async fn refused(rig: &Rig, mood: &str, expected: &[&str]) {
    set_mood(&rig.lab, mood);
    let error = assert_unwound(rig.chain().switchover().await).to_string();
    for expected in expected {
        assert!(error.contains(expected), "{mood}: missing `{expected}` in: {error}");
    }
    set_mood(&rig.lab, "well");
    assert_standing(&rig.chain(), Standing::InSync);
    let entries = rig.world.route.members()[0].entries().await.unwrap();
    assert!(entries.iter().all(|entry| !entry.paused && entry.port == rig.lab.source_port), "{entries:?}");
    let now = rig.acknowledged();
    until("clients to go on", async || (rig.acknowledged() > now + 20).then_some(())).await;
}

fn program(rig: &Rig) -> &Program {
    match &rig.world.route.members()[0].ward {
        Ward::Program(program) => program,
        other => panic!("{other}"),
    }
}

fn failures(trials: &[Trial]) -> Vec<String> {
    let failed =
        trials.iter().filter_map(|trial| trial.failure.as_ref().map(|error| format!("{}: {error}", trial.must)));
    failed.collect()
}

/// The example does, also when it is killed half way; one that only says so does not, and clients go on all the same.
async fn keeps_the_contract(rig: &Rig) {
    let trials = conform(program(rig), true).await;
    assert_eq!(failures(&trials), [""; 0]);
    assert!(trials.len() > 15, "{trials:#?}");
    set_mood(&rig.lab, "deaf pause");
    let failed = failures(&conform(program(rig), true).await);
    assert!(failed.len() == 1 && failed[0].starts_with("pause: it says that clients go on"), "{failed:?}");
    set_mood(&rig.lab, "well");
    let now = rig.acknowledged();
    until("clients to go on", async || (rig.acknowledged() > now + 20).then_some(())).await;
}

/// HAProxy before nothing at all: its runtime API is what the program works.
#[tokio::test]
async fn the_example_for_haproxy_keeps_the_contract() {
    let has = |program: &str| std::process::Command::new(program).arg("-v").output().is_ok();
    if !has("haproxy") || !has("socat") {
        eprintln!("not tried: haproxy or socat is not here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let example = std::fs::read_to_string(examples().join("haproxy.cfg")).unwrap();
    let (map, socket) = (at("pgleap.map"), at("admin.sock"));
    let (door, server) = (free_port().unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let text = example
        .replace("10.0.0.5:5433", &server.local_addr().unwrap().to_string())
        .replace("/etc/haproxy/pgleap.map", &map)
        .replace("/run/haproxy/admin.sock", &socket)
        .replace(":5000", &format!("127.0.0.1:{door}"));
    let waits = "\ndefaults\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n";
    std::fs::write(at("haproxy.cfg"), format!("{waits}{text}")).unwrap();
    std::fs::write(&map, "side source\n").unwrap();
    let mut haproxy = tokio::process::Command::new("haproxy");
    haproxy.args(["-q", "-db", "-f", &at("haproxy.cfg")]).kill_on_drop(true);
    let _haproxy = haproxy.spawn().unwrap();
    until("HAProxy to listen", async || std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(())).await;

    let of = config::Program {
        command: vec![examples().join("haproxy.sh").display().to_string(), socket, map.clone()],
        timeout: std::time::Duration::from_secs(5),
        clients: Clients::Errors,
        outlives_host: false,
    };
    let address = |port| Address { host: "10.0.0.5".into(), port };
    let program = Program::new(of, address(5432), address(5433));
    let trials = conform(&program, true).await;
    assert_eq!(failures(&trials), [""; 0]);
    assert_eq!(std::fs::read_to_string(map).unwrap(), "side source\n");

    // who comes then meets the side that was decided on, without a reload
    let ask = |verb| Request { to: Some(Side::Target), ..program.request(verb) };
    program.ask(ask(Question::Repoint), LONG).await.unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", door)).await.unwrap();
    client.write_all(b"?").await.unwrap();
    let (mut at_target, _) = tokio::time::timeout(LONG, server.accept()).await.unwrap().unwrap();
    let mut asked = [0];
    at_target.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"?");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_ones_own_moves_clients_there_and_back_and_its_failures_cost_them_nothing_but_a_wait() {
    let mut spec: LabSpec = small(15, 18, "cmd");
    spec.write_pause = "3s".into();
    let lab = Lab::start(spec).await.unwrap();
    let config = with_program(&lab);
    let rig = Rig::over(lab, &config, LOAD).await;
    let _guard = guard(&rig.lab);
    keeps_the_contract(&rig).await;
    set_mood(&rig.lab, "fail check");
    let report = preflight::check(&rig.world).await;
    let blockers: Vec<_> = report.blockers().map(|finding| (finding.id, finding.cause.as_deref())).collect();
    assert_eq!(blockers, [("route.program_fails", Some("the file is not ours"))]);
    set_mood(&rig.lab, "well");
    assert!(preflight::check(&rig.world).await.is_clear());
    assert_done(rig.chain().run().await);

    refused(&rig, "fail check", &["`moody.sh` failed (exit status: 1) at `check`", "the file is not ours"]).await;
    refused(&rig, "hang pause", &["`moody.sh` had not ended after", "and was killed at `pause`"]).await;
    refused(&rig, "killed pause", &["`moody.sh` failed (signal: 9 (SIGKILL)) at `pause`"]).await;
    refused(&rig, "deaf pause", &["says that clients do not wait after `pause`"]).await;
    refused(&rig, "fail drain", &["failed (exit status: 3) at `drain`", "no such backend"]).await;
    refused(&rig, "nonsense drain", &["answered what is no state at `drain`", "`ok`"]).await;

    set_mood(&rig.lab, "fail repoint");
    assert_done(rig.chain().switchover().await);
    set_mood(&rig.lab, "killed repoint");
    assert_done(rig.chain().rollback().await);
    set_mood(&rig.lab, "killed resume");
    assert_done(rig.chain().switchover().await);
    let port = rig.lab.target_port;
    let (lab, verdict) = rig.verdict(port).await;
    eprintln!("longest stall {} ms", verdict.longest_stall_ms());
    verdict.assert_clean();
    end(lab).await;
}
