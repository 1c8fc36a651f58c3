//! Whether a pooler itself can log in where its clients are to be led: with its own passwords, keys and TLS, before anybody
//! waits.
//!
//! Entries that are there for a moment lead to the new address. PgBouncer is given them by a RELOAD, and its file back at
//! once. The console's role then comes by each of them as a client would, and PgBouncer logs in for it as one of those
//! whose pools it has: what its clients' passwords or SCRAM keys are, nobody but PgBouncer needs to know. The side that
//! follows is closed, so it refuses whoever has logged in the right to connect: that is as good as being let in.
//!
//! Who does not get in at the old address proves nothing by not getting in at the new. What an interrupted trial leaves
//! goes before the file is next rewritten, and when a guard begins.

use std::{collections::BTreeSet, path::Path, time::Duration};

use futures::future::join_all;
use pgleap_saga::StepError;
use tokio::time::timeout;
use tokio_postgres::{NoTls, error::SqlState};

use super::{
    PgBouncer,
    admin::{Admin, Shown},
    ini::{self, Address, Ini},
    pooler::{Move, exchange},
};

/// How the entries of a trial are called; a number follows.
const NAME: &str = "pgleap_trial_";
/// The line that the lines of a trial begin with, at the end of the file.
const MARK: &str = "\n; pgleap tries logins: what follows goes in a moment\n";
/// How long a login may take.
const LOGIN_BUDGET: Duration = Duration::from_secs(10);
/// Whoever waits when a server is lost is told nothing, and whoever comes then is: so somebody comes later.
const LATER: Duration = Duration::from_secs(2);
/// More of them at a time would be felt.
const AT_A_TIME: usize = 8;

/// One login: by whose entry, as whom, from where to where.
struct Login {
    entry: String,
    user: String,
    /// What the entry says behind its `=`, leading to the old address.
    settings: String,
    old: Address,
    new: Address,
}

/// What became of a login.
enum Outcome {
    In,
    /// What was said, if anything was.
    Out(String),
}

/// What a login says of the new address.
enum Compared {
    In,
    /// It fails, and did not at the old one; what was said.
    Out(String),
    /// It fails at both; what was said at the old one.
    Unknown(String),
}

/// Removes the lines of a trial that was interrupted, if there are any.
///
/// # Errors
/// Blocked, if the file cannot be replaced.
pub fn forget(path: &Path) -> Result<(), StepError> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    match text.split_once(MARK) {
        Some((before, _)) => exchange(path, &text, before).map(drop),
        None => Ok(()),
    }
}

impl PgBouncer {
    /// Sees that this PgBouncer can log in at the new address of each entry, as everybody who came by it so far and gets in
    /// at the old one. No client is touched, and the file is as it was. Returns, a line each, of whom nothing is known, as they do
    /// not get in at the old one either.
    ///
    /// # Errors
    /// Fatal, naming who cannot, and what the server or PgBouncer said; or if its configuration cannot be read anew.
    pub async fn try_logins(&self, moves: &[Move]) -> Result<Vec<String>, StepError> {
        let admin = self.admin().await?;
        let logins = logins(&admin, &self.ini().await?, moves).await?;
        if logins.is_empty() {
            return Ok(Vec::new());
        }
        let lines = |(n, login): (usize, &Login)| {
            let there = ini::redirect(&login.settings, &login.old, &login.new).unwrap_or_default();
            format!("{NAME}{n}_old = {}\n{NAME}{n}_new = {there}\n", login.settings)
        };
        let lines = format!("{MARK}[databases]\n{}", logins.iter().enumerate().map(lines).collect::<String>());
        let names = self.reload_with(&admin, &lines).await?;
        let known = (0..logins.len()).all(|n| names.contains(&format!("{NAME}{n}_new")));
        let (mut failed, mut unknown) = (Vec::new(), Vec::new());
        if known {
            let numbered: Vec<_> = logins.iter().enumerate().collect();
            for some in numbered.chunks(AT_A_TIME) {
                for compared in join_all(some.iter().map(|(n, login)| self.compare(*n, login))).await {
                    match compared {
                        Compared::In => {}
                        Compared::Out(why) => failed.push(why),
                        Compared::Unknown(why) => unknown.push(why),
                    }
                }
            }
        }
        // what was opened goes with its entries
        admin.command("RELOAD", super::pooler::COMMAND_BUDGET).await?;
        if !known {
            return Err(StepError::fatal(
                format!("PgBouncer {} does not read its configuration anew", self.pooler),
                "its log says which line it stumbles over; mend it, RELOAD, then try again",
            ));
        }
        if failed.is_empty() {
            return Ok(unknown);
        }
        Err(StepError::fatal(
            format!("PgBouncer {} cannot log in where its clients are to be led", self.pooler),
            "see to pg_hba.conf, the role and its password, and TLS there; what PgBouncer met is in its log; then try again",
        )
        .because(failed.join("; ")))
    }

    /// Reads the configuration anew with these lines at its end, gives the file back as it was, and returns the entries.
    async fn reload_with(&self, admin: &Admin, lines: &str) -> Result<Vec<String>, StepError> {
        let path = &self.pooler.ini;
        let text = std::fs::read_to_string(path).map_err(|error| crate::world::io_failure("read", path, error))?;
        if !exchange(path, &text, &(text.clone() + lines))? {
            return Err(StepError::transient(format!("`{}` was edited just now", path.display())));
        }
        let reloaded = admin.command("RELOAD", super::pooler::COMMAND_BUDGET).await;
        forget(path)?;
        reloaded?;
        Ok(admin.entries().await?.into_iter().map(|entry| entry.name).collect())
    }

    /// Logs in at the new address; if that fails, at the old one.
    async fn compare(&self, n: usize, Login { user, entry, old, new, .. }: &Login) -> Compared {
        let Outcome::Out(there) = self.log_in(&format!("{NAME}{n}_new")).await else { return Compared::In };
        match self.log_in(&format!("{NAME}{n}_old")).await {
            Outcome::In => Compared::Out(format!("`{user}` by `{entry}` at {new}: {there}")),
            Outcome::Out(here) => {
                Compared::Unknown(format!("`{user}` by `{entry}` does not get in at {old} either: {here}"))
            }
        }
    }

    async fn log_in(&self, entry: &str) -> Outcome {
        let config = Admin::login(&self.pooler, self.password.as_ref(), entry);
        let later = async {
            tokio::time::sleep(LATER).await;
            config.connect(NoTls).await
        };
        // nobody is sent away early: a login that fails for nobody is not tried again for `server_login_retry`
        let answered = async {
            tokio::select! {
                answered = config.connect(NoTls) => answered,
                answered = later => answered,
            }
        };
        match timeout(LOGIN_BUDGET, answered).await {
            Err(_) => Outcome::Out(format!("no answer within {} s", LOGIN_BUDGET.as_secs())),
            Ok(Ok(_)) => Outcome::In,
            Ok(Err(error)) => {
                let Some(said) = error.as_db_error() else { return Outcome::Out(error.to_string()) };
                // old versions pass the server's words on, and not its code
                let closed = *said.code() == SqlState::INSUFFICIENT_PRIVILEGE
                    || said.message().contains("permission denied for database");
                if closed { Outcome::In } else { Outcome::Out(said.message().to_owned()) }
            }
        }
    }
}

/// Returns the logins that there are pools for.
async fn logins(admin: &Admin, ini: &Ini, moves: &[Move]) -> Result<Vec<Login>, StepError> {
    let (pools, config) = (admin.show("POOLS").await?, admin.show("CONFIG").await?);
    let text = |row: &Shown, key: &str| row.get(key).cloned().unwrap_or_default();
    let setting = |key: &str| config.iter().find(|row| text(row, "key") == key).map(|row| text(row, "value"));
    let auth_user = setting("auth_user").filter(|user| !user.is_empty());
    let known = setting("auth_file").and_then(|path| std::fs::read_to_string(path).ok()).map(|file| users(&file));
    let mut logins = Vec::new();
    for step in moves {
        for entry in &step.entries {
            // one that leads there already has shown that it can
            let settings = ini.settings_of(&entry.name);
            let settings = settings.and_then(|settings| ini::redirect(settings, &step.old, &step.old));
            let Some(settings) = settings else { continue };
            let own = |key: &str| ini::setting(&settings, key);
            let forced = own("user");
            let auth_user = own("auth_user").or_else(|| auth_user.clone());
            let mut as_whom: BTreeSet<_> = pools
                .iter()
                .filter(|pool| text(pool, "database") == entry.name)
                .map(|pool| text(pool, "user"))
                .collect();
            if let Some(user) = &forced {
                as_whom = BTreeSet::from([user.clone()]);
            }
            for user in as_whom {
                // whose password is asked of the server is looked up there: by somebody who logs in for that
                let is_known = forced.is_some() || known.as_ref().is_none_or(|known| known.contains(&user));
                let user = auth_user.clone().filter(|_| !is_known).unwrap_or(user);
                let settings = match forced {
                    Some(_) => settings.clone(),
                    None => format!("{settings} user={}", ini::quote(&user)),
                };
                let (old, new) = (step.old.clone(), step.new.clone());
                logins.push(Login { entry: entry.name.clone(), user, settings, old, new });
            }
        }
    }
    Ok(logins)
}

/// Returns the names in an `auth_file`: the first word of each line, in double quotes.
fn users(file: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let mut rest = line.trim_start().strip_prefix('"')?.chars().peekable();
        let mut name = String::new();
        while let Some(c) = rest.next() {
            match c {
                '"' if rest.peek() == Some(&'"') => name.extend(rest.next()),
                '"' => return Some(name),
                c => name.push(c),
            }
        }
        None
    };
    file.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_auth_file_are_read_with_their_quotes() {
        let file = "\"app\" \"secret\"\n  \"o\"\"dd\" \"SCRAM-SHA-256$4096:x\" rest\n; no line\n\"open\n";
        assert_eq!(users(file), BTreeSet::from(["app".to_owned(), "o\"dd".to_owned()]));
    }

    #[test]
    fn lines_of_an_interrupted_trial_go_and_leave_the_rest_to_the_letter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgbouncer.ini");
        for text in ["[databases]\na = host=h\n", "[databases]\r\na = host=h"] {
            std::fs::write(&path, format!("{text}{MARK}[databases]\n{NAME}0_new = host=x\n")).unwrap();
            forget(&path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            forget(&path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
