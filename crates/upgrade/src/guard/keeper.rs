//! Keeps the pause of one ward, a pooler mostly: holds it, ends it, and ends it by itself.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use pgleap_saga::StepError;
use tokio::{sync::Mutex, time::Instant};

use super::{
    note::{Note, Notebook, Turn},
    protocol::{Answer, Status, Verb},
    ward::{Kept, Ward},
};
use crate::pgbouncer::admin::Entry;

/// Now, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Whether nobody waits for the answer any more.
pub fn late(until_ms: Option<i64>) -> bool {
    until_ms.is_some_and(|until| now_ms() > until)
}

/// The guard of one pooler.
pub struct Keeper {
    /// How errors call it.
    called: String,
    /// How requests name it.
    console: String,
    pooler: Kept,
    notebook: Notebook,
    /// One command at a time; and what is held, with the moment its lease ends.
    held: Mutex<Option<Held>>,
    lapsed: AtomicU64,
    tell: Tell,
}

/// Where a guard says what it did by itself.
pub type Tell = fn(&str);

struct Held {
    note: Note,
    until: Instant,
}

/// A pooler that does not answer at the end of a lease is asked again so soon, and at least so often.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASK_AT_LEAST: Duration = Duration::from_secs(1);
/// A rewrite and a RELOAD take milliseconds; a pooler that was just started may take longer.
const REPOINT_BUDGET: Duration = Duration::from_secs(30);

impl Keeper {
    /// Takes over a pooler, and the pause that an earlier guard of it may have left.
    ///
    /// # Errors
    /// If there is a note that cannot be read.
    pub fn over(ward: Ward, notes: &Path, tell: Tell) -> Result<Arc<Self>, StepError> {
        let (called, console) = (ward.to_string(), ward.console());
        let notebook = Notebook::new(notes, &console);
        let left = notebook.read()?;
        let (pooler, held, lapsed) = (ward.take(), Mutex::default(), AtomicU64::new(0));
        let keeper = Arc::new(Self { called, console, pooler, notebook, held, lapsed, tell });
        if let Some(note) = left {
            (keeper.tell)(&format!("{}: taking over the pause `{}`", keeper.name(), note.turn.id));
            let left = Duration::try_from(note.until.duration_since(Timestamp::now())).unwrap_or_default();
            let until = Instant::now() + left;
            if let Ok(mut held) = keeper.held.try_lock() {
                *held = Some(Held { note, until });
            }
            keeper.clone().end_at(until);
        }
        Ok(keeper)
    }

    /// Returns how requests name its pooler.
    pub fn name(&self) -> &str {
        &self.console
    }

    /// Whether a pause is held, or something is being done.
    pub fn is_busy(&self) -> bool {
        self.held.try_lock().map_or(true, |held| held.is_some())
    }

    /// Does what is asked, as long as somebody waits for it.
    pub async fn answer(self: &Arc<Self>, verb: Verb, until_ms: Option<i64>) -> Answer {
        let done = match verb {
            Verb::Entries => match self.pooler.entries().await {
                Ok(entries) => return Answer::Entries(entries),
                Err(error) => Err(error),
            },
            Verb::Inspect { source } => return Answer::Inspected(self.pooler.inspect(&source).await),
            Verb::Status => return Answer::Status(self.status().await),
            Verb::Rehearse { moves } => self.pooler.rehearse(&moves).await,
            Verb::WarmUp { entries } => self.pooler.warm_up(entries).await,
            Verb::Hold { turn, lease_ms, within_ms } => {
                self.hold(turn, Duration::from_millis(lease_ms), Duration::from_millis(within_ms), until_ms).await
            }
            Verb::Drained { entries, within_ms } => self.drained(&entries, Duration::from_millis(within_ms)).await,
            Verb::Decide { turn } => self.decide(turn).await,
            Verb::Resume { turn, entries } => self.resume(&turn, &entries).await,
            Verb::Traffic => match self.pooler.traffic().await {
                Ok(traffic) => return Answer::Traffic(traffic),
                Err(error) => Err(error),
            },
            Verb::Reload => self.pooler.reload().await,
        };
        done.map_or_else(Answer::Refused, |()| Answer::Done)
    }

    async fn status(&self) -> Status {
        let held = self.held.lock().await;
        Status {
            held: held.as_ref().map(|held| held.note.turn.id.clone()),
            decided: held.as_ref().is_some_and(|held| held.note.decided),
            lapsed: self.lapsed.load(Ordering::Relaxed),
        }
    }

    /// Written down, then its end arranged, and only then asked for: there is no pause that nobody would end.
    async fn hold(
        self: &Arc<Self>,
        turn: Turn,
        lease: Duration,
        within: Duration,
        until_ms: Option<i64>,
    ) -> Result<(), StepError> {
        let mut held = self.held.lock().await;
        if let Some(Held { note, .. }) = held.as_ref().filter(|held| held.note.turn.id != turn.id || held.note.decided)
        {
            return Err(self.held_by_another(&note.turn.id));
        }
        // the lock may have been waited for: whoever asked has gone
        if late(until_ms) {
            return Err(StepError::transient("the request was too long under way"));
        }
        let until = Instant::now() + lease;
        let wall = Timestamp::now().saturating_add(lease).unwrap_or(Timestamp::MAX);
        let note = Note { turn, until: wall, decided: false };
        self.notebook.write(&note)?;
        let turn = note.turn.clone();
        *held = Some(Held { note, until });
        self.clone().end_at(until);
        self.pooler.pause(&turn, lease, until.min(Instant::now() + within)).await
    }

    async fn drained(&self, entries: &[Entry], within: Duration) -> Result<(), StepError> {
        // the lock is not held: the end of the lease must find it free
        let until = self.held.lock().await.as_ref().map(|held| held.until);
        let Some(until) = until else {
            return Err(StepError::fatal(
                format!("the pause of {} is over: its lease ended", self.called),
                "clients go on where they were; try again",
            ));
        };
        self.pooler.drained(entries, until.min(Instant::now() + within)).await
    }

    /// Accepted also after the lease: whoever sends it is past the point of no return. Not into another pause: it is an old one.
    async fn decide(self: &Arc<Self>, turn: Turn) -> Result<(), StepError> {
        let mut held = self.held.lock().await;
        if let Some(Held { note, .. }) = held.as_ref().filter(|held| held.note.turn.id != turn.id) {
            return Err(self.held_by_another(&note.turn.id));
        }
        let (until, wall) = match held.as_ref() {
            Some(held) => (held.until, held.note.until),
            None => {
                (self.tell)(&format!("{}: `{}` is decided after its lease was over", self.name(), turn.id));
                // should this attempt fail, and its sender die, the guard goes on trying
                let until = Instant::now() + REPOINT_BUDGET;
                self.clone().end_at(until);
                (until, Timestamp::now())
            }
        };
        let note = Note { turn, until: wall, decided: true };
        self.notebook.write(&note)?;
        let moves = note.turn.moves.clone();
        *held = Some(Held { note, until });
        self.pooler.repoint(&moves, Instant::now() + REPOINT_BUDGET).await
    }

    async fn resume(&self, turn: &str, entries: &[Entry]) -> Result<(), StepError> {
        let mut held = self.held.lock().await;
        if let Some(Held { note, .. }) = held.as_ref().filter(|held| held.note.turn.id != turn) {
            return Err(self.held_by_another(&note.turn.id));
        }
        self.pooler.resume(entries).await?;
        // who was not named waits on, and somebody must go on looking after it
        let named = |entry: &Entry| entries.iter().any(|resumed| resumed.name == entry.name);
        if held.as_ref().is_some_and(|held| !held.note.turn.entries().iter().all(named)) {
            return Ok(());
        }
        *held = None;
        self.notebook.clear()
    }

    fn held_by_another(&self, id: &str) -> StepError {
        StepError::fatal(
            format!("the guard of {} holds the pause `{id}`", self.called),
            "let whoever began it finish, or wait until its lease is over; then try again",
        )
    }

    /// Ends the pause whose lease ends at that moment, unless it was ended before.
    fn end_at(self: Arc<Self>, until: Instant) {
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let (mut again, mut told) = (ASK_AGAIN, String::new());
            // for as long as it is held: nobody else would end it
            loop {
                let Err(error) = self.end(until).await else { return };
                let error = error.to_string();
                if error != told {
                    (self.tell)(&format!("{}: cannot end the pause, and goes on trying: {error}", self.name()));
                    told = error;
                }
                tokio::time::sleep(again).await;
                again = (again * 2).min(ASK_AT_LEAST);
            }
        });
    }

    async fn end(&self, until: Instant) -> Result<(), StepError> {
        let mut held = self.held.lock().await;
        let Some(Held { note, .. }) = held.as_ref().filter(|held| held.until == until) else { return Ok(()) };
        let Turn { id, moves } = &note.turn;
        if note.decided {
            self.pooler.repoint(moves, Instant::now() + REPOINT_BUDGET).await?;
        }
        self.pooler.resume(&note.turn.entries()).await?;
        let place = if note.decided { "new" } else { "old" };
        (self.tell)(&format!("{}: the lease of `{id}` is over: clients go on at the {place} address", self.name()));
        self.lapsed.fetch_add(1, Ordering::Relaxed);
        *held = None;
        self.notebook.clear()
    }
}
