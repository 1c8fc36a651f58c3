//! kill -9 of a whole server inside the write pause and past the point of no return, under load: before it the source
//! serves as found, after it the switchover is finished; clients never wait for the dead, one side serves, no write is lost.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgleap_local::Server;
use pgleap_saga::{Outcome, RecordKind, fault::Script};
use pgleap_upgrade::pg::Side;

use crate::{
    bed::{LONG, as_found, assert_as_found, end, guard, kill, signal, small},
    rig::{Load, Rig, assert_done},
    survive::{assert_nothing_lost, serves, serving},
};

const LOAD: Load = Load { clients: 3, rate: 60.0, application: 1 };
const WRITE_PAUSE: Duration = Duration::from_secs(3);
/// How long letting clients go may take, on a busy machine.
const LET_GO: Duration = Duration::from_secs(5);

/// What happens to a server, and when.
#[derive(Debug, Clone, Copy)]
struct Death {
    /// The fault point.
    at: &'static str,
    whose: Whose,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Whose {
    /// The side that served.
    From,
    /// The side that is to serve.
    To,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    /// kill -9.
    Killed,
    /// kill -9, and pgleap in the same moment: `resume` is what goes on.
    WithPgleap,
    /// It keeps its connections and does not answer.
    Hangs,
}

fn death(at: &'static str, whose: Whose, how: How) -> Death {
    Death { at, whose, how }
}

async fn in_sync(name: &str) -> Rig {
    let mut spec = small(15, 18, name);
    spec.write_pause = format!("{}s", WRITE_PAUSE.as_secs());
    // how long it goes on refusing clients after a login that failed; 15 s by default
    spec.pooler_settings = vec![("server_login_retry".into(), "1".into())];
    let rig = Rig::start_with(spec, LOAD).await;
    assert_done(rig.chain().run().await);
    rig
}

fn server(rig: &Rig, side: Side) -> (Server, u16) {
    match side {
        Side::Source => (rig.lab.source.clone(), rig.lab.source_port),
        Side::Target => (rig.lab.target().unwrap(), rig.lab.target_port),
    }
}

/// Sees that within the write budget nobody waits at the pooler any more: the dead server is still dead.
async fn assert_let_go(rig: &Rig, since: Instant) {
    loop {
        let entries = rig.world.route.members()[0].entries().await.unwrap();
        if entries.iter().all(|entry| !entry.paused) {
            return;
        }
        let waited = since.elapsed();
        assert!(waited < WRITE_PAUSE + LET_GO, "clients wait for {waited:?} already");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Moves writes to the other side; a server dies on the way, and is started again by its operator.
async fn switch(rig: &Rig, death: Death) -> Outcome {
    let from = serving(rig).await;
    let (old, new) = (server(rig, from), server(rig, from.other()));
    let dead = if death.whose == Whose::From { &old.0 } else { &new.0 };
    let script = Script::hold_at(death.at);
    let chain = rig.chain();
    let switch = async {
        match from {
            Side::Source => chain.switchover().await,
            Side::Target => chain.rollback().await,
        }
    };
    let mut switch = Box::pin(script.run(switch));
    tokio::select! {
        outcome = &mut switch => panic!("{death:?}: it was never there: {outcome:#?}"),
        () = script.held() => {}
    }
    match death.how {
        How::Killed | How::WithPgleap => kill(dead).await,
        How::Hangs => signal(dead, Signal::SIGSTOP),
    }
    let since = Instant::now();
    let operator = async {
        assert_let_go(rig, since).await;
        match death.how {
            How::Killed | How::WithPgleap => dead.start(&[], LONG).await.unwrap(),
            How::Hangs => signal(dead, Signal::SIGCONT),
        }
        // the new side first: had it opened, the old one must have been shut before
        let both = death.whose == Whose::From && serves(&rig.lab, new.1).await && serves(&rig.lab, old.1).await;
        assert!(!both, "{death:?}: both sides serve");
    };
    let finish = async {
        if death.how == How::WithPgleap {
            drop(switch);
            *rig.world.hot.lock().await = None;
            chain.resume().await
        } else {
            script.release();
            switch.await.unwrap()
        }
    };
    let (outcome, ()) = tokio::join!(finish, operator);
    outcome.unwrap()
}

async fn bounded(rig: &Rig, death: Death) -> Outcome {
    let began = Instant::now();
    let outcome = tokio::time::timeout(LONG, switch(rig, death)).await;
    eprintln!("{death:?}: {:.1} s", began.elapsed().as_secs_f64());
    outcome.unwrap_or_else(|_| panic!("{death:?}: it does not end"))
}

fn was_warned(rig: &Rig, words: &str) -> bool {
    let records = rig.journal.records(0).unwrap();
    let warnings = records.iter().filter(|record| record.kind == RecordKind::Warning);
    warnings.filter_map(|record| record.body["text"].as_str()).any(|text| text.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_lost_in_the_write_pause_leaves_the_source_serving_as_found_and_the_next_switchover_works() {
    use How::{Hangs, Killed, WithPgleap};
    use Whose::{From, To};
    let rig = in_sync("pause9").await;
    let _guard = guard(&rig.lab);
    let before = as_found(&rig.lab).await;
    let lost = "lost in the write pause";
    for (death, words) in [
        (death("switchover.pause_pools.after_pause", From, Killed), lost),
        (death("switchover.fence.after_run", From, WithPgleap), "interrupted inside `write pause`"),
        (death("switchover.carry_over.after_arrival", From, Killed), lost),
        (death("switchover.carry_over.after_arrival", From, Hangs), "ran over its budget"),
        (death("switchover.carry_over.after_arrival", To, WithPgleap), "interrupted inside `write pause`"),
        (death("switchover.carry_over.after_run", To, Killed), "the target was lost in the write pause"),
    ] {
        let cause = match bounded(&rig, death).await {
            Outcome::Unwound { cause } => cause.to_string(),
            other => panic!("{death:?}: {other:#?}"),
        };
        assert!(cause.contains(words), "{death:?}: {cause}");
        assert_eq!(serving(&rig).await, Side::Source, "{death:?}");
        assert_as_found(&before, &as_found(&rig.lab).await);
    }
    assert!(was_warned(&rig, "the source does not let clients in: they are refused"), "nobody was told");
    assert_done(rig.chain().switchover().await);
    end(assert_nothing_lost(rig).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_lost_past_the_point_of_no_return_is_waited_for_and_the_switchover_is_finished() {
    use How::{Killed, WithPgleap};
    use Whose::{From, To};
    let rig = in_sync("past9").await;
    let _guard = guard(&rig.lab);
    for death in [
        death("switchover.move_clients.after_point_of_no_return", To, Killed),
        death("switchover.turn_replication.between", From, Killed),
        death("switchover.move_clients.after_point_of_no_return", From, Killed),
        death("switchover.move_clients.after_decision", To, WithPgleap),
        death("switchover.turn_replication.between", From, WithPgleap),
        death("switchover.turn_replication.between", To, Killed),
    ] {
        let from = serving(&rig).await;
        let outcome = bounded(&rig, death).await;
        assert_eq!(outcome, Outcome::Done, "{death:?}");
        assert_eq!(serving(&rig).await, from.other(), "{death:?}");
    }
    // a guard whose lease is over has let them go by itself, and told so
    let lapsed = rig.world.route.members()[0].status().await.unwrap().lapsed;
    let told = was_warned(&rig, "the target does not let clients in: they are refused");
    assert!(told || lapsed > 0, "nobody was told");
    end(assert_nothing_lost(rig).await).await;
}
