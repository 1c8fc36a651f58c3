//! The canary's own process is killed: the ledger file has to tell the truth without it.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgleap_canary::{Canary, Ledger, audit};

use crate::bed::{Bed, DEADLINE};

/// Port and ledger path, for the process that is going to be killed.
const ORDER: &str = "PGLEAP_CANARY_TEST_ORDER";

/// Ends the process also when the test fails before it does.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_file_of_a_killed_canary_audits_clean() {
    let bed = Bed::new().await;
    let ledger = bed.path("ledger");
    for kills in 1..=3 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::runs_until_it_is_killed", "--ignored"])
            .env(ORDER, format!("{} {}", bed.port, ledger.display()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut victim = Victim(child);
        let length = || std::fs::metadata(&ledger).map_or(0, |file| file.len());
        let (begun, at_first) = (Instant::now(), length());
        while length() < at_first + 20_000 {
            assert!(begun.elapsed() < DEADLINE, "the canary does not write its ledger");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        victim.0.kill().unwrap();
        victim.0.wait().unwrap();
        // As if the kill had come while a line was being written.
        OpenOptions::new().append(true).open(&ledger).unwrap().write_all(br#"{"client":"0123-0","ackno"#).unwrap();

        let ledger = Ledger::load(&ledger).unwrap();
        assert_eq!(ledger.clients.len(), kills * 4, "each run is there");
        assert_eq!(ledger.unknown(), kills as u64 * 4, "each client of each run had one in flight");
        wait_until_idle(&bed).await;
        let audit = audit(&bed.direct(), &ledger).await.unwrap();
        assert!(audit.is_clean(), "{audit}");
        assert!(audit.present_once == ledger.acknowledged() && audit.acknowledged > 100, "{audit}");
    }
}

/// A backend finishes the COMMIT that it was sent, although its client is dead.
async fn wait_until_idle(bed: &Bed) {
    let admin = bed.admin().await;
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgleap-canary'";
    while crate::bed::value(&admin, busy).await != "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Not a test: the process that the test above kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the test above"]
async fn runs_until_it_is_killed() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (port, path) = order.split_once(' ').unwrap();
    let mut connect = tokio_postgres::Config::new();
    connect.host("127.0.0.1").port(port.parse().unwrap()).user("postgres").dbname("postgres");
    let config = pgleap_canary::CanaryConfig {
        connect,
        clients: 4,
        rate: None,
        ledger: Some(path.into()),
        transaction_timeout: Duration::from_secs(10),
        label: "victim".to_owned(),
    };
    let _canary = Canary::start(config).await.unwrap();
    tokio::time::sleep(DEADLINE).await;
}
