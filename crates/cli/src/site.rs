//! One upgrade on this host: its configuration, its journal, its id, and whether somebody works on it.

use std::{
    fs::{DirBuilder, File},
    hash::{BuildHasher, Hasher, RandomState},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use pgleap_saga::{Cx, Journal, PlanState};
use pgleap_upgrade::{
    Config, Standing, World,
    guard::Launch,
    provision::{PrepareDatabases, prepare_databases::SourceFacts},
    standing,
};

use crate::{errors::CommandError, exit::Exit};

/// Where the journal keeps the upgrade's id.
const UPGRADE_ID: &str = "upgrade_id";
/// The journal's file in the state directory.
const JOURNAL: &str = "journal.sqlite";

/// A configuration, and the place of its journal.
pub struct Site {
    /// What the operator wants.
    pub config: Config,
    /// The file it was read from.
    pub file: PathBuf,
    journal: PathBuf,
}

impl Site {
    /// Reads the configuration; contacts nothing.
    ///
    /// # Errors
    /// Every problem that the file has, at once.
    pub fn load(config: &Path) -> Result<Self, CommandError> {
        let file = config.to_owned();
        let config = Config::load(config)?;
        Ok(Self { journal: config.state_dir.join(JOURNAL), file, config })
    }

    /// Returns the site of this upgrade's twin, with a journal of its own.
    pub fn of_twin(&self, config: Config) -> Self {
        Self { journal: config.state_dir.join(JOURNAL), file: self.file.clone(), config }
    }

    /// Opens the journal to read; `None` if nothing was begun here.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn read(&self) -> Result<Option<Journal>, CommandError> {
        match self.journal.exists() {
            true => Ok(Some(Journal::read_only(&self.journal)?)),
            false => Ok(None),
        }
    }

    /// Opens the journal to read.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn read_begun(&self) -> Result<Journal, CommandError> {
        self.read()?.ok_or_else(|| {
            CommandError::new(Exit::Usage, "nothing was begun here")
                .because(format!("there is no journal `{}`", self.journal.display()))
                .hint("`pgleap run` begins; or name the configuration that it was begun with by `--config`")
        })
    }

    /// Opens an existing journal to write.
    ///
    /// # Errors
    /// If there is none, or another process writes it.
    pub fn write_begun(&self) -> Result<Journal, CommandError> {
        self.read_begun()?;
        Ok(Journal::open(&self.journal)?)
    }

    /// Opens the journal to write; creates it, and its directory, readable by this user alone.
    ///
    /// # Errors
    /// If that cannot be done, or another process writes it.
    pub fn write(&self) -> Result<Journal, CommandError> {
        let directory = &self.config.state_dir;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
            CommandError::new(Exit::Usage, format!("cannot create the state directory `{}`", directory.display()))
                .because(error.to_string())
                .state("nothing was changed")
                .hint("make its parent writable, or set `state_dir` in the configuration")
        })?;
        Ok(Journal::open(&self.journal)?)
    }

    /// Describes the world of the upgrade with this id; contacts nothing.
    ///
    /// # Errors
    /// Every password that could not be had, and the like, at once.
    pub async fn world(&self, id: String) -> Result<World, CommandError> {
        let program = std::env::current_exe().map_err(|error| CommandError::of(Exit::Unexpected, &error))?;
        let config = std::path::absolute(&self.file).map_err(|error| CommandError::of(Exit::Unexpected, &error))?;
        Ok(World::describe(self.config.clone(), id, Launch::Child { program, config }).await?)
    }

    /// Returns where what upgrades took is kept.
    pub fn history(&self) -> PathBuf {
        self.config.plan.history.clone().unwrap_or_else(|| self.config.state_dir.join("history.jsonl"))
    }

    /// Returns the process that works on the upgrade now.
    ///
    /// Looked up without touching its lock: a lock taken for a moment could refuse a process that starts just then.
    pub fn writer(&self) -> Option<u32> {
        let mut lock = self.journal.clone().into_os_string();
        lock.push(".lock");
        let path = PathBuf::from(lock);
        let pid: u32 = std::fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        let holds = match std::fs::read_to_string("/proc/locks") {
            Ok(locks) => {
                let inode = format!(":{}", File::open(&path).ok()?.metadata().ok()?.ino());
                let pid = pid.to_string();
                locks.lines().any(|line| {
                    line.contains("FLOCK")
                        && line.split_whitespace().any(|word| word == pid)
                        && line.split_whitespace().any(|word| word.ends_with(&inode))
                })
            }
            // Without that list a living process of that number is the best that can be known.
            Err(_) => i32::try_from(pid).is_ok_and(|pid| {
                let found = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
                found.is_ok() || found == Err(nix::errno::Errno::EPERM)
            }),
        };
        holds.then_some(pid)
    }
}

/// Returns the id that the journal holds.
///
/// # Errors
/// If the journal cannot be read.
pub fn known_id(journal: &Journal) -> Result<Option<String>, CommandError> {
    Ok(journal.meta(UPGRADE_ID)?)
}

/// Keeps the id of a new upgrade.
///
/// # Errors
/// If the journal cannot be written.
pub fn keep_id(journal: &Journal, id: &str) -> Result<(), CommandError> {
    Ok(journal.set_meta(UPGRADE_ID, id)?)
}

/// Returns four hexadecimal digits for a new upgrade.
pub fn new_id() -> String {
    // Seeded from the system's randomness: enough to tell the leftovers of two upgrades apart.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("{:04x}", hasher.finish() & 0xffff)
}

/// Returns where the upgrade stands.
///
/// # Errors
/// If the journal cannot be read.
pub fn standing(journal: &Journal) -> Result<Standing, CommandError> {
    Ok(standing::standing(&journal.plans()?))
}

/// Returns what the source was when the upgrade began, if it came that far.
///
/// # Errors
/// If the journal cannot be read.
pub fn source_facts(world: &World, journal: &Journal) -> Result<Option<SourceFacts>, CommandError> {
    Ok(Cx::standalone(world, journal).try_output::<PrepareDatabases>()?)
}

/// Returns the newest plan that is open, or else the newest.
pub fn current<'a>(plans: &[&'a PlanState]) -> Option<&'a PlanState> {
    plans.iter().rfind(|plan| plan.outcome.is_none()).or_else(|| plans.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrades_id_is_four_hexadecimal_digits() {
        let id = new_id();
        assert!(id.len() == 4 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
    }

    #[test]
    fn the_writer_of_a_journal_is_known_while_it_lives_and_not_after() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "state_dir = \"{}\"\n[source]\ndsn = \"host=h user=u\"\n[target]\nversion = 18\nport = 5434\n\
             data_dir = \"/d\"\n[provider]\nkind = \"self_managed\"\n[route]\nkind = \"pgbouncer\"\n\
             [[route.pgbouncer]]\nadmin = \"host=h user=u\"\nini = \"/i\"\n",
            directory.path().join("state").display()
        );
        let file = directory.path().join("pgleap.toml");
        std::fs::write(&file, text).unwrap();
        let site = Site::load(&file).unwrap();
        assert!(site.read().unwrap().is_none());
        assert_eq!(site.writer(), None);
        let journal = site.write().unwrap();
        assert_eq!(site.writer(), Some(std::process::id()));
        drop(journal);
        assert_eq!(site.writer(), None, "the file stays, the lock does not");
        let mode = std::fs::metadata(&site.config.state_dir).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
