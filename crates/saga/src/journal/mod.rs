//! The journal: one SQLite file of numbered records that are never changed, written by one process at a time.
//!
//! Two connections write it. Durable records are synced to disk before the call returns (WAL, `synchronous = FULL`):
//! whatever the executor relies on. Notes, warnings, samples and the failures of attempts that are retried go through
//! a relaxed one: they survive the death of the process, but perhaps not of the machine, and cost no sync, because
//! clients wait for each one that happens inside the write pause. Durable writes carry earlier relaxed ones to disk.
//!
//! Survives: death at any instruction, a full disk (the write fails, the run stops, clients are let go). Does not survive: a filesystem
//! that lies about syncing, or one without shared memory and locks between processes (NFS).

mod lock;
mod read;
mod record;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use lock::WriterLock;
pub(crate) use record::{NewRecord, Recorded};
pub use record::{Record, RecordKind, Sample};

/// Number of the tables' shape; raised when an older program could no longer read them.
const SCHEMA: u32 = 1;
/// Another process (an operator's `sqlite3`, a checkpoint) may hold the file this long.
const BUSY: Duration = Duration::from_secs(5);
/// Pages of write-ahead log after which it is copied into the file: SQLite's own default.
const CHECKPOINT_PAGES: u32 = 1000;

const CREATE_TABLES: &str = "
    CREATE TABLE records (
        n INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, plan TEXT NOT NULL, step TEXT, kind TEXT NOT NULL,
        attempt INTEGER NOT NULL, revision INTEGER, body TEXT NOT NULL) STRICT;
    CREATE INDEX outputs ON records (step, n) WHERE kind IN ('succeeded', 'undone');
    CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'records stay'); END;
    CREATE TRIGGER records_are_not_removed BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'records stay'); END;
    CREATE TABLE samples (
        at_ms INTEGER NOT NULL, plan TEXT NOT NULL, step TEXT, name TEXT NOT NULL, value REAL NOT NULL) STRICT;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;";
const INSERT_RECORD: &str = "
    INSERT INTO records (at_ms, plan, step, kind, attempt, revision, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const INSERT_SAMPLE: &str = "INSERT INTO samples (at_ms, plan, step, name, value) VALUES (?1, ?2, ?3, ?4, ?5)";
const UPSERT_META: &str = "
    INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const SELECT_META: &str = "SELECT value FROM meta WHERE key = ?1";

/// Why the journal could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process writes this journal.
    #[error("process {pid} is already working on this upgrade; watch it, or stop it before starting another")]
    Locked {
        /// The process that holds the lock.
        pid: u32,
    },
    /// The lock file cannot be used.
    #[error("cannot lock the journal by `{}`", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be opened as a journal.
    #[error("cannot open the journal `{}`", path.display())]
    Open {
        /// The journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The new journal's directory entry could not be synced.
    #[error("cannot make the new journal `{}` durable", path.display())]
    Create {
        /// The journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A newer program wrote it.
    #[error(
        "the journal has schema {found}, this program knows up to {known}: use the version of pgleap that wrote it"
    )]
    NewerSchema {
        /// Schema in the file.
        found: u32,
        /// Newest schema known here.
        known: u32,
    },
    /// It was opened to read only.
    #[error("the journal was opened to read, not to write")]
    ReadOnly,
    /// SQLite could not write it. The record does not count here; a process that recovers the journal may find it.
    #[error("cannot write the journal")]
    Write(#[source] rusqlite::Error),
    /// SQLite could not read it.
    #[error("cannot read the journal")]
    Read(#[source] rusqlite::Error),
    /// A record does not say what its kind must say.
    #[error("record {n} of the journal cannot be understood: {what}")]
    Corrupt {
        /// The record's number.
        n: i64,
        /// What is wrong with it.
        what: String,
    },
}

/// An open journal; see the module's head.
pub struct Journal {
    connections: Mutex<Connections>,
    path: PathBuf,
    /// Dropped last: the connections are closed while the file is still ours.
    lock: Option<WriterLock>,
}

struct Connections {
    main: Connection,
    relaxed: Option<Connection>,
}

impl Journal {
    /// Opens the journal to write, and creates it if there is none.
    ///
    /// # Errors
    /// [`JournalError::Locked`] while another process has it open to write; [`JournalError::NewerSchema`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref();
        let lock = WriterLock::take(path)?;
        let failed = |source| JournalError::Open { path: path.into(), source };
        let is_new = !path.exists();
        let mut main = Connection::open(path).map_err(failed)?;
        configure(&main, "FULL").map_err(failed)?;
        match schema(&main).map_err(failed)? {
            None => create_tables(&mut main).map_err(failed)?,
            Some(found) if found > SCHEMA => return Err(JournalError::NewerSchema { found, known: SCHEMA }),
            Some(_) => {}
        }
        if is_new {
            // SQLite syncs the file and the directory entry of its log, not that of the file itself.
            let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = File::open(directory).and_then(|d| d.sync_all());
            synced.map_err(|source| JournalError::Create { path: path.into(), source })?;
        }
        let relaxed = Connection::open(path).map_err(failed)?;
        configure(&relaxed, "NORMAL").map_err(failed)?;
        // Only the relaxed connection copies the log into the file, and not while clients wait.
        main.pragma_update(None, "wal_autocheckpoint", 0).map_err(failed)?;
        let connections = Mutex::new(Connections { main, relaxed: Some(relaxed) });
        Ok(Self { connections, path: path.into(), lock: Some(lock) })
    }

    /// Opens an existing journal to read, also while another process writes it.
    ///
    /// # Errors
    /// [`JournalError::Open`] if there is none; [`JournalError::NewerSchema`].
    pub fn read_only(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref();
        let failed = |source| JournalError::Open { path: path.into(), source };
        let main = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
        main.busy_timeout(BUSY).map_err(failed)?;
        match schema(&main).map_err(failed)? {
            // Its writer is just creating it, or it is something else.
            None => return Err(failed(rusqlite::Error::InvalidQuery)),
            Some(found) if found > SCHEMA => return Err(JournalError::NewerSchema { found, known: SCHEMA }),
            Some(_) => {}
        }
        let connections = Mutex::new(Connections { main, relaxed: None });
        Ok(Self { connections, path: path.into(), lock: None })
    }

    /// Returns the file it is in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether it was opened by [`Journal::read_only`].
    pub fn is_read_only(&self) -> bool {
        self.lock.is_none()
    }

    /// Returns a value kept beside the records.
    ///
    /// # Errors
    /// [`JournalError::Read`].
    pub fn meta(&self, key: &str) -> Result<Option<String>, JournalError> {
        let held = self.held();
        held.main.query_row(SELECT_META, [key], |row| row.get(0)).optional().map_err(JournalError::Read)
    }

    /// Keeps a value beside the records, durably.
    ///
    /// # Errors
    /// [`JournalError::ReadOnly`], [`JournalError::Write`].
    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), JournalError> {
        let held = self.writable()?;
        held.main.execute(UPSERT_META, [key, value]).map_err(JournalError::Write)?;
        Ok(())
    }

    /// Adds a line to the story of a plan, or of none (`""`), with relaxed durability.
    ///
    /// # Errors
    /// [`JournalError::ReadOnly`], [`JournalError::Write`].
    pub fn append_note(&self, plan: &str, text: &str) -> Result<(), JournalError> {
        self.append_relaxed(&NewRecord::new(plan, RecordKind::Note, serde_json::json!({ "text": text })))
    }

    /// Records somebody's word that something may begin, durably.
    ///
    /// # Errors
    /// [`JournalError::ReadOnly`], [`JournalError::Write`].
    pub fn record_approval(&self, body: serde_json::Value) -> Result<(), JournalError> {
        self.append(&[NewRecord::new("", RecordKind::Approved, body)]).map(drop)
    }

    /// Writes the records in one transaction, all or none, and syncs them once.
    pub(crate) fn append(&self, records: &[NewRecord]) -> Result<Vec<Record>, JournalError> {
        let mut held = self.writable()?;
        insert(&mut held.main, records).map_err(JournalError::Write)
    }

    /// Writes the records in one transaction, all or none, without syncing them.
    pub(crate) fn append_all_relaxed(&self, records: &[NewRecord]) -> Result<Vec<Record>, JournalError> {
        let mut held = self.writable()?;
        let relaxed = held.relaxed.as_mut().ok_or(JournalError::ReadOnly)?;
        insert(relaxed, records).map_err(JournalError::Write)
    }

    pub(crate) fn append_relaxed(&self, record: &NewRecord) -> Result<(), JournalError> {
        self.append_all_relaxed(std::slice::from_ref(record)).map(drop)
    }

    pub(crate) fn append_sample(
        &self,
        plan: &str,
        step: Option<&str>,
        name: &str,
        value: f64,
    ) -> Result<(), JournalError> {
        let held = self.writable()?;
        let relaxed = held.relaxed.as_ref().ok_or(JournalError::ReadOnly)?;
        let values = params![Timestamp::now().as_millisecond(), plan, step, name, value];
        relaxed.prepare_cached(INSERT_SAMPLE).and_then(|mut s| s.execute(values)).map_err(JournalError::Write)?;
        Ok(())
    }

    /// Keeps the log from being copied into the file, which syncs twice, while clients wait.
    pub(crate) fn hold_checkpoints(&self, hold: bool) -> Result<(), JournalError> {
        let held = self.writable()?;
        let relaxed = held.relaxed.as_ref().ok_or(JournalError::ReadOnly)?;
        let pages = if hold { 0 } else { CHECKPOINT_PAGES };
        relaxed.pragma_update(None, "wal_autocheckpoint", pages).map_err(JournalError::Write)
    }

    fn writable(&self) -> Result<MutexGuard<'_, Connections>, JournalError> {
        match self.is_read_only() {
            true => Err(JournalError::ReadOnly),
            false => Ok(self.held()),
        }
    }

    /// Both connections under one mutex: a wait here is shorter than SQLite's own, which sleeps whole milliseconds.
    fn held(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn configure(connection: &Connection, synchronous: &str) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| {
        match row.get::<_, String>(0)?.as_str() {
            "wal" => Ok(()),
            // Reported by SQLite where the filesystem has no shared memory: durability and readers would both be lost.
            _ => Err(rusqlite::Error::InvalidParameterName("this filesystem does not take write-ahead logging".into())),
        }
    })?;
    connection.pragma_update(None, "synchronous", synchronous)
}

fn schema(connection: &Connection) -> rusqlite::Result<Option<u32>> {
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'meta'";
    if connection.query_row(tables, [], |row| row.get::<_, u32>(0))? == 0 {
        return Ok(None);
    }
    let found: String = connection.query_row(SELECT_META, ["schema"], |row| row.get(0))?;
    found.parse().map(Some).map_err(|_| rusqlite::Error::InvalidParameterName(format!("schema `{found}`")))
}

fn create_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(CREATE_TABLES)?;
    transaction.execute(UPSERT_META, ["schema", &SCHEMA.to_string()])?;
    transaction.commit()
}

fn insert(connection: &mut Connection, records: &[NewRecord]) -> rusqlite::Result<Vec<Record>> {
    // Immediate: the write lock is waited for by busy_timeout, and not refused half way.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut written = Vec::with_capacity(records.len());
    {
        let mut statement = transaction.prepare_cached(INSERT_RECORD)?;
        for record in records {
            let at = Timestamp::now();
            let NewRecord { plan, step, kind, attempt, revision, body } = record;
            let values = params![at.as_millisecond(), plan, step, kind.as_str(), attempt, revision, body.to_string()];
            let n = statement.insert(values)?;
            written.push(record.numbered(n, at));
        }
    }
    transaction.commit()?;
    Ok(written)
}
