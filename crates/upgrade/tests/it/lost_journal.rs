//! The journal fails in the write pause: clients go on at the source, and `resume` leaves all as it was found.

use pgleap_saga::{EngineError, Release, Step};
use pgleap_upgrade::{
    Chain, Standing, World,
    chain::ChainError,
    switchover::{carry_over::CarryOver, fence::Fence, move_clients::MoveClients, pause_pools::PausePools},
};
use rusqlite::Connection;

use crate::{
    bed::{as_found, assert_as_found, assert_standing, assert_unwound, connect, end, guard, small, until},
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 3, rate: 60.0, application: 1 };

fn name<S: Step<World>>() -> &'static str {
    S::NAME.0
}

fn alter(rig: &Rig, sql: &str) {
    Connection::open(rig.journal.path()).unwrap().execute_batch(sql).unwrap();
}

/// Sees that clients wait for nobody and write to the source, whatever the journal says.
async fn assert_let_go(rig: &Rig) {
    let entries = rig.world.route.members()[0].entries().await.unwrap();
    assert!(entries.iter().all(|entry| !entry.paused && entry.port == rig.lab.source_port), "{entries:?}");
    connect(&rig.lab.bypassing(rig.lab.source_port, "shop")).await.unwrap();
    let now = rig.acknowledged();
    until("clients to go on", async || (rig.acknowledged() > now + 20).then_some(())).await;
}

async fn lose(chain: &Chain<'_>) -> Release {
    match chain.switchover().await {
        Err(ChainError::Engine(EngineError::JournalInSection { release, .. })) => release,
        other => panic!("{other:#?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_fails_in_the_pause_lets_clients_go_on_at_the_source() {
    let rig = Rig::start_with(small(15, 18, "lost"), LOAD).await;
    let _guard = guard(&rig.lab);
    assert_done(rig.chain().run().await);
    let before = as_found(&rig.lab).await;
    let pause = name::<PausePools>();
    let moments: [(&str, &str, &[&str]); 3] = [
        ("started", name::<Fence>(), &[pause]),
        ("started", name::<CarryOver>(), &[name::<Fence>(), pause]),
        ("point_of_no_return", name::<MoveClients>(), &[name::<Fence>(), pause]),
    ];
    for (kind, step, undone) in moments {
        // that record cannot be written, as on a full disk
        alter(
            &rig,
            &format!(
                "CREATE TRIGGER full BEFORE INSERT ON records WHEN NEW.kind = '{kind}' AND NEW.step = '{step}'
                 BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            ),
        );
        let undone = undone.iter().map(ToString::to_string).collect();
        assert_eq!(lose(&rig.chain()).await, Release::Whole { undone }, "{kind} {step}");
        assert_let_go(&rig).await;
        assert!(matches!(rig.chain().standing().unwrap(), Standing::Open { past_point_of_no_return: false, .. }));

        alter(&rig, "DROP TRIGGER full");
        let cause = assert_unwound(rig.chain().resume().await);
        assert_eq!(cause.message, "interrupted inside `write pause`", "{kind} {step}");
        assert_standing(&rig.chain(), Standing::InSync);
        assert_as_found(&before, &as_found(&rig.lab).await);
        assert_let_go(&rig).await;
    }
    assert_done(rig.chain().switchover().await);
    let port = rig.lab.target_port;
    let (lab, verdict) = rig.verdict(port).await;
    verdict.assert_clean();
    end(lab).await;
}
