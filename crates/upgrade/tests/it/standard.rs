//! The standard scenario: every ending of it is judged by the ledger.

use pgleap_lab::{Lab, LabSpec};
use pgleap_saga::Outcome;

use crate::{
    bed::{ask, client},
    rig::{Load, Rig, assert_done, directory},
};

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

/// A table that keeps its own owner from applying changes, with constraints that look at rows when the transaction ends.
const SEATS: &str = "
    CREATE TABLE seats (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED, during int4range,
                        EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO seats VALUES (1, 1, '[1,5)'), (2, 2, '[5,9)');
    CREATE POLICY everybody ON seats USING (true);
    ALTER TABLE seats ENABLE ROW LEVEL SECURITY; ALTER TABLE seats FORCE ROW LEVEL SECURITY;
    REVOKE TRUNCATE ON seats FROM app";

/// Each row takes what the other has, one after the other.
const SWAP: &str = "
    BEGIN;
    UPDATE seats SET (place, during) = (SELECT place, during FROM seats WHERE id = 2) WHERE id = 1;
    UPDATE seats SET place = 3 - place, during = int4range(6 - lower(during), 14 - upper(during)) WHERE id = 2;
    COMMIT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_unwinds_runs_again_switches_over_rolls_back_and_finishes_without_losing_a_write() {
    let lab = Lab::start(LabSpec::new(15, 18, directory("std"))).await.unwrap();
    let text = lab.config_text().replace("[target]\n", "[target]\nrun_as_owner = true\n");
    let rig = Rig::over(lab, &text, Load { clients: 4, rate: 60.0, application: 2 }).await;
    let (source, target) = (rig.lab.source_port, rig.lab.target_port);
    let database = rig.lab.spec.databases[0].clone();
    let seats = async |port: u16, sql: &str| {
        client(&rig.lab.bypassing(port, &database)).await.batch_execute(sql).await.unwrap();
    };
    seats(source, SEATS).await;
    assert_done(rig.chain().run().await);
    assert!(matches!(rig.chain().unwind("a test").await, Ok(Outcome::Unwound { .. })));
    assert_done(rig.chain().run().await);
    seats(source, SWAP).await;
    assert_done(rig.chain().switchover().await);
    seats(target, SWAP).await;
    assert_done(rig.chain().rollback().await);
    seats(source, SWAP).await;
    assert_done(rig.chain().switchover().await);
    let rows =
        ask(&rig.lab.bypassing(target, &database), "SELECT format('%s %s', place, during) FROM seats ORDER BY id")
            .await;
    assert_eq!(rows, ["2 [5,9)", "1 [1,5)"]);

    let kept = kept(&rig.lab.spec.dir);
    assert!(kept.contains("provision.base_backup"), "the journal is among what was read");
    for (role, password) in pgleap_lab::ROLES {
        assert!(!kept.contains(password), "the password of `{role}` is in the journal or in a log");
    }

    assert_done(rig.chain().finalize().await);
    let (lab, verdict) = rig.verdict(target).await;
    verdict.assert_clean();
    lab.destroy().await.unwrap();
}
