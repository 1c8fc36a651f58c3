//! A journal that fails while clients wait: they are let go, unless the point of no return may be recorded.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use pgleap_saga::{EngineError, EventKind, Journal, Outcome, Plan, Release, StepError};
use rusqlite::Connection;
use tokio::time::Instant;

use crate::world::{Act, Rig, World, blocked, fatal, switchover, transient};

const BEFORE_THE_PAUSE: [&str; 2] = ["prepare.copy", "prepare.start_server"];
const PAUSE: &str = "switchover.pause";
const FENCE: &str = "switchover.fence";

/// Lets every write fail of a record that the condition knows, until [`empty`].
fn fill(journal: &Path, condition: &str) {
    let full = "BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    alter(journal, &format!("CREATE TRIGGER full BEFORE INSERT ON records WHEN {condition} {full}"));
}

fn fill_at(rig: &Rig, kind: &str, step: &str) {
    fill(rig.journal.path(), &format!("NEW.kind = '{kind}' AND NEW.step = '{step}'"));
}

fn empty(rig: &Rig) {
    alter(rig.journal.path(), "DROP TRIGGER full");
}

fn alter(journal: &Path, sql: &str) {
    Connection::open(journal).unwrap().execute_batch(sql).unwrap();
}

async fn lose(rig: &Rig, plan: &Plan<World>) -> (Release, String) {
    match rig.executor().execute(plan, &rig.world).await {
        Err(error @ EngineError::JournalInSection { .. }) => {
            let words = error.to_string();
            let EngineError::JournalInSection { release, section, .. } = error else { unreachable!() };
            assert_eq!(section, "write pause");
            (release, words)
        }
        other => panic!("{other:?}"),
    }
}

fn whole(undone: &[&str]) -> Release {
    Release::Whole { undone: undone.iter().map(ToString::to_string).collect() }
}

fn log_of(journal: &Path) -> PathBuf {
    let mut log = journal.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Copies a journal that is in use, as a process that recovers it after a crash would find it.
fn copy(journal: &Path, name: &str) -> PathBuf {
    let copy = journal.with_file_name(name);
    fs::copy(journal, &copy).unwrap();
    fs::copy(log_of(journal), log_of(&copy)).unwrap();
    copy
}

#[tokio::test(start_paused = true)]
async fn clients_are_let_go_at_whichever_record_of_the_section_the_journal_fails() {
    let records: [(&str, &str, &[&str]); 3] = [
        // each `started` carries the success of the step before it, which has run
        ("started", FENCE, &[PAUSE]),
        ("started", "switchover.open", &[FENCE, PAUSE]),
        ("point_of_no_return", "switchover.open", &[FENCE, PAUSE]),
    ];
    for (kind, step, undone) in records {
        let rig = Rig::new();
        fill_at(&rig, kind, step);
        let (release, words) = lose(&rig, &switchover()).await;
        assert_eq!(release, whole(undone), "{kind} {step}");
        assert_eq!(rig.world.things(), BEFORE_THE_PAUSE, "{kind} {step}: only the section is taken back");
        assert!(words.ends_with("`switchover.pause` taken back, so that nobody waits"), "{words}");
        let warned = |event: &EventKind| matches!(event, EventKind::Warned { text } if text.contains("does not know"));
        assert_eq!(rig.events().iter().filter(|event| warned(event)).count(), undone.len());
        assert!(!rig.facts().iter().any(|fact| fact.starts_with("undo")), "what is not recorded is not recorded");

        empty(&rig);
        let rig = rig.next_process();
        let Outcome::Unwound { cause } = rig.execute(&switchover()).await else { panic!("{kind} {step}") };
        assert_eq!(cause.message, "interrupted inside `write pause`");
        assert!(rig.world.is_empty() && rig.state().open_section().is_none(), "{kind} {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_section_that_could_not_begin_holds_nobody() {
    let rig = Rig::new();
    fill_at(&rig, "started", PAUSE);
    let broken = rig.executor().execute(&switchover(), &rig.world).await;
    assert!(matches!(broken, Err(EngineError::Journal(_))), "{broken:?}");
    assert_eq!(rig.world.things(), BEFORE_THE_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn failures_and_undos_that_cannot_be_recorded_let_clients_go_too() {
    for (kind, step, call, act) in [
        ("failed", FENCE, "switchover.fence/run", transient as fn() -> Act),
        ("failed", FENCE, "switchover.fence/made", fatal),
        ("undo_started", FENCE, "switchover.fence/made", fatal),
        ("undo_started", PAUSE, "switchover.fence/made", fatal),
        ("undone", PAUSE, "switchover.fence/made", fatal),
    ] {
        let rig = Rig::new();
        rig.world.at(call, act());
        fill_at(&rig, kind, step);
        let (release, _) = lose(&rig, &switchover()).await;
        assert!(matches!(release, Release::Whole { .. }), "{kind} {step}: {release:?}");
        assert_eq!(rig.world.things(), BEFORE_THE_PAUSE, "{kind} {step}");
        empty(&rig);
        let rig = rig.next_process();
        assert!(matches!(rig.execute(&switchover()).await, Outcome::Unwound { .. }));
        assert!(rig.world.is_empty(), "{kind} {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn past_the_point_of_no_return_nothing_is_taken_back() {
    let rig = Rig::new();
    fill_at(&rig, "started", "switchover.resume");
    let broken = rig.executor().execute(&switchover(), &rig.world).await;
    assert!(matches!(broken, Err(EngineError::Journal(_))), "{broken:?}");
    assert_eq!(rig.world.things().len(), 5);
    empty(&rig);
    let rig = rig.next_process();
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
    assert!(!rig.world.calls().iter().any(|call| call.ends_with("/undo")));
}

/// Adds to the journal's log what a commit leaves there whose last sync failed: this process does not see it.
fn leave_in_the_log(journal: &Path) {
    let other = copy(journal, "other");
    let writer = Connection::open(&other).unwrap();
    writer.execute_batch("DROP TRIGGER full").unwrap();
    writer
        .execute(
            "INSERT INTO records (at_ms, plan, step, kind, attempt, revision, body)
             VALUES (0, 'switchover-1', 'switchover.open', 'point_of_no_return', 1, 1, '{}')",
            [],
        )
        .unwrap();
    let (log, longer) = (fs::read(log_of(journal)).unwrap(), fs::read(log_of(&other)).unwrap());
    let added = longer.strip_prefix(&log[..]).unwrap();
    assert!(!added.is_empty());
    OpenOptions::new().append(true).open(log_of(journal)).unwrap().write_all(added).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_point_of_no_return_that_the_next_process_may_find_keeps_everything_where_it_is() {
    let rig = Rig::new();
    fill_at(&rig, "point_of_no_return", "switchover.open");
    let journal = rig.journal.path().to_owned();
    rig.world.at("switchover.open/probe", Act::Do(Box::new(move || leave_in_the_log(&journal))));
    let (release, words) = lose(&rig, &switchover()).await;
    assert_eq!(release, Release::Withheld);
    assert!(words.contains("nothing taken back, as the point of no return may be recorded"), "{words}");
    assert_eq!(rig.world.things(), [&BEFORE_THE_PAUSE[..], &[FENCE, PAUSE]].concat());
    assert!(!rig.state().past_point_of_no_return, "this process does not see it, or the test proves nothing");

    let mut rig = rig;
    rig.journal = Journal::open(copy(rig.journal.path(), "found")).unwrap();
    assert!(rig.state().past_point_of_no_return, "the next process sees it");
    assert_eq!(rig.execute(&switchover()).await, Outcome::Done);
    assert_eq!(rig.world.calls().iter().filter(|call| call.ends_with("/undo")).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_matters_only_if_it_was_given_the_point_of_no_return() {
    for (kind, released) in [("started", true), ("point_of_no_return", false)] {
        let rig = Rig::new();
        fill_at(&rig, kind, "switchover.open");
        let log = log_of(rig.journal.path());
        let aside = log.with_extension("aside");
        let (from, to) = (log.clone(), aside.clone());
        let call = if released { "switchover.fence/made" } else { "switchover.open/probe" };
        rig.world.at(call, Act::Do(Box::new(move || fs::rename(from, to).unwrap())));
        let (release, _) = lose(&rig, &switchover()).await;
        assert_eq!(release == Release::Withheld, !released, "{release:?}");
        assert_eq!(rig.world.things() == BEFORE_THE_PAUSE, released, "{kind}");
        fs::rename(aside, log).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_resumes_with_a_journal_it_cannot_write_lets_clients_go() {
    let rig = Rig::new();
    rig.world.at("switchover.fence/run", Act::Hang);
    let plan = switchover();
    assert!(tokio::time::timeout(Duration::from_secs(1), rig.execute(&plan)).await.is_err(), "as if killed there");
    let rig = rig.next_process();
    fill(rig.journal.path(), "TRUE");
    for _ in 0..2 {
        assert_eq!(lose(&rig, &switchover()).await.0, whole(&[FENCE, PAUSE]));
        assert_eq!(rig.world.things(), BEFORE_THE_PAUSE);
    }
    let cause = StepError::fatal("taken back on request", "none");
    let unwound = rig.executor().unwind(&switchover(), &rig.world, cause.clone()).await;
    assert!(matches!(unwound, Err(EngineError::JournalInSection { .. })), "{unwound:?}");
    empty(&rig);
    let rig = rig.next_process();
    assert!(matches!(rig.executor().unwind(&switchover(), &rig.world, cause).await, Ok(Outcome::Unwound { .. })));
    assert!(rig.world.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_undo_is_retried_and_one_that_refuses_keeps_those_before_it() {
    let rig = Rig::new();
    rig.world.at_first(5, "switchover.fence/undo", transient).at("switchover.pause/undo", blocked());
    fill_at(&rig, "started", "switchover.open");
    let (release, words) = lose(&rig, &switchover()).await;
    let Release::Partial { undone, failure } = release else { panic!("{release:?}") };
    assert_eq!((undone, failure.step.as_str()), (vec![FENCE.to_owned()], PAUSE));
    assert!(words.ends_with("`switchover.fence` taken back, but not `switchover.pause`: the disk is full"), "{words}");
    assert_eq!(rig.world.things(), [&BEFORE_THE_PAUSE[..], &[PAUSE]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_cannot_be_recorded_lets_clients_go_and_cuts_no_undo_short() {
    let rig = Rig::new();
    rig.world.at("switchover.fence/run", Act::Stop(rig.stop.clone()));
    rig.world.at("switchover.fence/undo", Act::Sleep(Duration::from_secs(1)));
    fill(rig.journal.path(), "NEW.kind = 'direction_changed'");
    assert_eq!(lose(&rig, &switchover()).await.0, whole(&[FENCE, PAUSE]));
    assert_eq!(rig.world.things(), BEFORE_THE_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_hangs_is_given_up_and_named() {
    for act in [|| Act::Hang, transient as fn() -> Act] {
        let rig = Rig::new();
        rig.world.at_first(1000, "switchover.fence/undo", act);
        fill_at(&rig, "started", "switchover.open");
        let began = Instant::now();
        let (release, _) = lose(&rig, &switchover()).await;
        let waited = began.elapsed();
        assert!(waited > Duration::from_secs(20) && waited < Duration::from_secs(33), "{waited:?}");
        assert!(matches!(&release, Release::Partial { failure, .. } if failure.step == FENCE), "{release:?}");
    }
}
