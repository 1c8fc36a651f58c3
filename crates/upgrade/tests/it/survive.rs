//! Sudden deaths of servers and poolers: the upgrade goes on or stops with a clear word, one side serves, no write is lost.

use pgleap_canary::Audit;
use pgleap_lab::Lab;
use pgleap_saga::{Event, EventKind, EventSink, Outcome, Step};
use pgleap_upgrade::{
    Chain, Standing, World, pg::Side, provision::BaseBackup, replicate::CatchUp,
    switchover::create_reverse::CreateReverseSlots,
};
use tokio_postgres::error::SqlState;

use crate::{
    bed::{
        Bed, LONG, assert_blocked, began, connect, crash_source, end, event, guard, kill, pause_began, small, until,
    },
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 3, rate: 60.0, application: 1 };

/// Whether step `S` is under way.
fn progresses<S: Step<World>>(event: &Event) -> bool {
    matches!(event.kind, EventKind::StepProgressed(_)) && event.step.as_deref() == Some(S::NAME.0)
}

fn no_return(event: &Event) -> bool {
    matches!(event.kind, EventKind::PointOfNoReturnPassed)
}

/// Runs until in sync, as an operator would: a run that stops for a person is started again.
async fn insist(rig: &Rig, sink: &EventSink) {
    for _ in 0..5 {
        match Chain::new(&rig.world, &rig.journal, sink.clone(), rig.stop.clone()).run().await.unwrap() {
            Outcome::Done => return,
            Outcome::Blocked(failure) => {
                let hint = failure.error.hint.unwrap_or_default();
                assert!(hint.contains("resume"), "what to type is not said: {} ({hint})", failure.error.message);
                let source = rig.lab.directly(rig.lab.source_port, "shop");
                until("the operator to have started the source", async || connect(&source).await.ok()).await;
            }
            other => panic!("{other:#?}"),
        }
    }
    panic!("never in sync");
}

/// Whether the application's role may enter a side directly.
pub async fn serves(lab: &Lab, port: u16) -> bool {
    match connect(&lab.bypassing(port, "shop")).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{error}");
            false
        }
    }
}

/// Returns the side that serves, and sees that the other does not, and that the poolers lead there and wait for nobody.
pub async fn serving(rig: &Rig) -> Side {
    let standing = rig.chain().standing().unwrap();
    let (side, port) = match standing {
        Standing::InSync => (Side::Source, rig.lab.source_port),
        Standing::SwitchedOver => (Side::Target, rig.lab.target_port),
        other => panic!("{other:?}"),
    };
    assert_eq!(serves(&rig.lab, rig.lab.source_port).await, side == Side::Source);
    assert_eq!(serves(&rig.lab, rig.lab.target_port).await, side == Side::Target);
    let entries = rig.world.route.members()[0].entries().await.unwrap();
    assert!(!entries.is_empty() && entries.iter().all(|e| e.port == port && !e.paused), "{side} serves: {entries:?}");
    let before = rig.acknowledged();
    until("clients to go on", async || (rig.acknowledged() > before + 20).then_some(())).await;
    side
}

/// Stops the clients, and lets the ledgers decide; failed transactions and unknown outcomes are what a crash costs.
pub async fn assert_nothing_lost(rig: Rig) -> Lab {
    let port = match serving(&rig).await {
        Side::Source => rig.lab.source_port,
        Side::Target => rig.lab.target_port,
    };
    let (lab, verdict) = rig.verdict(port).await;
    let audits: Vec<&Audit> = verdict.audits.iter().map(|(_, audit)| audit).collect();
    assert!(audits.iter().all(|audit| audit.is_clean() && audit.acknowledged > 20), "{audits:#?}");
    lab
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_may_crash_during_the_base_backup_and_during_catch_up() {
    let rig = Rig::start_with(small(15, 18, "crash"), LOAD).await;
    let _guard = guard(&rig.lab);
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let crashes = async {
        assert!(event(&mut events, progresses::<BaseBackup>).await);
        crash_source(&rig.lab).await;
        assert!(event(&mut events, began::<CatchUp>).await);
        crash_source(&rig.lab).await;
    };
    tokio::time::timeout(2 * LONG, async { tokio::join!(insist(&rig, &sink), crashes) }).await.unwrap();
    assert_done(rig.chain().switchover().await);
    end(assert_nothing_lost(rig).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_that_stays_away_is_told_with_how_long_it_was_tried_and_what_to_type() {
    let bed = Bed::start(small(15, 18, "away")).await;
    let _guard = guard(&bed.lab);
    kill(&bed.lab.source).await;
    let error = assert_blocked(bed.chain().run().await);
    let hint = error.hint.unwrap_or_default();
    assert!(hint.starts_with("tried 8 times over 2"), "{hint}");
    assert!(hint.ends_with(" s; `pgleap resume` tries again; `pgleap unwind` takes everything back"), "{hint}");
    bed.lab.source.start(&[], LONG).await.unwrap();
    assert_done(bed.chain().resume().await);
    end(bed.lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn target_that_is_killed_during_catch_up_is_started_again() {
    let rig = Rig::start_with(small(15, 18, "tcrash"), LOAD).await;
    let _guard = guard(&rig.lab);
    let sink = EventSink::new();
    let mut events = sink.subscribe();
    let target = rig.lab.target().unwrap();
    let crash = async {
        assert!(event(&mut events, began::<CatchUp>).await);
        let pid = target.running().unwrap().pid;
        kill(&target).await;
        pid
    };
    let (_, pid) = tokio::time::timeout(2 * LONG, async { tokio::join!(insist(&rig, &sink), crash) }).await.unwrap();
    assert_ne!(target.running().unwrap().pid, pid);
    assert_done(rig.chain().switchover().await);
    end(assert_nothing_lost(rig).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pooler_may_be_killed_before_the_pause_in_it_and_past_the_point_of_no_return() {
    let rig = Rig::start_with(small(15, 18, "pcrash"), LOAD).await;
    let _guard = guard(&rig.lab);
    assert_done(rig.chain().run().await);
    type Moment = (&'static str, fn(&Event) -> bool, bool);
    let moments: [Moment; 3] = [
        ("before the pause", began::<CreateReverseSlots>, true),
        ("in the pause", pause_began, false),
        ("past the point of no return", no_return, true),
    ];
    for (when, moment, must_succeed) in moments {
        let from = serving(&rig).await;
        let sink = EventSink::new();
        let mut events = sink.subscribe();
        let chain = Chain::new(&rig.world, &rig.journal, sink, rig.stop.clone());
        let switch = async {
            match from {
                Side::Source => chain.switchover().await,
                Side::Target => chain.rollback().await,
            }
        };
        let crash = async {
            assert!(event(&mut events, moment).await);
            rig.lab.pooler().kill9().await.unwrap();
            rig.lab.pooler().restart().await.unwrap();
        };
        let (outcome, ()) = tokio::time::timeout(LONG, async { tokio::join!(switch, crash) }).await.unwrap();
        let expected = match outcome.unwrap() {
            Outcome::Done => from.other(),
            Outcome::Unwound { .. } if !must_succeed => from,
            other => panic!("killed {when}: {other:#?}"),
        };
        assert_eq!(serving(&rig).await, expected, "killed {when}");
    }
    end(assert_nothing_lost(rig).await).await;
}
