//! Sequences across switchovers: no value is handed out twice, and positions are equal where nobody draws.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use pgleap_lab::Lab;
use tokio::task::JoinHandle;
use tokio_postgres::{Config, SimpleQueryMessage};

use crate::{
    bed::{Bed, ask, client, end, guard, small, until},
    rig::assert_done,
};

/// Beside the laboratory's own: descending, cycling, never_called, by_tens (owned by nothing), and those of columns.
const MORE: &str = r#"
    CREATE SEQUENCE cached CACHE 50;
    CREATE SEQUENCE "Down, by tens" INCREMENT -10 START 1000 MAXVALUE 1000 MINVALUE -9223372036854775808;
    CREATE SEQUENCE small AS smallint START -5 MINVALUE -100;
    CREATE SEQUENCE exhausted MAXVALUE 3;
    SELECT nextval('exhausted'), nextval('exhausted'), nextval('exhausted');
    CREATE SEQUENCE set_by_hand; SELECT setval('set_by_hand', 77, false);
    CREATE TABLE owner (id serial PRIMARY KEY)"#;

/// Those that never repeat a value by themselves; the cycling one is drawn from too.
const UNIQUE: [&str; 6] =
    ["descending", "by_tens", "cached", r#""Down, by tens""#, "owner_id_seq", "everything_id_seq"];

const POSITIONS: &str = "
    SELECT string_agg(format('SELECT %L || '' '' || last_value || '' '' || is_called FROM %s', oid::regclass, oid::regclass),
                      ' UNION ALL ' ORDER BY relname)
      FROM pg_class WHERE relkind = 'S'";

async fn positions(lab: &Lab, port: u16) -> Vec<String> {
    let config = lab.directly(port, "shop");
    let sql = ask(&config, POSITIONS).await.remove(0);
    ask(&config, &sql).await
}

/// Draws from every sequence, through the pooler, until it is told to stop; panics at a value that was there before.
struct Drawer {
    stop: Arc<AtomicBool>,
    drawn: Arc<AtomicU64>,
    task: JoinHandle<Vec<HashSet<i64>>>,
}

impl Drawer {
    fn start(config: Config, mut seen: Vec<HashSet<i64>>) -> Self {
        let (stop, drawn) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let calls: Vec<_> = UNIQUE.iter().map(|name| format!("nextval('{name}')")).collect();
        let sql = format!("SELECT {}, nextval('cycling')", calls.join(", "));
        let (stopped, count) = (stop.clone(), drawn.clone());
        let task = tokio::spawn(async move {
            let client = client(&config).await;
            while !stopped.load(Ordering::Relaxed) {
                let answer = client.simple_query(&sql).await.unwrap();
                let row = answer.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                for (i, name) in UNIQUE.iter().enumerate() {
                    let value: i64 = row.unwrap().get(i).unwrap().parse().unwrap();
                    assert!(seen[i].insert(value), "sequence {name} gave {value} twice");
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            seen
        });
        Self { stop, drawn, task }
    }

    /// Waits until it has drawn more often than the log is ahead of a sequence.
    async fn draw_more(&self) {
        let enough = self.drawn.load(Ordering::Relaxed) + 60;
        until("values to be drawn", async || {
            (self.drawn.load(Ordering::Relaxed) >= enough || self.task.is_finished()).then_some(())
        })
        .await;
    }

    async fn stop(self) -> Vec<HashSet<i64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_of_every_kind_never_repeat_a_value_and_stand_equal_after_a_switchover() {
    let bed = Bed::start(small(15, 18, "seq")).await;
    let _guard = guard(&bed.lab);
    let (source, target) = (bed.lab.source_port, bed.lab.target_port);
    client(&bed.lab.bypassing(source, "shop")).await.batch_execute(MORE).await.unwrap();

    let drawer = Drawer::start(bed.lab.through_pooler("shop"), vec![HashSet::new(); UNIQUE.len()]);
    assert_done(bed.chain().run().await);
    drawer.draw_more().await;
    assert_done(bed.chain().switchover().await);
    drawer.draw_more().await;
    let seen = drawer.stop().await;

    // nobody draws: both sides must stand where the serving one stood
    let stood = positions(&bed.lab, target).await;
    assert_done(bed.chain().rollback().await);
    assert_eq!(positions(&bed.lab, source).await, stood);
    for expected in ["never_called 1000 false", "exhausted 3 true", "set_by_hand 77 false", "small -5 false"] {
        assert!(stood.contains(&expected.to_owned()), "{expected} is not among {stood:#?}");
    }

    let drawer = Drawer::start(bed.lab.through_pooler("shop"), seen);
    drawer.draw_more().await;
    assert_done(bed.chain().switchover().await);
    drawer.draw_more().await;
    drawer.stop().await;
    end(bed.lab).await;
}
