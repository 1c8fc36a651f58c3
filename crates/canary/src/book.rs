//! The ledger while it is being kept: in memory always, in a file when one is wanted.
//!
//! A line is handed to the operating system before the client goes on, so it survives `kill -9` of this process. It does
//! not survive the machine: the judge of a machine that lost power has to run on another one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::CanaryError;
use crate::ledger::{ClientLedger, Ledger, Line};
use crate::report::SCHEMA_VERSION;

/// The ledgers of all clients of a run.
pub(crate) struct Book(Mutex<Pages>);

struct Pages {
    clients: Vec<ClientLedger>,
    ended: Vec<bool>,
    file: Option<File>,
    file_error: Option<String>,
}

impl Book {
    pub(crate) fn open(
        run: &str,
        label: &str,
        clients: &[String],
        path: Option<&PathBuf>,
    ) -> Result<Self, CanaryError> {
        let mut pages = Pages {
            clients: clients.iter().cloned().map(ClientLedger::new).collect(),
            ended: vec![false; clients.len()],
            file: path.map(|path| append_to(path)).transpose()?,
            file_error: None,
        };
        pages.write(&Line::Run {
            schema: SCHEMA_VERSION,
            run: run.to_owned(),
            label: label.to_owned(),
            clients: clients.to_vec(),
        });
        Ok(Self(Mutex::new(pages)))
    }

    /// Returns the number of the client's next transaction and the last one that was acknowledged to it.
    pub(crate) fn position(&self, client: usize) -> (i64, i64) {
        let pages = self.pages();
        let ledger = &pages.clients[client];
        (ledger.next(), ledger.acknowledged.last().unwrap_or(0))
    }

    pub(crate) fn acknowledged(&self, client: usize, seq: i64) {
        let mut pages = self.pages();
        let name = pages.clients[client].client.clone();
        pages.write(&Line::Acknowledged { client: name, acknowledged: seq });
        pages.clients[client].acknowledged.insert(seq);
    }

    pub(crate) fn unknown(&self, client: usize, seq: i64) {
        let mut pages = self.pages();
        let name = pages.clients[client].client.clone();
        pages.write(&Line::Unknown { client: name, unknown: seq });
        pages.clients[client].unknown.insert(seq);
    }

    /// Notes that the client has nothing in flight and begins nothing more.
    pub(crate) fn ended(&self, client: usize) {
        let mut pages = self.pages();
        let name = pages.clients[client].client.clone();
        pages.write(&Line::Ended { client: name, ended: true });
        pages.ended[client] = true;
    }

    /// Returns the ledger and, if the file could not be kept to the end, why.
    ///
    /// What a client that did not end properly had in flight is unknown, as it is to a reader of the file.
    pub(crate) fn close(&self) -> (Ledger, Option<String>) {
        let pages = self.pages();
        let mut clients = pages.clients.clone();
        for (client, _) in clients.iter_mut().zip(&pages.ended).filter(|(_, ended)| !**ended) {
            let in_flight = client.next();
            client.unknown.insert(in_flight);
        }
        (Ledger { clients }, pages.file_error.clone())
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // Each change is complete before the lock is let go, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// Writes one line in one call; after the first failure the file is left alone, and the report says so.
    fn write(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            file.write_all(&text)
        });
        if let Err(error) = written {
            self.file = None;
            self.file_error = Some(error.to_string());
        }
    }
}

fn append_to(path: &Path) -> Result<File, CanaryError> {
    let open = || {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A canary was killed while it wrote here: its torn line must not swallow our first one.
                file.write_all(b"\n")?;
            }
        }
        Ok(file)
    };
    open().map_err(|source| CanaryError::LedgerFile { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_as_the_ledger_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let clients = ["r-0".to_owned(), "r-1".to_owned()];
        let book = Book::open("r", "orders", &clients, Some(&path)).unwrap();
        for seq in [1, 2, 4] {
            book.acknowledged(0, seq);
        }
        book.unknown(0, 3);
        (0..2).for_each(|client| book.ended(client));
        let (ledger, error) = book.close();
        assert_eq!(error, None);
        assert_eq!(Ledger::load(&path).unwrap(), ledger);
        assert_eq!(book.position(0), (5, 4));
    }

    #[test]
    fn a_run_appended_after_a_torn_line_begins_on_its_own_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        Book::open("a", "", &["a-0".to_owned()], Some(&path)).unwrap().acknowledged(0, 1);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        Book::open("b", "", &["b-0".to_owned()], Some(&path)).unwrap().acknowledged(0, 1);
        let ledger = Ledger::load(&path).unwrap();
        assert_eq!(ledger.clients.len(), 2);
        assert!(ledger.clients[0].acknowledged.is_empty(), "its only line was torn");
        assert!(ledger.clients[0].unknown.contains(1));
        assert_eq!(ledger.clients[1].acknowledged.len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_and_memory_goes_on() {
        let full = PathBuf::from("/dev/full");
        if !full.exists() {
            return;
        }
        let book = Book::open("r", "", &["r-0".to_owned()], Some(&full)).unwrap();
        book.acknowledged(0, 1);
        let (ledger, error) = book.close();
        assert_eq!(ledger.acknowledged(), 1);
        assert!(error.is_some());
    }
}
