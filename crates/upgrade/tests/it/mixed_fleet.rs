//! Every PgBouncer of this machine in one fleet: what differs between their versions, no client sees.

use pgleap_lab::Lab;
use pgleap_local::{PoolerSpec, free_port};

use crate::{
    bed::{ask, end, guard, small},
    matrix::can_be_had,
    preflight::poolers,
    rig::{Load, Rig, assert_done},
};

const LOAD: Load = Load { clients: 3, rate: 40.0, application: 2 };

/// Returns how clients of `database` come: each database's by a pooler of their own.
fn way(lab: &Lab, database: &str) -> tokio_postgres::Config {
    let number = lab.spec.databases.iter().position(|name| name == database).unwrap();
    Lab::through(&lab.poolers[number], database)
}

/// Sees that each lets somebody new in, at this server.
async fn assert_lead_to(lab: &Lab, port: u16) {
    for (pooler, database) in lab.poolers.iter().zip(&lab.spec.databases) {
        let through = ask(&Lab::through(pooler, database), "SELECT current_setting('port')").await;
        assert_eq!(through, [port.to_string()], "{}", pooler.spec.bin.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poolers_of_every_version_are_led_there_and_back_together() {
    let programs = poolers();
    // 1.26 lets nobody new in after the way back to a server older than 16
    if programs.is_empty() || !can_be_had(17) {
        return;
    }
    let mut spec = small(17, 18, "mixed");
    spec.databases = (0..programs.len()).map(|n| format!("shop{n}")).collect();
    spec.write_pause = "5s".into();
    let mut lab = Lab::start_servers(spec).await.unwrap();
    for (number, bin) in programs.into_iter().enumerate() {
        let spec = PoolerSpec { bin, ..lab.pooler_spec(number, free_port().unwrap()) };
        lab.poolers.push(spec.start().await.unwrap());
    }
    let config = lab.config_text();
    let _guard = guard(&lab);
    let rig = Rig::over_by(lab, &config, LOAD, way).await;
    let (source, target) = (rig.lab.source_port, rig.lab.target_port);
    assert_done(rig.chain().run().await);
    assert_done(rig.chain().switchover().await);
    assert_lead_to(&rig.lab, target).await;
    assert_done(rig.chain().rollback().await);
    assert_lead_to(&rig.lab, source).await;
    let (lab, verdict) = rig.verdict(source).await;
    verdict.assert_clean();
    end(lab).await;
}
