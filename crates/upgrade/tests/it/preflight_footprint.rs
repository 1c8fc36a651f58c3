//! What a check does to the source that it looks at: nothing, whoever is at work there and however much is in it.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions may fail the test too")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pgleap_local::{Auth, KillOnDrop};
use pgleap_upgrade::preflight::{Report, Severity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::preflight::{Bed, GOOD_TABLES, Wishes, assert_says, ids, poolers};

/// Every lock of pgleap's sessions but that of a transaction on itself, and that of every login on its database.
const LOCKS: &str = "
    SELECT DISTINCT l.locktype, l.mode, l.granted FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
     WHERE a.application_name LIKE 'pgleap%' AND l.locktype <> 'virtualxid'
       AND NOT (l.locktype = 'object' AND l.classid = 'pg_database'::regclass)";

/// A source of two databases with tables of every kind, and its pooler.
async fn bed(major: u16) -> Option<(Bed, KillOnDrop, Wishes)> {
    let bin = poolers().into_iter().next()?;
    let bed = Bed::start(major, Auth::Trust).await?;
    bed.run("postgres", &["CREATE DATABASE app"]).await;
    bed.run("app", GOOD_TABLES).await;
    let spec = bed.pooler(bin, "pool");
    let pooler = KillOnDrop(spec.start().await.unwrap());
    let wishes = bed.wishes(&spec);
    Some((bed, pooler, wishes))
}

/// Checks, and looks at the locks of it all the while.
async fn watched(bed: &Bed, wishes: &Wishes) -> (Report, BTreeSet<(String, String, bool)>) {
    let over = Arc::new(AtomicBool::new(false));
    let watcher = bed.client("app").await;
    let watching = tokio::spawn({
        let over = over.clone();
        async move {
            let mut locks = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let rows = watcher.query(LOCKS, &[]).await.unwrap();
                locks.extend(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            locks
        }
    });
    let report = wishes.check().await;
    over.store(true, Ordering::Relaxed);
    (report, watching.await.unwrap())
}

/// Counts the statements that pgleap's sessions sent since the log had `from` bytes.
fn sent(bed: &Bed, from: usize) -> Vec<String> {
    let log = std::fs::read(&bed.server.log).unwrap();
    let log = String::from_utf8_lossy(&log[from..]).into_owned();
    // the statement that the session itself began with, and the rest of a long one, are no lines of their own
    log.lines().filter(|line| line.contains("|pgleap") && line.contains("execute")).map(str::to_owned).collect()
}

#[tokio::test]
async fn check_takes_no_lock_that_is_in_anybodys_way_and_sends_as_many_statements_for_many_tables_as_for_few() {
    let Some((bed, _pooler, wishes)) = bed(15).await else { return };
    bed.run(
        "postgres",
        &[
            "ALTER SYSTEM SET log_statement = 'all'",
            "ALTER SYSTEM SET log_line_prefix = '|%a|'",
            "SELECT pg_reload_conf()",
        ],
    )
    .await;
    // whoever changes a table keeps everybody else from it
    let changing = bed.client("app").await;
    changing.batch_execute("BEGIN; ALTER TABLE keyed ADD COLUMN more int").await.unwrap();

    let log = std::fs::metadata(&bed.server.log).unwrap().len();
    let (report, locks) = watched(&bed, &wishes).await;
    let few = sent(&bed, usize::try_from(log).unwrap());
    let unanswered = report.findings.iter().filter(|finding| finding.id == "check.unanswered");
    for finding in unanswered {
        assert!(finding.cause.as_deref().is_some_and(|cause| cause.contains("lock timeout")), "{finding:#?}");
        assert!(finding.remedy.is_some(), "{finding:#?}");
    }
    assert!(!locks.is_empty(), "nothing was seen of the check");
    let taken: BTreeSet<_> = locks.iter().map(|(_, mode, _)| mode.as_str()).collect();
    assert_eq!(taken, BTreeSet::from(["AccessShareLock"]), "{locks:#?}");
    changing.batch_execute("ROLLBACK").await.unwrap();

    bed.run(
        "app",
        &["DO $$ BEGIN FOR n IN 1..300 LOOP EXECUTE format('CREATE TABLE many_%s (a int PRIMARY KEY, t text)', n); \
           END LOOP; END $$"],
    )
    .await;
    let log = std::fs::metadata(&bed.server.log).unwrap().len();
    assert!(wishes.check().await.is_clear());
    let many = sent(&bed, usize::try_from(log).unwrap());
    assert!(!few.is_empty());
    assert_eq!(few.len(), many.len(), "{few:#?} {many:#?}");
}

#[tokio::test]
async fn session_that_looks_cannot_write_and_gives_up_behind_a_lock() {
    let Some((bed, _pooler, wishes)) = bed(15).await else { return };
    let world = wishes.world().await;
    let looking = world.source.look("app", Duration::from_secs(10)).await.unwrap();
    bed.run("app", &["CREATE SEQUENCE counted"]).await;
    let writing =
        ["CREATE TABLE written (a int)", "SELECT nextval('public.counted')", "SELECT FROM public.keyed FOR SHARE"];
    for statement in writing {
        let error = looking.batch(statement).await.unwrap_err();
        assert_eq!(error.sqlstate().map(|code| code.code()), Some("25006"), "{statement}: {error:?}");
    }
    let changing = bed.client("app").await;
    changing.batch_execute("BEGIN; LOCK TABLE keyed").await.unwrap();
    let error = looking.query("SELECT pg_relation_size('public.keyed')", &[]).await.unwrap_err();
    assert_eq!(error.sqlstate().map(|code| code.code()), Some("55P03"), "{error:?}");
}

/// Passes connections on to `port`, with answers as `changed` makes them, and stops answering those to a database after so many
/// bytes of the server's.
pub async fn passed_on(
    port: u16,
    database: Arc<Mutex<(&'static str, usize)>>,
    changed: impl Fn(&mut [u8]) + Copy + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let database = database.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                // the first packet names the database
                let mut buffer = vec![0; 8192];
                let read = client.read(&mut buffer).await.unwrap();
                server.write_all(&buffer[..read]).await.unwrap();
                let (name, bytes) = *database.lock().unwrap();
                let meant = String::from_utf8_lossy(&buffer[..read]).contains(&format!("database\0{name}\0"));
                let mut left = if meant { bytes } else { usize::MAX };
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let asking = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    changed(&mut buffer[..read]);
                    let passed = read.min(left);
                    left -= passed;
                    if passed > 0 && to_client.write_all(&buffer[..passed]).await.is_err() {
                        break;
                    }
                }
                asking.abort();
            });
        }
    });
    own
}

#[tokio::test]
async fn server_that_falls_silent_is_one_finding_and_never_taken_for_nothing_found() {
    let Some((bed, _pooler, wishes)) = bed(15).await else { return };
    // it lets pgleap in, and does not answer all that it is asked
    let silent = Arc::new(Mutex::new(("postgres", 1_500)));
    let port = passed_on(bed.port, silent.clone(), |_| {}).await;
    let wishes = Wishes {
        dsn: wishes.dsn.replace(&format!("port={}", bed.port), &format!("port={port}")),
        source: "databases = [\"app\"]".into(),
        ..wishes
    };
    let report = wishes.check().await;
    let cause = "no answer from source database `postgres` within";
    assert_says(&report, "source.silent", Severity::Blocker, &[cause]);

    // its catalogs are small: the first answers would fit into more
    *silent.lock().unwrap() = ("app", 600);
    let report = wishes.check().await;
    let words = ["could not look: no answer from source database `app` within"];
    let unanswered: Vec<_> = report.findings.iter().filter(|finding| finding.id == "check.unanswered").collect();
    assert_eq!(unanswered.len(), 1, "by whatever connection, it is one: {unanswered:#?}");
    assert_says(&report, "check.unanswered", Severity::Blocker, &words);
    assert!(unanswered[0].objects.iter().any(|check| check == "replica_identity"), "{unanswered:#?}");
    assert!(!ids(&report).contains("source.silent"));
}
