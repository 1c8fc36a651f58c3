//! An existing physical standby is used up as the copy, or given back.

use std::time::Duration;

use pgleap_lab::{Lab, LabSpec};
use pgleap_local::{Server, StopMode, run};
use pgleap_saga::Outcome;

use crate::rig::{Load, Rig, assert_done, directory};

const BUDGET: Duration = Duration::from_secs(60);

/// Makes a standby of the laboratory's source, and starts it.
async fn standby(lab: &Lab) -> Server {
    let server =
        Server { data_dir: lab.spec.dir.join("standby"), log: lab.spec.dir.join("standby.log"), ..lab.source.clone() };
    let mut backup = lab.account.command(server.installation.tool("pg_basebackup"));
    backup
        .args(["--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf", "--pgdata"])
        .arg(&server.data_dir);
    let source = format!(
        "host=127.0.0.1 port={} user=pgleap passfile={}",
        lab.source_port,
        lab.spec.dir.join("passfile").display()
    );
    backup.arg("--dbname").arg(source);
    run(backup, BUDGET).await.unwrap();
    let port = pgleap_local::free_port().unwrap();
    server.append_conf(&format!("port = {port}\n")).unwrap();
    server.start(&[], BUDGET).await.unwrap();
    server
}

async fn rig_with_standby(name: &str) -> (Rig, Server) {
    let lab = Lab::start(LabSpec::new(15, 18, directory(name))).await.unwrap();
    let server = standby(&lab).await;
    let entry = format!("kind = \"self_managed\"\nstandby = \"{}\"\n", server.data_dir.display());
    let config = lab.config_text().replace("kind = \"self_managed\"\n", &entry);
    (Rig::over(lab, &config, Load { clients: 2, rate: 40.0, application: 1 }).await, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_is_used_up_as_the_copy_and_no_write_is_lost() {
    let (rig, standby) = rig_with_standby("sby").await;
    assert_done(rig.chain().run().await);
    assert!(standby.running().is_none(), "it was used up");
    assert_done(rig.chain().switchover().await);
    assert_done(rig.chain().finalize().await);
    assert!(standby.data_dir.exists(), "its directory is its owner's to remove");
    let port = rig.lab.target_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    lab.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_that_is_no_standby_of_the_source_is_refused_and_left_alone() {
    let (rig, standby) = rig_with_standby("sbn").await;
    standby.stop(StopMode::Fast, BUDGET).await.unwrap();
    std::fs::remove_file(standby.data_dir.join("standby.signal")).unwrap();
    match rig.chain().run().await {
        Ok(Outcome::Unwound { cause }) => assert!(cause.message.contains("it is no standby"), "{cause:?}"),
        other => panic!("{other:#?}"),
    }
    assert!(standby.is_initialized(), "nothing of it was removed");
    let port = rig.lab.source_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    lab.destroy().await.unwrap();
}
