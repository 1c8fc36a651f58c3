//! One PgBouncer process: its entries listed, paused, led elsewhere, resumed.

use std::{
    collections::BTreeSet,
    fs::TryLockError,
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::try_join_all;
use pgleap_saga::StepError;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};

use super::{
    admin::{Admin, AdminError, Burst, Entry, Shown, quote},
    ini::{self, Address, Ini, IniError},
    trial,
};
use crate::{
    config::Pooler,
    files::{Outlives, aside, directory_of, keep, swap},
    pg::Secret,
};

/// How often it is asked while something is awaited of it.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const COMMAND_BUDGET: Duration = Duration::from_secs(5);
/// How often a configuration is read again that poolers share, each of which rewrites it once.
pub(super) const REWRITES: u32 = 20;
/// How often clients go on in a pause: those who write, and those who only read after them.
const BURSTS: usize = 2;
/// How long server connections that log in are waited for before a pause.
const LOGIN_PATIENCE: Duration = Duration::from_millis(200);

/// Entries of a pooler, and from where to where they are led.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Where they lead.
    pub old: Address,
    /// Where they shall lead.
    pub new: Address,
}

impl Move {
    /// Whether the entry `name` is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }
}

/// One PgBouncer process.
pub struct PgBouncer {
    /// Where it is.
    pub pooler: Pooler,
    pub(super) password: Option<Secret>,
    admin: Mutex<Option<Arc<Admin>>>,
    /// Consoles opened in advance, one for each entry: PAUSE holds its connection until it is done.
    spare: Mutex<Vec<Admin>>,
    /// Opened in advance for [`Self::resume`].
    bursts: Mutex<Vec<Burst>>,
    /// One trial of its logins at a time.
    pub(super) trial: Mutex<()>,
    /// The configuration that the process was seen to read.
    known: std::sync::Mutex<Option<Ini>>,
    /// Where files were swapped, to be kept when clients have gone on.
    swapped: std::sync::Mutex<BTreeSet<PathBuf>>,
    /// Where it was started, once that had to be asked: a process that died cannot tell.
    started_in: std::sync::Mutex<Option<PathBuf>>,
}

impl PgBouncer {
    /// Describes it; nothing is connected yet.
    pub fn new(pooler: Pooler, password: Option<Secret>) -> Self {
        let (admin, spare, bursts, trial) = (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
        let (known, swapped, started_in) = Default::default();
        Self { pooler, password, admin, spare, bursts, trial, known, swapped, started_in }
    }

    /// Returns the directory that it was started in, if paths in its configuration had to be found from there.
    pub fn known_directory(&self) -> MutexGuard<'_, Option<PathBuf>> {
        // no code that holds it can panic half way
        self.started_in.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a kept console connection.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn admin(&self) -> Result<Arc<Admin>, AdminError> {
        let mut kept = self.admin.lock().await;
        match &*kept {
            Some(admin) if !admin.is_closed() => Ok(admin.clone()),
            _ => {
                let admin = Arc::new(self.enter().await?);
                *kept = Some(admin.clone());
                Ok(admin)
            }
        }
    }

    async fn enter(&self) -> Result<Admin, AdminError> {
        Admin::enter(&self.pooler, self.password.as_ref()).await
    }

    async fn console(&self) -> Result<Admin, AdminError> {
        let spare = self.spare.lock().await.pop();
        match spare {
            Some(admin) if !admin.is_closed() => Ok(admin),
            _ => self.enter().await,
        }
    }

    /// Opens the consoles that [`Self::pause`] and [`Self::resume`] will use, so that no login happens in the write pause.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn warm_up(&self, entries: usize) -> Result<(), AdminError> {
        self.admin().await?;
        let mut spare = self.spare.lock().await;
        spare.retain(|admin| !admin.is_closed());
        while spare.len() < entries {
            spare.push(self.enter().await?);
        }
        // one that was lost cannot be told from one that says nothing yet
        let mut bursts = self.bursts.lock().await;
        bursts.clear();
        for _ in 0..BURSTS {
            bursts.push(Burst::enter(&self.pooler, self.password.as_ref()).await?);
        }
        Ok(())
    }

    /// Pauses every entry, and returns when each is seen to be paused: transactions under way go on to their ends, and
    /// no new server connection is made.
    ///
    /// On an error or at the deadline some may be paused: [`Self::resume`] is what ends it.
    ///
    /// # Errors
    /// What it answered, or fatal, naming the entry that is not paused in time.
    pub async fn pause(&self, entries: &[Entry], deadline: Instant) -> Result<(), StepError> {
        let one = async |entry: &Entry| -> Result<(), StepError> {
            let console = self.console().await?;
            let admin = self.admin().await?;
            // PAUSE would close a server connection that logs in, and take that for a login that failed
            let patience = deadline.min(Instant::now() + LOGIN_PATIENCE);
            while admin.server_connections(&entry.name).await?.logging_in > 0 && Instant::now() < patience {
                tokio::task::yield_now().await;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let command = format!("PAUSE {}", quote(&entry.name));
            // it answers when the pool is empty, which is not believed: `drained` looks
            let mut pause = Some(tokio::spawn(async move { console.command(&command, left).await.map(|_| ()) }));
            loop {
                if is_paused(&admin, entry).await? {
                    return Ok(());
                }
                if let Some(answered) = pause.take_if(|pause| pause.is_finished())
                    && let Ok(answer) = answered.await
                {
                    answer?;
                }
                if Instant::now() >= deadline {
                    return Err(StepError::fatal(
                        format!("PgBouncer {} has not paused `{}` in time", self.pooler, entry.name),
                        "look at its log, then try again",
                    ));
                }
                tokio::task::yield_now().await;
            }
        };
        try_join_all(entries.iter().map(one)).await?;
        Ok(())
    }

    /// Waits until no paused entry has a server connection left.
    ///
    /// # Errors
    /// What it answered, or fatal, naming the clients whose transactions do not end.
    pub async fn drained(&self, entries: &[Entry], deadline: Instant) -> Result<(), StepError> {
        let one = async |entry: &Entry| -> Result<(), StepError> {
            let admin = self.admin().await?;
            loop {
                let servers = admin.server_connections(&entry.name).await?.all;
                if servers == 0 && is_paused(&admin, entry).await? {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    let clients = admin.show("CLIENTS").await?;
                    return Err(StepError::fatal(
                        format!(
                            "PgBouncer {} still has {servers} server connections for `{}`: a transaction does not end, or, in \
                             session pooling, a client does not leave",
                            self.pooler, entry.name
                        ),
                        "find it in `SHOW SERVERS` there and in pg_stat_activity, wait until it has ended, then try again; \
                         for session pooling set `clients = \"reconnect\"` under `[route]`",
                    )
                    .because(holding(&clients, &entry.name)));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        try_join_all(entries.iter().map(one)).await?;
        Ok(())
    }

    /// Lets every entry go on, whatever state it is in, once the configuration is read anew if some are `led`, and returns when
    /// none is paused, and each of those leads where it shall.
    ///
    /// Consoles that PAUSE may still hold are given up: a pause outlives the connection that asked for it.
    ///
    /// # Errors
    /// A transient [`StepError`] that names the entries that stay paused, or that lead elsewhere and are paused again.
    pub async fn resume(&self, entries: &[Entry], led: &[Move]) -> Result<(), StepError> {
        if entries.is_empty() {
            return Ok(());
        }
        let reload = (!led.is_empty()).then(|| "RELOAD".to_owned());
        let resume = entries.iter().map(|entry| format!("RESUME {}", quote(&entry.name)));
        let commands: Vec<_> = reload.into_iter().chain(resume).collect();
        let mut answers = self.at_once(&commands).await?;
        let answers = answers.split_off(commands.len() - entries.len());
        let now = self.admin().await?.entries().await?;
        let astray = astray(&now, led);
        if !astray.is_empty() {
            *self.known() = None;
            // nobody must go on at the old side who waited until now
            let resumed =
                entries.iter().zip(&answers).filter(|(entry, answer)| answer.is_ok() && astray.contains(&&entry.name));
            let resumed: Vec<_> = resumed.map(|(entry, _)| entry.clone()).collect();
            self.pause(&resumed, Instant::now() + COMMAND_BUDGET).await?;
            return Err(self.stays(&astray));
        }
        // refused when it is not paused, which is what is wanted: the look decides
        let is_paused = |entry: &Entry| now.iter().any(|shown| shown.name == entry.name && shown.paused);
        match entries.iter().zip(answers).find(|(entry, _)| is_paused(entry)) {
            None => Ok(()),
            Some((_, Err(error))) => Err(error.into()),
            Some((entry, Ok(_))) => Err(StepError::transient(format!(
                "PgBouncer {} keeps `{}` paused after RESUME",
                self.pooler, entry.name
            ))),
        }
    }

    /// Sends commands in one piece.
    async fn at_once(&self, commands: &[String]) -> Result<Vec<Result<Vec<Shown>, AdminError>>, AdminError> {
        let kept = self.bursts.lock().await.pop();
        if let Some(burst) = kept {
            let answers = burst.send(commands, COMMAND_BUDGET).await;
            // what was done may be done again
            if !answers.iter().any(|answer| answer.as_ref().is_err_and(AdminError::is_lost)) {
                return Ok(answers);
            }
        }
        Ok(Burst::enter(&self.pooler, self.password.as_ref()).await?.send(commands, COMMAND_BUDGET).await)
    }

    fn stays(&self, entries: &[&String]) -> StepError {
        StepError::transient(format!("PgBouncer {} still leads {entries:?} elsewhere after RELOAD", self.pooler))
    }

    /// Reads the configuration as the process does.
    ///
    /// # Errors
    /// Blocked, if a file of it cannot be read or found.
    pub async fn ini(&self) -> Result<Ini, StepError> {
        let main = &self.pooler.ini;
        let read = match Ini::read(main, None) {
            Err(IniError::Relative { path, include }) => match self.started_in().await {
                Ok(directory) => Ini::read(main, Some(&directory)),
                Err(unknown) => {
                    let error = IniError::Relative { path, include };
                    return Err(StepError::blocked(error.to_string(), "write that path in full there, then try again")
                        .because(unknown.to_string()));
                }
            },
            read => read,
        };
        read.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let step = StepError::blocked(error.to_string(), "name under `ini` the file that it was started with");
            cause.into_iter().fold(step, StepError::because)
        })
    }

    /// Returns the working directory of the process, which paths in its configuration are relative to. One that is gone had
    /// better be started there again.
    async fn started_in(&self) -> Result<PathBuf, std::io::Error> {
        let directory = match self.ask_started_in().await {
            Err(unknown) => return self.known_directory().clone().ok_or(unknown),
            Ok(directory) => directory,
        };
        *self.known_directory() = Some(directory.clone());
        Ok(directory)
    }

    async fn ask_started_in(&self) -> Result<PathBuf, std::io::Error> {
        let config = self.admin().await.map_err(std::io::Error::other)?.show("CONFIG").await;
        let config = config.map_err(std::io::Error::other)?;
        let pidfile = config.iter().find(|row| row.get("key").is_some_and(|key| key == "pidfile"));
        let pidfile = pidfile.and_then(|row| row.get("value")).cloned().unwrap_or_default();
        if pidfile.is_empty() {
            return Err(std::io::Error::other("it writes no `pidfile` that would tell which process it is"));
        }
        let pid = std::fs::read_to_string(pidfile)?;
        std::fs::read_link(format!("/proc/{}/cwd", pid.trim()))
    }

    /// Computes the configuration with every entry moved, and checks that each file of it can be replaced.
    ///
    /// # Errors
    /// Blocked, if a file cannot be read or replaced, or an entry is in none.
    pub async fn rehearse(&self, moves: &[Move]) -> Result<(), StepError> {
        self.tidy().await?;
        let ini = self.ini().await?;
        // an interrupted attempt may have moved some already
        let leads = |step: &Move, name: &str| {
            let there = |address| ini.settings_of(name).and_then(|text| ini::redirect(text, address, address));
            there(&step.old).or_else(|| there(&step.new)).is_some()
        };
        let missing: Vec<_> = moves
            .iter()
            .flat_map(|step| step.entries.iter().map(move |entry| (step, entry.name.as_str())))
            .filter(|(step, name)| !leads(step, name))
            .map(|(_, name)| name)
            .collect();
        if !missing.is_empty() {
            let path = self.pooler.ini.display();
            return Err(StepError::blocked(
                format!(
                    "entries {missing:?} of PgBouncer {} are not in `{path}`, nor in what it includes",
                    self.pooler
                ),
                "name under `ini` the file that it was started with, and RELOAD what was edited; then try again",
            ));
        }
        for file in ini.files() {
            exchange(&file.path, &file.old, &file.old, Instant::now() + COMMAND_BUDGET).await?;
            self.swapped().insert(directory_of(&file.path).to_owned());
        }
        self.keep().await
    }

    fn swapped(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        // no code that holds it can panic half way
        self.swapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the files that lead its clients are what a crash of the host leaves.
    ///
    /// # Errors
    /// Blocked, if the disk does not say so; it is asked again by the next call.
    pub async fn keep(&self) -> Result<(), StepError> {
        let swapped = self.swapped().clone();
        let kept = swapped.clone();
        aside(move || swapped.iter().try_for_each(|directory| keep(directory))).await?;
        self.swapped().retain(|directory| !kept.contains(directory));
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Option<Ini>> {
        // no code that holds it can panic half way
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the process was seen to read this configuration.
    pub(super) fn reads(&self, ini: Ini) {
        *self.known() = Some(ini);
    }

    /// Replaces every file that holds an entry which is to be moved. Returns whether the process was seen to read all else in
    /// the configuration: then it reads this, too.
    async fn rewrite(&self, moves: &[Move], deadline: Instant) -> Result<bool, StepError> {
        trial::forget(&self.pooler.ini, deadline).await?;
        let moved = |mut ini: Ini| {
            for step in moves {
                ini.repoint(&step.old, &step.new, |name| step.has(name));
            }
            ini
        };
        let known = self.known().clone().map(moved);
        for _ in 0..REWRITES {
            let ini = moved(self.ini().await?);
            let mut edited = false;
            for file in ini.files().into_iter().filter(|file| file.new != file.old) {
                edited |= !exchange(&file.path, &file.old, &file.new, deadline).await?;
            }
            // also where others were at it, or an earlier guard
            self.swapped().extend(ini.files().iter().map(|file| directory_of(&file.path).to_owned()));
            if !edited {
                let same = known.as_ref().is_some_and(|known| known.texts() == ini.texts());
                if same {
                    *self.known() = known;
                }
                return Ok(same);
            }
        }
        Err(StepError::transient(format!("the configuration of PgBouncer {} is being edited", self.pooler)))
    }

    /// Moves every entry from its old address to the new one. Files are replaced; where clients `wait`, the process reads what
    /// it is known to read when they go on. All else it reads now, with a look at what it made of it.
    ///
    /// # Errors
    /// [`StepError`]; files may already be replaced, and running this again finishes it.
    pub async fn repoint(&self, moves: &[Move], wait: bool, deadline: Instant) -> Result<(), StepError> {
        if self.rewrite(moves, deadline).await? && wait {
            return Ok(());
        }
        let admin = self.reload().await?;
        // 1.24 answers success on a file that it could not read
        loop {
            let now = admin.entries().await?;
            let astray = astray(&now, moves);
            if astray.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.stays(&astray));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets it read its configuration anew.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn reload(&self) -> Result<Arc<Admin>, AdminError> {
        let admin = self.admin().await?;
        admin.command("RELOAD", COMMAND_BUDGET).await?;
        Ok(admin)
    }
}

/// Returns the entries that do not lead where they shall.
fn astray<'a>(now: &[Entry], moves: &'a [Move]) -> Vec<&'a String> {
    let wanted = moves.iter().flat_map(|step| step.entries.iter().map(move |entry| (&entry.name, &step.new)));
    let leads = |name: &String, new: &Address| now.iter().any(|entry| entry.name == *name && entry.leads_to(new));
    wanted.filter(|(name, new)| !leads(name, new)).map(|(name, _)| name).collect()
}

/// Names the clients that hold a server connection of the entry.
fn holding(clients: &[Shown], entry: &str) -> String {
    let text = |row: &Shown, key: &str| row.get(key).cloned().unwrap_or_default();
    let linked = clients.iter().filter(|row| text(row, "database") == entry && !text(row, "link").is_empty());
    let named: Vec<_> = linked
        .map(|row| {
            format!(
                "client {}:{} (role `{}`, `{}`)",
                text(row, "addr"),
                text(row, "port"),
                text(row, "user"),
                text(row, "application_name")
            )
        })
        .collect();
    if named.is_empty() { "no client holds one any more".to_owned() } else { named.join("; ") }
}

async fn is_paused(admin: &Admin, entry: &Entry) -> Result<bool, AdminError> {
    Ok(admin.entries().await?.iter().any(|e| e.name == entry.name && e.paused))
}

/// Replaces a file whose text is `old`; returns whether it still was. Whoever goes through here waits for the others: poolers
/// may share a file. A link stays one: what it leads to is the file.
///
/// # Errors
/// Blocked, if it cannot be replaced; transient, if others are at it until the deadline.
pub(super) async fn exchange(path: &Path, old: &str, new: &str, deadline: Instant) -> Result<bool, StepError> {
    let failed = |error| crate::world::io_failure("replace", path, error);
    let path = &path.canonicalize().map_err(failed)?;
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
    // given back with the file, which is closed in a moment
    loop {
        match directory.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(StepError::transient(format!("others are replacing `{}`", path.display())));
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    if std::fs::read_to_string(path).map_err(failed)? != old {
        return Ok(false);
    }
    let (path, new) = (path.clone(), new.to_owned());
    aside(move || swap(&path, &new, Outlives::Host)).await.map(|()| true)
}
