//! Pools in session mode: no client leaves by itself, so either the switchover is called off, or each connection is cut once.

use std::time::Duration;

use pgleap_lab::Lab;
use pgleap_saga::EventSink;
use pgleap_upgrade::{
    Chain, Config, Standing, World,
    guard::Launch,
    pg::Side,
    rehearse::{Rehearse, rehearse},
    world::Cx,
};

use crate::{
    bed::{assert_standing, assert_unwound, end, guard, small},
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 4, rate: 60.0, application: 1 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_pools_are_moved_by_cutting_each_connection_once_and_only_when_asked_to() {
    let mut spec = small(15, 18, "sessions");
    spec.pooler_settings = vec![("pool_mode".into(), "session".into()), ("default_pool_size".into(), "40".into())];
    spec.write_pause = "2s".into();
    let lab = Lab::start(spec).await.unwrap();
    let text = lab.config_text();
    let rig = Rig::over(lab, &text, LOAD).await;
    assert_done(rig.chain().run().await);
    let _guard = guard(&rig.lab);

    rig.mark("wait");
    let held = assert_unwound(rig.chain().switchover().await).to_string();
    for expected in ["in session pooling", "a client does not leave", "role `app`"] {
        assert!(held.contains(expected), "missing `{expected}` in: {held}");
    }
    assert_standing(&rig.chain(), Standing::InSync);

    let text = text.replace("[route]\n", "[route]\nclients = \"reconnect\"\n");
    let willing = Config::parse(&text, &rig.lab.spec.dir).unwrap();
    let willing = World::describe(willing, "7f3a".into(), Launch::Task).await.unwrap();
    let cx = Cx::standalone(&willing, &rig.journal);
    let rehearsal = Rehearse { from: Side::Source, pauses: 2, budget: Duration::from_millis(500) };
    let rehearsed = rehearse(&cx, rehearsal).await.unwrap();
    assert_eq!(rehearsed.pauses_ms.len(), 2, "no connection needs to be cut for it: {rehearsed:?}");
    let combinations = 2 * rehearsed.wind_down_ms.len() * rehearsed.carry_ms.len();
    assert!(!rehearsed.wind_down_ms.is_empty(), "how long transactions are let end is told: {rehearsed:?}");
    assert_eq!(rehearsed.predicted.n, combinations, "{rehearsed:?}");
    let chain = Chain::new(&willing, &rig.journal, EventSink::new(), rig.stop.clone());
    rig.mark("there");
    assert_done(chain.switchover().await);
    assert_standing(&chain, Standing::SwitchedOver);
    rig.mark("back");
    assert_done(chain.rollback().await);
    rig.mark("after");

    let port = rig.lab.source_port;
    let (lab, verdict) = rig.verdict(port).await;
    let [(_, audit)] = verdict.audits.as_slice() else { panic!("one database") };
    assert!(audit.is_clean(), "{audit:?}");
    let [(_, report)] = verdict.reports.as_slice() else { panic!("one database") };
    let failed = |name: &str| {
        report.stats.periods.iter().find(|period| period.name == name).map(|period| period.failed_transactions)
    };
    assert_eq!(failed("wait"), Some(0), "what is called off cuts nobody: {:?}", report.stats.failures);
    assert_eq!(failed("after"), Some(0), "{:?}", report.stats.failures);
    let clients = LOAD.clients as u64;
    for cut in ["there", "back"] {
        assert!(failed(cut).is_some_and(|failed| (1..=clients).contains(&failed)), "{cut}: {:?}", report.stats);
    }
    assert_eq!(report.stats.unknown_outcomes, 0, "transactions were let end: {:?}", report.stats.failures);
    end(lab).await;
}
