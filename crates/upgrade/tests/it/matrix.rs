//! The standard scenario over further pairs of majors; `make test-matrix` asks for them.

use pgleap_lab::LabSpec;
use pgleap_upgrade::provision::UpdateExtensions;

use crate::{
    bed::{Bed, ask, client, end, guard, output, small},
    rig::{Rig, assert_done, directory},
};

/// Whether both majors are here and this run wants the pair; says a word if not.
fn wanted(from: u16, to: u16) -> bool {
    if std::env::var_os("PGLEAP_TEST_MATRIX").is_none_or(|value| value != "1") {
        eprintln!("skipped: {from} to {to} runs when PGLEAP_TEST_MATRIX=1 is set");
        return false;
    }
    can_be_had(from) && can_be_had(to)
}

pub fn can_be_had(major: u16) -> bool {
    let found = pgleap_local::find(major, &[]);
    if let Err(error) = &found {
        eprintln!("skipped: {error}");
    }
    found.is_ok()
}

async fn standard(from: u16, to: u16) {
    if !wanted(from, to) {
        return;
    }
    let rig = Rig::start(LabSpec::new(from, to, directory(&format!("{from}-{to}")))).await;
    let _guard = guard(&rig.lab);
    assert_done(rig.chain().run().await);
    assert_done(rig.chain().switchover().await);
    assert_done(rig.chain().rollback().await);
    assert_done(rig.chain().switchover().await);
    assert_done(rig.chain().finalize().await);
    let port = rig.lab.target_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    let version = ask(&lab.directly(port, "shop"), "SHOW server_version_num").await.remove(0);
    assert!(version.starts_with(&to.to_string()), "{version}");
    end(lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_14_to_16_keeps_every_write() {
    standard(14, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_16_to_18_keeps_every_write() {
    standard(16, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_13_to_17_keeps_every_write() {
    standard(13, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_17_to_18_keeps_every_write() {
    standard(17, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_from_18_to_19_keeps_every_write() {
    standard(18, 19).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extensions_get_the_version_of_the_new_major() {
    const NAME: &str = "pg_stat_statements";
    const VERSION: &str = "SELECT extversion FROM pg_extension WHERE extname = 'pg_stat_statements'";
    if !(can_be_had(15) && can_be_had(17)) {
        return;
    }
    let mut spec = small(15, 17, "ext");
    spec.source_settings.push(("shared_preload_libraries".into(), NAME.into()));
    let bed = Bed::start(spec).await;
    let _guard = guard(&bed.lab);
    let shop = client(&bed.lab.directly(bed.lab.source_port, "shop")).await;
    shop.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    assert_done(bed.chain().run().await);
    let target = bed.lab.directly(bed.lab.target_port, "shop");
    let old = ask(&bed.lab.directly(bed.lab.source_port, "shop"), VERSION).await.remove(0);
    let new = ask(&target, VERSION).await.remove(0);
    assert_ne!(old, new, "a pair of majors with the same version of it proves nothing");
    let newest = "SELECT default_version FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
    assert_eq!(ask(&target, newest).await, std::slice::from_ref(&new));
    assert_eq!(output::<UpdateExtensions>(&bed.world, &bed.journal), [format!("shop.{NAME} {old} {new}")]);
    assert_ne!(ask(&target, "SELECT count(*) FROM pg_stat_statements").await, ["0"], "its library is not loaded");
    end(bed.lab).await;
}
