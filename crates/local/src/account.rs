//! The operating system account that servers run as.
//!
//! PostgreSQL and PgBouncer refuse to run as root. When pgleap itself is root, everything it starts for a cluster
//! runs as that cluster's own account, with that account's groups: Debian's servers read their TLS key by one.
//! Survives: variables of the caller's shell (`PGHOST`, `PGPASSWORD`, `LANG`), pgleap being killed: its tools die
//! with it. Does not: change accounts without being root.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::unistd::{Gid, Uid, User};
use tokio::process::Command;

/// Why there is no account to run servers as.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No such user.
    #[error("there is no user `{name}` to run servers as; `scripts/setup` makes a system user `postgres`")]
    Unknown {
        /// The user looked for.
        name: String,
    },
    /// Root was asked for, and the servers refuse it.
    #[error("servers cannot run as `{name}`: PostgreSQL and PgBouncer refuse root")]
    Root {
        /// The user asked for.
        name: String,
    },
    /// Only root can change accounts.
    #[error("cannot run servers as `{wanted}`: pgleap runs as `{current}`, and only root can change accounts")]
    NotAllowed {
        /// The account that was asked for.
        wanted: String,
        /// The account this process has.
        current: String,
    },
    /// The file whose owner decides belongs to root.
    #[error("`{path}` belongs to root, and no server runs as root")]
    RootOwned {
        /// The file or directory.
        path: PathBuf,
    },
    /// The file or the user database could not be read.
    #[error("cannot find out who owns `{path}`")]
    Lookup {
        /// The file, or the name that was looked up.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// An account and everything needed to start a program as it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name; the number where the system has no name for it.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// The home directory; it need not exist.
    pub home: PathBuf,
    /// All groups, the primary one included.
    groups: Vec<u32>,
    /// Whether programs have to be started as another account than our own.
    switch: bool,
}

impl Account {
    /// Returns the account for servers: ourselves, or, when we are root, `wanted` or else `postgres`.
    ///
    /// # Errors
    /// [`AccountError::Unknown`] without such a user, [`AccountError::Root`] if root was asked for,
    /// [`AccountError::NotAllowed`] if another account is wanted and we are not root.
    pub fn for_servers(wanted: Option<&str>) -> Result<Account, AccountError> {
        let current = nix::unistd::geteuid();
        if current.is_root() {
            return Account::named(wanted.unwrap_or("postgres"));
        }
        let account = Account::of_uid(current)?;
        match wanted {
            Some(wanted) if wanted != account.name => {
                Err(AccountError::NotAllowed { wanted: wanted.to_string(), current: account.name })
            }
            _ => Ok(account),
        }
    }

    /// Returns the account that this process has, root or not: for programs that are no servers.
    ///
    /// # Errors
    /// [`AccountError::Lookup`].
    pub fn ourselves() -> Result<Account, AccountError> {
        Account::of_uid(nix::unistd::geteuid())
    }

    /// Returns the account that owns `path`, such as an existing data directory.
    ///
    /// # Errors
    /// [`AccountError::RootOwned`] if that is root, [`AccountError::NotAllowed`] if it is somebody else and we are
    /// not root, [`AccountError::Lookup`] if the path cannot be read.
    pub fn of_owner(path: &Path) -> Result<Account, AccountError> {
        let owner = std::fs::metadata(path)
            .map_err(|source| AccountError::Lookup { path: path.to_path_buf(), source })
            .map(|metadata| Uid::from_raw(metadata.uid()))?;
        if owner.is_root() {
            return Err(AccountError::RootOwned { path: path.to_path_buf() });
        }
        let account = Account::of_uid(owner)?;
        let current = nix::unistd::geteuid();
        if owner != current && !current.is_root() {
            let current = Account::of_uid(current)?.name;
            return Err(AccountError::NotAllowed { wanted: account.name, current });
        }
        Ok(account)
    }

    fn named(name: &str) -> Result<Account, AccountError> {
        let user = User::from_name(name)
            .map_err(|errno| AccountError::Lookup { path: name.into(), source: errno.into() })?
            .ok_or_else(|| AccountError::Unknown { name: name.to_string() })?;
        if user.uid.is_root() {
            return Err(AccountError::Root { name: name.to_string() });
        }
        Ok(Account::from(user))
    }

    fn of_uid(uid: Uid) -> Result<Account, AccountError> {
        let user = User::from_uid(uid)
            .map_err(|errno| AccountError::Lookup { path: uid.to_string().into(), source: errno.into() })?;
        Ok(match user {
            Some(user) => Account::from(user),
            // A container started with a bare number as its user.
            None => Account {
                name: uid.to_string(),
                uid: uid.as_raw(),
                gid: if uid == nix::unistd::geteuid() { nix::unistd::getegid().as_raw() } else { uid.as_raw() },
                home: std::env::var_os("HOME").map_or_else(|| "/".into(), PathBuf::from),
                groups: Vec::new(),
                switch: uid != nix::unistd::geteuid(),
            },
        })
    }

    /// Returns a command that runs `program` as this account; nothing is started yet.
    ///
    /// The program works in `/`, reads nothing from stdin, speaks English (`LC_ALL=C`), and sees no `PG*` variable
    /// of ours. It is killed when the returned child is dropped, and by the kernel when the *thread* that spawned it
    /// ends: spawn from a runtime's worker or from `main`, never inside `spawn_blocking` or `block_in_place`.
    /// What the program itself leaves behind in the background (`pg_ctl start`, `pgbouncer -d`) goes on.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, _) in std::env::vars_os() {
            let name_bytes = name.as_encoded_bytes();
            if name_bytes.starts_with(b"PG") || name_bytes.starts_with(b"LC_") || name_bytes == b"LANGUAGE" {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name);
        command.stdin(Stdio::null()).current_dir("/").kill_on_drop(true);
        self.become_in(&mut command);
        command
    }

    #[cfg(target_os = "linux")]
    fn become_in(&self, command: &mut Command) {
        let identity = self.switch.then(|| {
            let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
            (groups, Gid::from_raw(self.gid), Uid::from_raw(self.uid))
        });
        let parent = nix::unistd::getpid();
        let between_fork_and_exec = move || {
            if let Some((groups, gid, uid)) = &identity {
                nix::unistd::setgroups(groups)?;
                nix::unistd::setgid(*gid)?;
                nix::unistd::setuid(*uid)?;
            }
            // Changing the user clears this setting, so it comes last. A parent that died before it was made
            // would never send the signal.
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            if nix::unistd::getppid() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        };
        #[allow(unsafe_code, reason = "the kernel offers these only between fork and exec")]
        // SAFETY: only direct system calls, no allocation and no locks; the list of groups was made before the fork.
        unsafe {
            command.pre_exec(between_fork_and_exec);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn become_in(&self, command: &mut Command) {
        if self.switch {
            command.gid(self.gid).uid(self.uid);
        }
    }

    /// Returns the first directory on the way to `path` that this account may not enter, if there is one.
    ///
    /// Looks at owner, groups and mode only; a directory that does not exist yet does not count as closed.
    pub fn closed_dir_on_the_way_to(&self, path: &Path) -> Option<PathBuf> {
        let mut dirs: Vec<&Path> = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
        dirs.reverse();
        dirs.into_iter()
            .find(|dir| std::fs::metadata(dir).is_ok_and(|metadata| !self.may_enter(&metadata)))
            .map(Path::to_path_buf)
    }

    fn may_enter(&self, metadata: &std::fs::Metadata) -> bool {
        let (mode, gid) = (metadata.mode(), metadata.gid());
        if metadata.uid() == self.uid {
            mode & 0o100 != 0
        } else if gid == self.gid || self.groups.contains(&gid) {
            mode & 0o010 != 0
        } else {
            mode & 0o001 != 0
        }
    }

    /// Gives a file we made to this account; does nothing when we are that account.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        if self.switch { std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)) } else { Ok(()) }
    }
}

impl From<User> for Account {
    fn from(user: User) -> Account {
        let groups = CString::new(user.name.as_str()).map(|name| groups_of(&name, user.gid)).unwrap_or_default();
        Account {
            switch: user.uid != nix::unistd::geteuid(),
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
            groups,
        }
    }
}

#[cfg(target_os = "linux")]
fn groups_of(name: &std::ffi::CStr, primary: Gid) -> Vec<u32> {
    // Without its groups an account can still do nearly everything, so a failing lookup is no reason to stop.
    nix::unistd::getgrouplist(name, primary)
        .map_or_else(|_| vec![primary.as_raw()], |groups| groups.into_iter().map(Gid::as_raw).collect())
}

#[cfg(not(target_os = "linux"))]
fn groups_of(_name: &std::ffi::CStr, primary: Gid) -> Vec<u32> {
    vec![primary.as_raw()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_unknown_user_or_root_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            assert!(matches!(Account::for_servers(Some("root")), Err(AccountError::NotAllowed { .. })));
            return;
        }
        let error = Account::for_servers(Some("pgleap-nobody-has-this")).unwrap_err();
        assert!(error.to_string().contains("scripts/setup"), "{error}");
        assert!(matches!(Account::for_servers(Some("root")), Err(AccountError::Root { .. })));
        assert!(matches!(Account::of_owner(Path::new("/")), Err(AccountError::RootOwned { .. })));
    }

    #[test]
    fn the_owner_of_a_directory_decides() {
        let account = Account::for_servers(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        account.take(dir.path()).unwrap();
        assert_eq!(Account::of_owner(dir.path()).unwrap(), account);
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let account = Account::for_servers(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(account.closed_dir_on_the_way_to(&closed.join("not-yet/data")), Some(closed.clone()));
        assert_eq!(account.closed_dir_on_the_way_to(&closed), None, "the directory itself is not on the way");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn a_program_runs_as_the_account_with_its_groups_and_without_our_variables() {
        let account = Account::for_servers(None).unwrap();
        let mut command = account.command("/bin/sh");
        command.args(["-c", "id -u; id -g; id -G; pwd; echo $LC_ALL; env | grep -c ^PG; echo $HOME"]);
        let output = command.output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], account.uid.to_string());
        assert_eq!(lines[1], account.gid.to_string());
        let mut groups: Vec<u32> = lines[2].split(' ').map(|gid| gid.parse().unwrap()).collect();
        let mut wanted = account.groups.clone();
        groups.sort_unstable();
        wanted.sort_unstable();
        if account.switch {
            assert_eq!(groups, wanted);
        }
        assert_eq!(lines[3..6], ["/", "C", "0"]);
        assert_eq!(lines[6], account.home.to_str().unwrap());
    }
}
