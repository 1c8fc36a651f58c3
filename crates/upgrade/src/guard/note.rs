//! What a guard must not forget: one file for each pooler with a pause.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pgleap_saga::StepError;
use serde::{Deserialize, Serialize};

use crate::{
    files::{Outlives, replace, swap},
    pgbouncer::{admin::Entry, pooler::Move},
    world::io_failure,
};

/// One pause, and what is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Upgrade and plan, such as `7f3a switchover-1`.
    pub id: String,
    /// The entries that are paused, where they led when they were, and where they lead if that is decided. The first are led at
    /// the decision, others when their clients go on: PgBouncer reads all of a file, and nobody must log in to an entry that
    /// it leads elsewhere and keeps paused.
    pub moves: Vec<Move>,
}

impl Turn {
    /// Returns the turn with those entries of `held` added that it does not name: they wait as well.
    pub fn with_all_of(mut self, held: &Self) -> Self {
        for step in &held.moves {
            let mut left = step.clone();
            left.entries.retain(|entry| !self.moves.iter().any(|step| step.has(&entry.name)));
            match self.moves.iter_mut().find(|known| (&known.old, &known.new) == (&left.old, &left.new)) {
                Some(known) => known.entries.append(&mut left.entries),
                None => self.moves.push(left),
            }
        }
        self
    }

    /// Returns every entry that is paused.
    pub fn entries(&self) -> Vec<Entry> {
        self.moves.iter().flat_map(|step| &step.entries).cloned().collect()
    }
}

/// A pause that is held, as it is written down before PAUSE is sent and before a decision is acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The pause.
    pub turn: Turn,
    /// Until when it is held, by the clock of this host: a guard that was started again reads it.
    pub until: Timestamp,
    /// The new address was decided on.
    pub decided: bool,
    /// Where the pooler was started, if paths in its configuration lead on from there: it may be dead when they are followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_in: Option<PathBuf>,
}

/// Where the note of one pooler is kept.
#[derive(Debug)]
pub struct Notebook {
    path: PathBuf,
    outlives: Outlives,
}

impl Notebook {
    /// Names the file for a pooler in `directory`; a pause that ends with its host needs no note after that.
    pub fn new(directory: &Path, pooler: &str, outlives: Outlives) -> Self {
        let name: String =
            pooler.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
        Self { path: directory.join(format!("pause_{name}.json")), outlives }
    }

    /// Returns the note of a pause that was not ended, if there is one.
    ///
    /// # Errors
    /// Blocked, if it is there and cannot be read.
    pub fn read(&self) -> Result<Option<Note>, StepError> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => match serde_json::from_str(&text) {
                Ok(note) => Ok(Some(note)),
                // a crash of the host tore it, and ended the pause
                Err(error) if self.outlives == Outlives::Process && !error.is_data() => Ok(None),
                Err(error) => Err(io_failure("understand", &self.path, error.into())),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_failure("read", &self.path, error)),
        }
    }

    /// Writes the note.
    ///
    /// # Errors
    /// Blocked.
    pub fn write(&self, note: &Note) -> Result<(), StepError> {
        let text = serde_json::to_string(note).unwrap_or_default();
        match self.outlives {
            Outlives::Process => swap(&self.path, &text, Outlives::Process),
            Outlives::Host => replace(&self.path, &text),
        }
    }

    /// Forgets it. One that comes back after a crash of the host only resumes what is resumed.
    ///
    /// # Errors
    /// Blocked.
    pub fn clear(&self) -> Result<(), StepError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_failure("remove", &self.path, error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_that_a_crash_of_the_host_tore_is_none_where_that_ended_the_pause_and_what_is_no_note_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let notebook = |outlives| Notebook::new(directory.path(), "127.0.0.1:6432", outlives);
        let (notebook, lasting) = (notebook(Outlives::Process), notebook(Outlives::Host));
        let turn = Turn { id: "7f3a switchover-1".into(), moves: Vec::new() };
        let note = Note { turn, until: Timestamp::UNIX_EPOCH, decided: true, started_in: None };
        for notebook in [&notebook, &lasting] {
            notebook.write(&note).unwrap();
            assert_eq!(notebook.read().unwrap(), Some(note.clone()));
        }
        let whole = std::fs::read_to_string(&notebook.path).unwrap();
        for torn in ["", "\0\0\0", &whole[..whole.len() / 2]] {
            std::fs::write(&notebook.path, torn).unwrap();
            assert_eq!(notebook.read().unwrap(), None);
            assert!(lasting.read().is_err());
        }
        std::fs::write(&notebook.path, "{}").unwrap();
        assert!(notebook.read().is_err());
        notebook.clear().unwrap();
        assert_eq!(notebook.read().unwrap(), None);
    }
}
