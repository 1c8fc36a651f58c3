//! Unwinding: the source is left as it was found, and the upgrade can begin again.

use pgleap_lab::Lab;
use pgleap_saga::{EventSink, Step};
use pgleap_upgrade::{
    Chain, Config, Standing, World, chain::ChainError, fix::Remedy, guard::Launch, preflight::Fix,
    provision::BaseBackup, replicate::CatchUp,
};

use crate::{
    bed::{
        Bed, as_found, ask, assert_as_found, assert_standing, assert_unwound, began, client, end, event, guard, small,
    },
    rig::{Load, Rig, assert_done},
};

/// What `pg_upgrade --check` refuses: a number that means nothing in another cluster.
const IN_THE_WAY: &str = "CREATE TABLE in_the_way (what regproc)";

/// Rights and settings that are not the defaults, so that giving back the defaults would show.
const PARTICULAR: &str = "
    CREATE ROLE reader LOGIN; CREATE ROLE auditor LOGIN;
    REVOKE ALL ON DATABASE shop FROM PUBLIC; GRANT CONNECT ON DATABASE shop TO reader;
    GRANT CONNECT, TEMPORARY ON DATABASE shop TO auditor WITH GRANT OPTION;
    ALTER DATABASE shop SET default_transaction_read_only = off; ALTER DATABASE shop SET work_mem = '5MB';
    ALTER ROLE reader IN DATABASE shop SET default_transaction_read_only = on";

fn assert_directories_gone(lab: &Lab) {
    for name in ["target", "w"] {
        assert!(!lab.spec.dir.join(name).exists(), "`{name}` was left behind");
    }
    assert!(lab.target().unwrap().running().is_none());
}

/// Another configuration makes another plan, which cannot be taken back: `resume` must not do it later, unasked.
async fn refused_and_forgotten(bed: &Bed) {
    let text = std::fs::read_to_string(bed.lab.config_path()).unwrap();
    let edited = text.replace("kind = \"pgbouncer\"", "kind = \"multi_host\"");
    let (before, after) =
        (edited.split_once("[[route.pgbouncer]]").unwrap().0, edited.split_once("[budgets]").unwrap().1);
    let edited = Config::parse(&format!("{before}[budgets]{after}"), &bed.lab.spec.dir).unwrap();
    let world = World::describe(edited, "7f3a".into(), Launch::Task).await.unwrap();
    let chain = Chain::new(&world, &bed.journal, EventSink::new(), bed.stop.clone());
    let refused = chain.unwind("changed our minds").await;
    assert!(matches!(refused, Err(ChainError::Engine(_))), "{refused:?}");
    let nothing = bed.chain().resume().await;
    assert!(matches!(nothing, Err(ChainError::NotNow { .. })), "{nothing:?}");
    assert_standing(&bed.chain(), Standing::InSync);
}

/// What was ordered is done by `resume`, also if not one step of it was.
#[cfg(feature = "faults")]
async fn ordered_and_killed_before_it_began(bed: &Bed) {
    let script = pgleap_saga::fault::Script::kill_at(0);
    let ended = script.run(async { drop(bed.chain().unwind("changed our minds").await) }).await;
    assert!(ended.is_none(), "it was killed");
    assert_standing(&bed.chain(), Standing::InSync);
    assert_unwound(bed.chain().resume().await);
}

#[cfg(not(feature = "faults"))]
async fn ordered_and_killed_before_it_began(bed: &Bed) {
    assert_unwound(bed.chain().unwind("changed our minds").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_in_the_middle_and_unwinding_in_sync_leave_the_source_as_it_was_found() {
    let bed = Bed::start(small(15, 18, "unwind")).await;
    let _guard = guard(&bed.lab);
    let shop = client(&bed.lab.directly(bed.lab.source_port, "shop")).await;
    shop.batch_execute(PARTICULAR).await.unwrap();
    let before = as_found(&bed.lab).await;

    shop.batch_execute(IN_THE_WAY).await.unwrap();
    let cause = assert_unwound(bed.chain().run().await);
    assert!(cause.to_string().contains("reg*"), "pg_upgrade's own words are missing: {cause}");
    shop.batch_execute("DROP TABLE in_the_way").await.unwrap();
    assert_as_found(&before, &as_found(&bed.lab).await);
    assert_directories_gone(&bed.lab);
    assert_standing(&bed.chain(), Standing::Nothing);

    // what an operator has pgleap change for the upgrade is taken back with it
    let fixes = vec![Fix::reload("log_min_duration_statement", 60_000)];
    let remedy = Remedy { finding: "slot_retention.limited".into(), fixes };
    assert_done(bed.chain().fix(&[remedy]).await);
    assert_done(bed.chain().run().await);
    assert_standing(&bed.chain(), Standing::InSync);
    let early = bed.chain().unfix(&[]).await;
    assert!(matches!(early, Err(ChainError::NotNow { .. })), "{early:?}");
    assert_ne!(before, as_found(&bed.lab).await, "an upgrade in sync must show, or this test sees nothing");
    refused_and_forgotten(&bed).await;
    ordered_and_killed_before_it_began(&bed).await;
    assert_as_found(&before, &as_found(&bed.lab).await);
    assert_directories_gone(&bed.lab);
    end(bed.lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_keep_more_than_the_budget_are_given_up_while_the_copy_is_made() {
    let bed = Bed::start_with(small(15, 18, "kept"), "retained_wal = \"4MiB\"\n").await;
    let _guard = guard(&bed.lab);
    let before = as_found(&bed.lab).await;
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let config = bed.lab.directly(bed.lab.source_port, "shop");
    let writer = tokio::spawn(async move {
        assert!(event(&mut events, began::<BaseBackup>).await);
        let sql = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 8388608))";
        client(&config).await.batch_execute(sql).await.unwrap();
    });
    let chain = Chain::new(&bed.world, &bed.journal, sink, bed.stop.clone());
    let cause = assert_unwound(chain.run().await).to_string();
    writer.await.unwrap();
    assert!(cause.contains("the slots keep") && cause.contains("the budget is 4194304"), "{cause}");
    let records = bed.journal.records(0).unwrap();
    assert!(records.iter().all(|r| r.step.as_deref() != Some(CatchUp::NAME.0)), "it was found out before catching up");
    assert_as_found(&before, &as_found(&bed.lab).await);
    assert_directories_gone(&bed.lab);
    end(bed.lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unwinding_after_a_switchover_and_a_rollback_leaves_the_source_as_it_was_found() {
    let rig = Rig::start_with(small(15, 18, "undone"), Load { clients: 2, rate: 50.0, application: 1 }).await;
    let _guard = guard(&rig.lab);
    client(&rig.lab.directly(rig.lab.source_port, "shop")).await.batch_execute(PARTICULAR).await.unwrap();
    let before = as_found(&rig.lab).await;
    assert_done(rig.chain().run().await);
    assert_done(rig.chain().switchover().await);
    let rights = "SELECT count(*)::text FROM pg_database, aclexplode(datacl)
                   WHERE datname = 'shop' AND privilege_type = 'CONNECT'";
    let serving = rig.lab.directly(rig.lab.target_port, "shop");
    assert_eq!(ask(&serving, rights).await, ["3"], "reader, auditor and the owner may connect to the side that serves");
    assert_done(rig.chain().rollback().await);
    assert_unwound(rig.chain().unwind("changed our minds").await);
    assert_as_found(&before, &as_found(&rig.lab).await);
    assert_directories_gone(&rig.lab);

    assert_done(rig.chain().run().await);
    assert_standing(&rig.chain(), Standing::InSync);
    let port = rig.lab.source_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    end(lab).await;
}
