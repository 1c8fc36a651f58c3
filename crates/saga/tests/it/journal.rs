//! The journal file: one writer, any readers, records that stay.

use pgleap_saga::{EngineError, Journal, JournalError, Outcome};

use crate::world::{Act, Rig, prepare};

#[test]
fn a_second_writer_is_told_who_holds_the_journal() {
    let rig = Rig::new();
    let error = Journal::open(rig.journal.path()).err().unwrap();
    assert!(matches!(error, JournalError::Locked { pid } if pid == std::process::id()), "{error}");
    let rig = rig.next_process();
    assert!(!rig.journal.is_read_only());
}

#[test]
fn a_journal_of_a_newer_program_is_refused() {
    let rig = Rig::new();
    rig.journal.set_meta("schema", "2").unwrap();
    let path = rig.journal.path().to_owned();
    drop(rig.journal);
    for error in [Journal::open(&path).err(), Journal::read_only(&path).err()] {
        assert!(matches!(error, Some(JournalError::NewerSchema { found: 2, known: 1 })), "{error:?}");
    }
}

#[test]
fn a_file_that_is_no_journal_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "milk, eggs\n".repeat(100)).unwrap();
    assert!(matches!(Journal::open(&path).err(), Some(JournalError::Open { .. })));
    assert!(matches!(Journal::read_only(&path).err(), Some(JournalError::Open { .. })));
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("milk"));
    let absent = directory.path().join("absent");
    assert!(matches!(Journal::read_only(&absent).err(), Some(JournalError::Open { .. })));
    assert!(!absent.exists());
}

#[tokio::test]
async fn records_are_numbered_and_cannot_be_changed_or_removed() {
    let rig = Rig::new();
    rig.execute(&prepare()).await;
    let records = rig.records();
    assert!(records.windows(2).all(|pair| pair[0].n < pair[1].n));
    assert_eq!(rig.journal.records(records[2].n).unwrap(), records[3..]);
    let other = rusqlite::Connection::open(rig.journal.path()).unwrap();
    assert!(other.execute("UPDATE records SET kind = 'undone'", []).is_err());
    assert!(other.execute("DELETE FROM records", []).is_err());
    assert_eq!(rig.records(), records);
}

#[tokio::test]
async fn notes_are_read_in_the_order_of_the_facts_around_them() {
    let rig = Rig::new();
    rig.world.at("prepare.copy/run", Act::Note("copying")).at("prepare.start_server/run", Act::Note("starting"));
    rig.execute(&prepare()).await;
    let story: Vec<_> =
        rig.records().iter().map(|r| r.body["text"].as_str().unwrap_or(r.kind.as_str()).to_owned()).collect();
    assert_eq!(story[..7], ["plan_opened", "started", "copying", "succeeded", "started", "starting", "succeeded"]);
    let records = rig.records();
    assert_eq!((records[2].plan.as_str(), records[2].step.as_deref()), ("prepare-1", Some("prepare.copy")));
}

#[tokio::test]
async fn a_reader_sees_what_a_writer_adds_and_cannot_write() {
    let rig = Rig::new();
    let reader = Journal::read_only(rig.journal.path()).unwrap();
    assert!(reader.open_plan().unwrap().is_none());
    rig.journal.append_note("", "before").unwrap();
    rig.journal.set_meta("upgrade", "7f3a").unwrap();
    assert_eq!(reader.records(0).unwrap().len(), 1);
    assert_eq!(reader.meta("upgrade").unwrap().as_deref(), Some("7f3a"));
    assert_eq!(reader.meta("nothing").unwrap(), None);
    assert!(matches!(reader.append_note("", "x"), Err(JournalError::ReadOnly)));
    assert!(matches!(reader.set_meta("x", "y"), Err(JournalError::ReadOnly)));
    rig.execute(&prepare()).await;
    assert_eq!(reader.plans().unwrap(), rig.journal.plans().unwrap());
}

#[tokio::test]
async fn a_closed_journal_can_be_read() {
    let rig = Rig::new();
    rig.execute(&prepare()).await;
    let path = rig.journal.path().to_owned();
    drop(rig.journal);
    let state = Journal::read_only(&path).unwrap().plans().unwrap().pop().unwrap();
    assert_eq!(state.outcome, Some(Outcome::Done));
    assert_eq!(state.params, serde_json::json!({}));
}

#[tokio::test]
async fn a_write_that_fails_stops_the_run_and_the_next_one_goes_on() {
    let rig = Rig::new();
    let other = rusqlite::Connection::open(rig.journal.path()).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON records WHEN NEW.step = 'prepare.start_server'
                BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    other.execute_batch(full).unwrap();
    let broken = rig.executor().execute(&prepare(), &rig.world).await;
    assert!(matches!(broken, Err(EngineError::Journal(JournalError::Write(_)))), "{broken:?}");
    // The success of the first step was in the same transaction as the start of the second, so neither is there.
    assert_eq!(rig.facts(), ["plan_opened", "started prepare.copy"]);
    assert_eq!(rig.world.things(), ["prepare.copy"]);

    other.execute_batch("DROP TRIGGER full").unwrap();
    let rig = rig.next_process();
    assert_eq!(rig.execute(&prepare()).await, Outcome::Done);
    assert_eq!(rig.world.calls().iter().filter(|call| *call == "prepare.copy/run").count(), 1);
}
