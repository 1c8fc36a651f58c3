//! How clients are moved: every PgBouncer of the configuration, worked on together.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::{join_all, try_join_all};
use pgleap_saga::StepError;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    config::Pooler,
    pg::Secret,
    pgbouncer::{
        admin::{Admin, AdminError, Entry, quote},
        ini::{self, Address},
    },
};

/// How often a pooler is asked while something is awaited of it.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const COMMAND_BUDGET: Duration = Duration::from_secs(5);

/// All poolers of the upgrade.
pub struct PgBouncers {
    members: Vec<Member>,
}

/// One PgBouncer process.
pub struct Member {
    /// Where it is.
    pub pooler: Pooler,
    password: Option<Secret>,
    admin: Mutex<Option<Arc<Admin>>>,
    /// Consoles opened in advance, one for each entry: PAUSE holds its connection until it is done.
    spare: Mutex<Vec<Admin>>,
}

/// What one pooler leads to a cluster.
#[derive(Debug, Clone)]
pub struct Entries {
    member: usize,
    /// Its entries that lead there.
    pub entries: Vec<Entry>,
}

impl Entries {
    fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }
}

impl Member {
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
}

impl PgBouncers {
    /// Describes the poolers; nothing is connected yet.
    pub fn new(poolers: impl Iterator<Item = (Pooler, Option<Secret>)>) -> Self {
        let member = |(pooler, password)| Member { pooler, password, admin: Mutex::default(), spare: Mutex::default() };
        Self { members: poolers.map(member).collect() }
    }

    /// Returns every pooler.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns, for each pooler, the entries that lead to one of `databases` at `address`.
    ///
    /// # Errors
    /// [`AdminError`] of the first pooler that fails.
    pub async fn leading_to(&self, address: &Address, databases: &[String]) -> Result<Vec<Entries>, AdminError> {
        let of_member = async |(member, m): (usize, &Member)| {
            let mut entries = m.admin().await?.entries().await?;
            entries.retain(|e| leads_to(e, address) && databases.contains(&e.database));
            Ok(Entries { member, entries })
        };
        try_join_all(self.members.iter().enumerate().map(of_member)).await
    }

    /// Opens the consoles that [`Self::begin_pause`] will use, so that no login happens in the write pause.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn warm_up(&self, all: &[Entries]) -> Result<(), AdminError> {
        for entries in all {
            let member = &self.members[entries.member];
            member.admin().await?;
            let mut spare = member.spare.lock().await;
            spare.retain(|admin| !admin.is_closed());
            while spare.len() < entries.entries.len() {
                spare.push(member.enter().await?);
            }
        }
        Ok(())
    }

    /// Asks every pooler to pause every entry, and returns when each is seen to be paused: transactions under way go on
    /// to their ends, and no new server connection is made.
    ///
    /// On an error or at the deadline some may be paused: [`Self::resume`] is what ends it.
    ///
    /// # Errors
    /// What a pooler answered, or fatal, naming the entry that is not paused in time.
    pub async fn begin_pause(&self, all: &[Entries], deadline: Instant) -> Result<(), StepError> {
        let one = async |member: &Member, entry: &Entry| -> Result<(), StepError> {
            let console = member.console().await?;
            let left = deadline.saturating_duration_since(Instant::now());
            let command = format!("PAUSE {}", quote(&entry.name));
            // it answers when the pool is empty, which is not believed: `drained` looks
            let mut pause = tokio::spawn(async move { console.command(&command, left).await.map(|_| ()) });
            let admin = member.admin().await?;
            loop {
                if is_paused(&admin, entry).await? {
                    return Ok(());
                }
                if pause.is_finished()
                    && let Ok(answer) = (&mut pause).await
                {
                    answer?;
                }
                if Instant::now() >= deadline {
                    return Err(StepError::fatal(
                        format!("PgBouncer {} has not paused `{}` in time", member.pooler, entry.name),
                        "look at its log, then try again",
                    ));
                }
                tokio::task::yield_now().await;
            }
        };
        try_join_all(self.flat(all).map(|(member, entry)| one(member, entry))).await?;
        Ok(())
    }

    /// Waits until no paused entry has a server connection left.
    ///
    /// # Errors
    /// What a pooler answered, or fatal, naming the entry that has not drained in time.
    pub async fn drained(&self, all: &[Entries], deadline: Instant) -> Result<(), StepError> {
        let one = async |member: &Member, entry: &Entry| -> Result<(), StepError> {
            let admin = member.admin().await?;
            loop {
                let servers = admin.server_connections(&entry.name).await?;
                if servers == 0 && is_paused(&admin, entry).await? {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    return Err(StepError::fatal(
                        format!(
                            "PgBouncer {} still has {servers} server connections for `{}`: a transaction does not end",
                            member.pooler, entry.name
                        ),
                        "find it in `SHOW SERVERS` there and in pg_stat_activity, wait until it has ended, then try again",
                    ));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        try_join_all(self.flat(all).map(|(member, entry)| one(member, entry))).await?;
        Ok(())
    }

    /// Lets every entry go on, whatever state it is in, and returns when none is paused.
    ///
    /// Consoles that PAUSE may still hold are given up: a pause outlives the connection that asked for it.
    ///
    /// # Errors
    /// A transient [`StepError`] that names the entry that stays paused.
    pub async fn resume(&self, all: &[Entries]) -> Result<(), StepError> {
        let one = async |member: &Member, entry: &Entry| -> Result<(), StepError> {
            let admin = member.admin().await?;
            let resume = format!("RESUME {}", quote(&entry.name));
            // refused when it is not paused, which is what is wanted: the look below decides
            let answer = admin.command(&resume, COMMAND_BUDGET).await;
            let paused = is_paused(&admin, entry).await?;
            match answer {
                _ if !paused => Ok(()),
                Err(error) => Err(error.into()),
                Ok(_) => Err(StepError::transient(format!(
                    "PgBouncer {} keeps `{}` paused after RESUME",
                    member.pooler, entry.name
                ))),
            }
        };
        // one pooler that does not answer must not keep the others' clients waiting
        join_all(self.flat(all).map(|(member, entry)| one(member, entry))).await.into_iter().collect()
    }

    /// Pauses every entry, reloads and resumes on the same server: the least that any switchover costs clients.
    ///
    /// # Errors
    /// As [`Self::begin_pause`]; the entries are resumed all the same.
    pub async fn micro_pause(&self, all: &[Entries], budget: Duration) -> Result<Duration, StepError> {
        self.warm_up(all).await?;
        let started = Instant::now();
        let deadline = started + budget;
        let pause = async {
            self.begin_pause(all, deadline).await?;
            self.drained(all, deadline).await?;
            for entries in all {
                self.members[entries.member].admin().await?.command("RELOAD", COMMAND_BUDGET).await?;
            }
            Ok(())
        };
        let paused = pause.await;
        self.resume(all).await?;
        paused.map(|()| started.elapsed())
    }

    fn flat<'a>(&'a self, all: &'a [Entries]) -> impl Iterator<Item = (&'a Member, &'a Entry)> {
        all.iter().flat_map(|entries| entries.entries.iter().map(|entry| (&self.members[entries.member], entry)))
    }

    /// Computes each pooler's configuration with every entry moved, and checks that the file can be replaced.
    ///
    /// # Errors
    /// Blocked, if a file cannot be read or replaced, or an entry is not in the file (but in an `%include`).
    pub fn rehearse(&self, all: &[Entries], from: &Address, to: &Address) -> Result<(), StepError> {
        for entries in all {
            let member = &self.members[entries.member];
            let path = &member.pooler.ini;
            let text = read(path)?;
            let rewritten = ini::repoint(&text, from, to, |name| entries.has(name));
            let missing: Vec<_> =
                entries.entries.iter().map(|e| &e.name).filter(|name| !rewritten.moved.contains(name)).collect();
            if !missing.is_empty() {
                return Err(StepError::blocked(
                    format!("entries {missing:?} of PgBouncer {} are not in `{}`", member.pooler, path.display()),
                    "name the file that holds them under `ini`; entries in an included file cannot be moved yet",
                ));
            }
            replace(path, &text)?;
        }
        Ok(())
    }

    /// Moves every entry from one address to the other: file replaced, RELOAD, and a look at what it made of it.
    ///
    /// # Errors
    /// [`StepError`]; the file may already be replaced, and running this again finishes it.
    pub async fn repoint(
        &self,
        all: &[Entries],
        from: &Address,
        to: &Address,
        deadline: Instant,
    ) -> Result<(), StepError> {
        let one = async |entries: &Entries| -> Result<(), StepError> {
            let member = &self.members[entries.member];
            let path = &member.pooler.ini;
            let rewritten = ini::repoint(&read(path)?, from, to, |name| entries.has(name));
            if !rewritten.moved.is_empty() {
                replace(path, &rewritten.text)?;
            }
            let admin = member.admin().await?;
            admin.command("RELOAD", COMMAND_BUDGET).await?;
            // 1.24 answers success on a file that it could not read
            loop {
                let now = admin.entries().await?;
                let stays: Vec<_> = entries
                    .entries
                    .iter()
                    .filter(|wanted| !now.iter().any(|e| e.name == wanted.name && leads_to(e, to)))
                    .map(|entry| entry.name.clone())
                    .collect();
                if stays.is_empty() {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    return Err(StepError::transient(format!(
                        "PgBouncer {} still leads {stays:?} elsewhere after RELOAD",
                        member.pooler
                    )));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        try_join_all(all.iter().map(one)).await?;
        Ok(())
    }
}

async fn is_paused(admin: &Admin, entry: &Entry) -> Result<bool, AdminError> {
    Ok(admin.entries().await?.iter().any(|e| e.name == entry.name && e.paused))
}

/// Whether an entry leads to `address`; one without a host leads to a Unix socket.
pub(crate) fn leads_to(entry: &Entry, address: &Address) -> bool {
    let same_host = entry.host == address.host || (entry.host.is_empty() && address.host.starts_with('/'));
    same_host && entry.port == address.port
}

fn read(path: &Path) -> Result<String, StepError> {
    std::fs::read_to_string(path).map_err(|e| crate::world::io_failure("read", path, e))
}

/// Replaces a file in one step, so that a reader sees the old text or the new one; owner and mode are kept.
fn replace(path: &Path, text: &str) -> Result<(), StepError> {
    use std::{
        io::Write,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };
    let fail = |e| crate::world::io_failure("replace", path, e);
    let old = std::fs::metadata(path).map_err(fail)?;
    let mut next = path.to_owned().into_os_string();
    next.push(".pgleap-next");
    let next = PathBuf::from(next);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&next)?;
        file.set_permissions(std::fs::Permissions::from_mode(old.mode()))?;
        std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&next, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_keeps_the_mode_and_leaves_nothing_behind() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgbouncer.ini");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
