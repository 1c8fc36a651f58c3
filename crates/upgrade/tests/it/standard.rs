//! The standard scenario: every ending of it is judged by the ledger.

use pgleap_lab::LabSpec;
use pgleap_saga::Outcome;

use crate::rig::{Rig, assert_done, directory};

/// Returns every byte that the upgrade keeps about itself: journal, logs, configuration of the servers that it made.
fn kept(directory: &std::path::Path) -> String {
    let mut text = String::new();
    let mut open = vec![directory.join("state"), directory.join("w/log"), directory.join("target/log")];
    open.extend(["target/postgresql.conf", "target/postgresql.auto.conf"].map(|name| directory.join(name)));
    while let Some(path) = open.pop() {
        match std::fs::read_dir(&path) {
            Ok(entries) => open.extend(entries.flatten().map(|entry| entry.path())),
            Err(_) => text.push_str(&String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default())),
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_unwinds_runs_again_switches_over_rolls_back_and_finishes_without_losing_a_write() {
    let rig = Rig::start(LabSpec::new(15, 18, directory("std"))).await;
    assert_done(rig.chain().run().await);
    assert!(matches!(rig.chain().unwind("a test").await, Ok(Outcome::Unwound { .. })));
    assert_done(rig.chain().run().await);
    assert_done(rig.chain().switchover().await);
    assert_done(rig.chain().rollback().await);
    assert_done(rig.chain().switchover().await);

    let kept = kept(&rig.lab.spec.dir);
    assert!(kept.contains("provision.base_backup"), "the journal is among what was read");
    for (role, password) in pgleap_lab::ROLES {
        assert!(!kept.contains(password), "the password of `{role}` is in the journal or in a log");
    }

    assert_done(rig.chain().finalize().await);
    let port = rig.lab.target_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    lab.destroy().await.unwrap();
}
