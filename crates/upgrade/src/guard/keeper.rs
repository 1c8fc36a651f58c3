//! Keeps the pause of one ward, a pooler mostly: holds it, ends it, and ends it by itself.

use std::{
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use pgleap_saga::StepError;
use tokio::time::Instant;

use super::{
    note::{Note, Notebook, Turn},
    protocol::{Answer, Request, Status, Verb},
    ward::{Kept, Ward},
};
use crate::pgbouncer::{admin::Entry, trial::TRIAL_BUDGET};

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
    /// One command at a time. Whoever only asks how things stand does not wait for it.
    command: tokio::sync::Mutex<()>,
    state: std::sync::Mutex<State>,
    tell: Tell,
}

/// Where a guard says what it did by itself.
pub type Tell = fn(&str);

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// How many turns there were, and the id of the newest: a decision that another turn came after is an old one.
    epoch: u64,
    newest: String,
    lapsed: u64,
}

struct Held {
    note: Note,
    /// When its lease ends.
    until: Instant,
    /// Where its clients are.
    clients: Clients,
}

/// Where the clients of a pause are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    /// They wait, and go on where they were.
    Wait,
    /// They wait, and go on where it was decided.
    WaitToBeLed,
    /// They were let go before they could be led where it was decided.
    LetGo,
}

/// A pooler that does not answer at the end of a lease is asked again so soon, and at least so often.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const ASK_AT_LEAST: Duration = Duration::from_secs(1);
/// A rewrite and a RELOAD take milliseconds; a pooler that was just started may take longer.
const REPOINT_BUDGET: Duration = Duration::from_secs(30);
/// The same, where clients wait.
const REPOINT_AT_ONCE: Duration = Duration::from_secs(1);
/// Whoever let clients go on waits so long for the disk.
const KEEP_BUDGET: Duration = Duration::from_secs(1);

impl Keeper {
    /// Takes over a pooler, and the pause that an earlier guard of it may have left.
    ///
    /// # Errors
    /// If there is a note that cannot be read.
    pub fn over(ward: Ward, notes: &Path, tell: Tell) -> Result<Arc<Self>, StepError> {
        let (called, console) = (ward.to_string(), ward.console());
        let notebook = Notebook::new(notes, &console, ward.outlives());
        let left = notebook.read()?;
        let (pooler, command, state) = (ward.take(), tokio::sync::Mutex::default(), std::sync::Mutex::default());
        let keeper = Arc::new(Self { called, console, pooler, notebook, command, state, tell });
        if let Some(note) = &left {
            keeper.pooler.remember(note.started_in.clone());
        }
        keeper.clone().tidy();
        if let Some(note) = left {
            (keeper.tell)(&format!("{}: taking over the pause `{}`", keeper.name(), note.turn.id));
            let left = Duration::try_from(note.until.duration_since(Timestamp::now())).unwrap_or_default();
            let until = Instant::now() + left;
            keeper.note(note, until);
            keeper.clone().end_at(until);
        }
        Ok(keeper)
    }

    /// Takes back, without keeping anybody waiting, what an earlier guard of it may have left of a trial.
    fn tidy(self: Arc<Self>) {
        tokio::spawn(async move {
            if let Err(error) = self.pooler.tidy().await {
                (self.tell)(&format!("{}: what is left of a trial of its logins stays for now: {error}", self.name()));
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // no code that holds it can panic half way
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was written down as what is held.
    fn note(&self, note: Note, until: Instant) {
        let mut state = self.state();
        if state.newest != note.turn.id {
            state.newest.clone_from(&note.turn.id);
            state.epoch += 1;
        }
        let same = state.held.as_ref().filter(|held| held.note.turn.id == note.turn.id);
        let clients = same.map_or(Clients::Wait, |held| held.clients);
        state.held = Some(Held { note, until, clients });
    }

    fn clients(&self, are: Clients) {
        if let Some(held) = &mut self.state().held {
            held.clients = are;
        }
    }

    /// Shows entries whose clients wait to be led where they will lead when these go on.
    fn led(&self, mut entries: Vec<Entry>) -> Vec<Entry> {
        let state = self.state();
        let held = state.held.iter().filter(|held| held.clients == Clients::WaitToBeLed);
        for step in held.flat_map(|held| &held.note.turn.moves) {
            for entry in entries.iter_mut().filter(|entry| step.has(&entry.name)) {
                entry.host.clone_from(&step.new.host);
                entry.port = step.new.port;
            }
        }
        entries
    }

    /// Returns how many turns there were so far.
    pub fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// Returns how requests name its pooler.
    pub fn name(&self) -> &str {
        &self.console
    }

    /// Whether a pause is held, or something is being done.
    pub fn is_busy(&self) -> bool {
        self.command.try_lock().is_err() || self.state().held.is_some()
    }

    /// Does what is asked, as long as somebody waits for it.
    pub async fn answer(self: &Arc<Self>, Request { verb, until_ms, epoch, .. }: Request) -> Answer {
        let done = match verb {
            Verb::Entries => match self.pooler.entries().await {
                Ok(entries) => return Answer::Entries(self.led(entries)),
                Err(error) => Err(error),
            },
            Verb::Inspect { source } => return Answer::Inspected(self.pooler.inspect(&source).await),
            Verb::Status => return Answer::Status(self.status()),
            Verb::Rehearse { moves } => self.pooler.rehearse(&moves).await,
            Verb::TryLogins { moves } => {
                let deadline = Instant::now() + TRIAL_BUDGET;
                match self.pooler.try_logins(&moves, deadline, self.between_pauses(until_ms)).await {
                    Ok(unknown) => return Answer::Tried(unknown),
                    Err(error) => Err(error),
                }
            }
            Verb::WarmUp { entries } => self.pooler.warm_up(entries).await,
            Verb::Hold { turn, lease_ms, within_ms } => {
                self.hold(turn, Duration::from_millis(lease_ms), Duration::from_millis(within_ms), until_ms).await
            }
            Verb::Drained { entries, within_ms } => self.drained(&entries, Duration::from_millis(within_ms)).await,
            Verb::Decide { turn } => self.decide(turn, epoch).await,
            Verb::Resume { turn, entries } => self.resume(&turn, &entries).await,
            Verb::Traffic => match self.pooler.traffic().await {
                Ok(traffic) => return Answer::Traffic(traffic),
                Err(error) => Err(error),
            },
            Verb::Reload => self.pooler.reload().await,
        };
        done.map_or_else(Answer::Refused, |()| Answer::Done)
    }

    /// Says what is held, also while something is being done. A lease that is over without a decision is not: it is being
    /// ended.
    fn status(&self) -> Status {
        let state = self.state();
        let held = state.held.as_ref().filter(|held| held.note.decided || Instant::now() < held.until);
        Status {
            held: held.map(|held| held.note.turn.id.clone()),
            decided: held.is_some_and(|held| held.note.decided),
            lapsed: state.lapsed,
        }
    }

    /// Refuses what concerns another pause than the one that is held.
    fn refuse_another(&self, turn: &str) -> Result<(), StepError> {
        match &self.state().held {
            Some(Held { note, .. }) if note.turn.id != turn => Err(self.held_by_another(&note.turn.id)),
            _ => Ok(()),
        }
    }

    /// Waits for its turn to do what clients must not wait for: refused while a pause is held, or when whoever asked has gone.
    async fn between_pauses(&self, until_ms: Option<i64>) -> Result<tokio::sync::MutexGuard<'_, ()>, StepError> {
        let command = self.command.lock().await;
        if let Some(Held { note, .. }) = &self.state().held {
            return Err(StepError::transient(format!(
                "the guard of {} holds the pause `{}`: nothing is tried until it is over",
                self.called, note.turn.id
            )));
        }
        // the lock may have been waited for
        if late(until_ms) {
            return Err(StepError::transient("the request was too long under way"));
        }
        Ok(command)
    }

    /// Written down, then its end arranged, and only then asked for: there is no pause that nobody would end.
    async fn hold(
        self: &Arc<Self>,
        turn: Turn,
        lease: Duration,
        within: Duration,
        until_ms: Option<i64>,
    ) -> Result<(), StepError> {
        let _command = self.command.lock().await;
        self.refuse_another(&turn.id)?;
        if self.state().held.as_ref().is_some_and(|held| held.note.decided) {
            return Err(self.held_by_another(&turn.id));
        }
        // the lock may have been waited for: whoever asked has gone
        if late(until_ms) {
            return Err(StepError::transient("the request was too long under way"));
        }
        let until = Instant::now() + lease;
        let wall = Timestamp::now().saturating_add(lease).unwrap_or(Timestamp::MAX);
        let note = Note { turn: turn.clone(), until: wall, decided: false, started_in: self.pooler.started_in() };
        self.notebook.write(&note)?;
        self.note(note, until);
        self.clone().end_at(until);
        self.pooler.pause(&turn, lease, until.min(Instant::now() + within)).await
    }

    async fn drained(&self, entries: &[Entry], within: Duration) -> Result<(), StepError> {
        let until = self.state().held.as_ref().map(|held| held.until);
        let Some(until) = until else {
            return Err(StepError::fatal(
                format!("the pause of {} is over: its lease ended", self.called),
                "clients go on where they were; try again",
            ));
        };
        self.pooler.drained(entries, until.min(Instant::now() + within)).await
    }

    /// Accepted also after the lease: whoever sends it is past the point of no return. Not into another pause, and not after
    /// one: then it is an old one, which a broken link held back.
    async fn decide(self: &Arc<Self>, turn: Turn, epoch: Option<u64>) -> Result<(), StepError> {
        let _command = self.command.lock().await;
        self.refuse_another(&turn.id)?;
        if epoch.is_some_and(|known| known != self.epoch()) {
            (self.tell)(&format!("{}: a decision on `{}` came too late: it was not followed", self.name(), turn.id));
            return Err(StepError::fatal(
                format!("the decision on `{}` was overtaken at {}", turn.id, self.called),
                "`pgleap status` says who serves",
            ));
        }
        let (held, turn) = match &self.state().held {
            Some(held) => (Some((held.until, held.note.until, held.clients)), turn.with_all_of(&held.note.turn)),
            None => (None, turn),
        };
        let now = Instant::now();
        let wait = held.is_some_and(|(.., clients)| clients != Clients::LetGo);
        let (until, wall, deadline) = match held {
            // clients wait, and not for longer than its lease
            Some((until, wall, Clients::LetGo)) => (until, wall, now + REPOINT_BUDGET),
            Some((until, wall, _)) => (until, wall, until.max(now + REPOINT_AT_ONCE)),
            None => {
                (self.tell)(&format!("{}: `{}` is decided after its lease was over", self.name(), turn.id));
                // should this attempt fail, and its sender die, the guard goes on trying
                let until = now + REPOINT_BUDGET;
                self.clone().end_at(until);
                (until, Timestamp::now(), until)
            }
        };
        let moves = if wait { turn.moves.iter().take(1).cloned().collect() } else { turn.moves.clone() };
        let note = Note { turn, until: wall, decided: true, started_in: self.pooler.started_in() };
        self.notebook.write(&note)?;
        self.note(note, until);
        self.pooler.repoint(&moves, wait, deadline).await?;
        if wait {
            self.clients(Clients::WaitToBeLed);
        } else {
            self.clients(Clients::LetGo);
            self.keep().await;
        }
        Ok(())
    }

    async fn resume(&self, turn: &str, entries: &[Entry]) -> Result<(), StepError> {
        let _command = self.command.lock().await;
        self.refuse_another(turn)?;
        let named = |entry: &Entry| entries.iter().any(|resumed| resumed.name == entry.name);
        let decided =
            self.state().held.as_ref().filter(|held| held.note.decided).map(|held| held.note.turn.moves.clone());
        let decided = decided.unwrap_or_default();
        let led: Vec<_> = decided.iter().filter(|step| step.entries.iter().any(named)).cloned().collect();
        let resumed = async {
            // those that are not written yet; and somebody may have written the others back
            if !led.is_empty() {
                self.pooler.repoint(&led, true, Instant::now() + REPOINT_AT_ONCE).await?;
            }
            self.pooler.resume(entries, &led).await
        };
        if let Err(error) = resumed.await {
            // what it leads to is not what was decided, perhaps: it is shown as it is
            self.clients(Clients::Wait);
            return Err(error);
        }
        // who was not named waits on, and somebody must go on looking after it
        if self.state().held.as_ref().is_some_and(|held| !held.note.turn.entries().iter().all(named)) {
            return Ok(());
        }
        self.state().held = None;
        let cleared = self.notebook.clear();
        self.keep().await;
        cleared
    }

    /// Waits for the disk, for a moment, once no client does. It was seen to work before the pause: what it does not confirm now
    /// is told.
    async fn keep(&self) {
        let why = match tokio::time::timeout(KEEP_BUDGET, self.pooler.keep()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the disk takes longer than {} s", KEEP_BUDGET.as_secs()),
        };
        let name = self.name();
        (self.tell)(&format!("{name}: where clients are led is written, but a crash of this host may undo it: {why}"));
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

    /// Leads clients where it was decided, or lets them go on where they were: in any case they go on. Where they cannot be
    /// led yet they meet the fence, as at a pooler that comes back with its old file.
    async fn end(&self, until: Instant) -> Result<(), StepError> {
        let _command = self.command.lock().await;
        let held = self.state().held.as_ref().filter(|held| held.until == until).map(|h| (h.note.clone(), h.clients));
        let Some((note, clients)) = held else { return Ok(()) };
        let Turn { id, moves } = &note.turn;
        let entries = note.turn.entries();
        let moves = if note.decided { moves.as_slice() } else { &[] };
        let led = async {
            if note.decided {
                let wait = clients != Clients::LetGo;
                self.pooler.repoint(moves, wait, Instant::now() + REPOINT_AT_ONCE).await?;
            }
            self.pooler.resume(&entries, moves).await
        };
        if let Err(error) = led.await {
            if note.decided && clients != Clients::LetGo {
                self.pooler.resume(&entries, &[]).await?;
                let told = "clients go on where it leads, and are refused if that is the old address";
                (self.tell)(&format!("{}: the lease of `{id}` is over, and it cannot be led: {told}", self.name()));
                self.clients(Clients::LetGo);
            }
            return Err(error);
        }
        let place = if note.decided { "new" } else { "old" };
        (self.tell)(&format!("{}: the lease of `{id}` is over: clients go on at the {place} address", self.name()));
        {
            let mut state = self.state();
            state.lapsed += 1;
            state.held = None;
        }
        let cleared = self.notebook.clear();
        self.keep().await;
        cleared
    }
}
