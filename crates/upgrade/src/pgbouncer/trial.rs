//! Whether a pooler itself can log in where its clients are to be led: with its own passwords, keys and TLS, before anybody
//! waits.
//!
//! Entries that are there for a moment lead to the new address. PgBouncer is given them by a RELOAD, and its file back at
//! once. The console's role then comes by each of them as a client would, and PgBouncer logs in for it as one of those
//! whose pools it has: what its clients' passwords or SCRAM keys are, nobody but PgBouncer needs to know. The side that
//! follows is closed, so it refuses whoever has logged in the right to connect: that is as good as being let in.
//!
//! Who does not get in at the old address proves nothing by not getting in at the new. What an interrupted trial leaves goes
//! from the file before that is next rewritten, and from PgBouncer when a guard begins, before the next trial, and with the
//! next rehearsal.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
    time::Duration,
};

use futures::future::join_all;
use pgleap_saga::{StepError, fault_point};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, error::SqlState};

use super::{
    PgBouncer,
    admin::{Admin, Shown},
    ini::{self, Address, Ini},
    pooler::{Move, REWRITES, exchange},
};
use crate::files::{aside, directory_of, keep};

/// How the names of a trial's entries begin. What follows cannot be guessed: they let in as somebody else.
const NAME: &str = "pgleap_trial_";
/// What the lines of a trial begin with, at the end of the file.
const MARK: &str = "\n; pgleap tries logins: what follows goes in a moment\n[databases]\n";
/// How long a trial may take; who was not tried by then is not known.
pub const TRIAL_BUDGET: Duration = Duration::from_secs(40);
/// How long a login may take.
const LOGIN_BUDGET: Duration = Duration::from_secs(10);
/// How long others who replace files beside it are waited for.
const WRITE_BUDGET: Duration = Duration::from_secs(1);
/// How long PgBouncer may take to let go of the entries.
const CLEAR_BUDGET: Duration = Duration::from_secs(5);
const CLEAR_AGAIN: Duration = Duration::from_millis(20);
/// Whoever waits when a server is lost is told nothing, and whoever comes then is: so somebody comes later.
const LATER: Duration = Duration::from_secs(2);
/// More of them at a time would be felt.
const AT_A_TIME: usize = 8;

/// One login: by whose entry, as whom, from where to where.
struct Login {
    entry: String,
    user: String,
    /// What the entry says behind its `=`, leading to the old address; no pool is filled in advance.
    settings: String,
    old: Address,
    new: Address,
}

/// A login failed.
struct Failed {
    said: String,
    /// What was said was not in words alone, which a server may say in any language.
    is_plain: bool,
}

/// What a login says of the new address.
enum Compared {
    In,
    /// It fails, and did not at the old one; what was said.
    Out(String),
    /// It fails at both, or in words that are not understood; what was said.
    Unknown(String),
}

/// Whether an entry of this name is one of a trial.
pub fn is_trial(name: &str) -> bool {
    name.starts_with(NAME)
}

/// Removes the lines of a trial that was interrupted, if there are any.
///
/// # Errors
/// Blocked, if the file cannot be replaced; transient, if it is being edited.
pub async fn forget(path: &Path, deadline: Instant) -> Result<(), StepError> {
    for _ in 0..REWRITES {
        let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
        let Some(without) = without_trial(&text) else { return Ok(()) };
        if exchange(path, &text, &without, deadline).await? {
            return Ok(());
        }
    }
    Err(edited(path))
}

/// Returns the text without a trial's lines; what was written below them stays.
fn without_trial(text: &str) -> Option<String> {
    let (before, mut after) = text.split_once(MARK)?;
    while is_trial(after) {
        after = after.split_once('\n').map_or("", |(_, next)| next);
    }
    let line_end = if after.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    Some(format!("{before}{line_end}{after}"))
}

fn edited(path: &Path) -> StepError {
    StepError::transient(format!("`{}` is being edited", path.display()))
}

async fn shows_trial(admin: &Admin) -> Result<bool, StepError> {
    let shown = admin.show("DATABASES").await?;
    Ok(shown.iter().filter_map(|row| row.get("name")).any(|name| is_trial(name)))
}

impl PgBouncer {
    /// Sees that this PgBouncer can log in at the new address of each entry, as everybody who came by it so far and gets in
    /// at the old one. No client is touched, and the file is as it was. Returns, a line each, of whom nothing is known by the
    /// deadline, or at all, as they do not get in at the old one either.
    ///
    /// Its configuration is changed, and read anew, between `begin` and the drop of what that returns; nobody needs to wait
    /// for the logins.
    ///
    /// # Errors
    /// Fatal, naming who cannot, and what the server or PgBouncer said; or if its configuration cannot be read anew.
    /// Transient, if another trial does not end by the deadline, or if the entries do not go. What `begin` said.
    pub async fn try_logins<G: Send>(
        &self,
        moves: &[Move],
        deadline: Instant,
        begin: impl Future<Output = Result<G, StepError>> + Send,
    ) -> Result<Vec<String>, StepError> {
        let Ok(_one_at_a_time) = timeout_at(deadline, self.trial.lock()).await else {
            return Err(StepError::transient(format!("PgBouncer {} is in another trial of its logins", self.pooler)));
        };
        self.clear().await?;
        let admin = self.admin().await?;
        let ini = self.ini().await?;
        let logins = logins(&admin, &ini, moves).await?;
        if logins.is_empty() {
            return Ok(Vec::new());
        }
        let nonce = RandomState::new().build_hasher().finish();
        let numbered = |(n, login)| (format!("{NAME}{nonce:016x}_{n}"), login);
        let named: Vec<_> = logins.iter().enumerate().map(numbered).collect();
        let begun = begin.await?;
        let tried = match self.load(&named, begun).await {
            Ok(()) => self.compare_all(&named, deadline).await,
            Err(error) => Err(error),
        };
        fault_point!("trial.before_clear");
        // what was opened goes with its entries
        let cleared = self.clear().await;
        let unknown = tried?;
        cleared?;
        // its entries came, and went: what else the files say was read twice
        if self.ini().await.is_ok_and(|now| now.texts() == ini.texts()) {
            self.reads(ini);
        }
        Ok(unknown)
    }

    /// Takes back what a trial left in the file, and in PgBouncer; nothing, if one is under way.
    ///
    /// # Errors
    /// As [`forget`]; or if PgBouncer does not let go of them.
    pub async fn tidy(&self) -> Result<(), StepError> {
        match self.trial.try_lock() {
            Ok(_no_other) => self.clear().await,
            Err(_) => Ok(()),
        }
    }

    /// RELOADs for as long as PgBouncer shows an entry of a trial, once its file holds none.
    async fn clear(&self) -> Result<(), StepError> {
        let deadline = Instant::now() + CLEAR_BUDGET;
        forget(&self.pooler.ini, deadline).await?;
        let mut reloaded = Ok(());
        loop {
            let shows = match self.admin().await {
                Ok(admin) => shows_trial(&admin).await,
                Err(error) => Err(error.into()),
            };
            if matches!(shows, Ok(false)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                shows?;
                reloaded?;
                return Err(StepError::transient(format!("PgBouncer {} keeps the entries of a trial", self.pooler)));
            }
            reloaded = self.reload().await.map(drop);
            tokio::time::sleep(CLEAR_AGAIN).await;
        }
    }

    /// Lets PgBouncer read its configuration with these entries at its end, gives the file back as it was, and drops `begun`.
    async fn load<G: Send>(&self, named: &[(String, &Login)], begun: G) -> Result<(), StepError> {
        let lines = |(name, login): &(String, &Login)| {
            let there = ini::redirect(&login.settings, &login.old, &login.new).unwrap_or_default();
            format!("{name}_old = {}\n{name}_new = {there}\n", login.settings)
        };
        let lines = MARK.to_owned() + &named.iter().map(lines).collect::<String>();
        let (path, deadline) = (&self.pooler.ini, Instant::now() + WRITE_BUDGET);
        let text = std::fs::read_to_string(path).map_err(|error| crate::world::io_failure("read", path, error))?;
        if !exchange(path, &text, &(text.clone() + &lines), deadline).await? {
            return Err(edited(path));
        }
        fault_point!("trial.after_write");
        let reloaded = self.reload().await;
        fault_point!("trial.after_reload");
        forget(path, Instant::now() + WRITE_BUDGET).await?;
        drop(begun);
        // a crash must not leave the entries of a trial
        let ini = path.canonicalize().map_err(|error| crate::world::io_failure("find", path, error))?;
        aside(move || keep(directory_of(&ini))).await?;
        let shown = reloaded?.show("DATABASES").await?;
        let known =
            |(name, _): &(String, &Login)| shown.iter().any(|row| row.get("name") == Some(&format!("{name}_new")));
        if named.iter().all(known) {
            return Ok(());
        }
        Err(StepError::fatal(
            format!("PgBouncer {} does not read its configuration anew", self.pooler),
            "its log says which line it stumbles over; mend it, RELOAD, then try again",
        ))
    }

    /// Some at a time, until the deadline.
    async fn compare_all(&self, named: &[(String, &Login)], deadline: Instant) -> Result<Vec<String>, StepError> {
        let (mut failed, mut unknown) = (Vec::new(), Vec::new());
        for some in named.chunks(AT_A_TIME) {
            for compared in join_all(some.iter().map(|(name, login)| self.compare(name, login, deadline))).await {
                match compared {
                    Compared::In => {}
                    Compared::Out(why) => failed.push(why),
                    Compared::Unknown(why) => unknown.push(why),
                }
            }
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

    /// Logs in at the new address; if that fails, at the old one.
    async fn compare(&self, name: &str, login: &Login, deadline: Instant) -> Compared {
        let Login { user, entry, old, new, .. } = login;
        let compared = async {
            let Err(there) = self.log_in(&format!("{name}_new")).await else { return Compared::In };
            let said = format!("`{user}` by `{entry}` at {new}: {}", there.said);
            match self.log_in(&format!("{name}_old")).await {
                Err(here) => {
                    Compared::Unknown(format!("`{user}` by `{entry}` does not get in at {old} either: {}", here.said))
                }
                Ok(Some(session)) if !there.is_plain && !speaks_english(&session).await => Compared::Unknown(said),
                Ok(_) => Compared::Out(said),
            }
        };
        match timeout_at(deadline, compared).await {
            Ok(compared) => compared,
            Err(_) => Compared::Unknown(format!("`{user}` by `{entry}`: there was no time left to try it")),
        }
    }

    /// Returns a session, or none where PgBouncer got in and found the database closed.
    async fn log_in(&self, entry: &str) -> Result<Option<Client>, Failed> {
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
        match tokio::time::timeout(LOGIN_BUDGET, answered).await {
            Err(_) => Err(Failed { said: format!("no answer within {} s", LOGIN_BUDGET.as_secs()), is_plain: true }),
            Ok(Ok((client, connection))) => {
                tokio::spawn(async move { drop(connection.await) });
                Ok(Some(client))
            }
            Ok(Err(error)) => {
                let Some(said) = error.as_db_error() else {
                    return Err(Failed { said: error.to_string(), is_plain: true });
                };
                // old versions pass the server's words on under a code of their own
                let closed = *said.code() == SqlState::INSUFFICIENT_PRIVILEGE
                    || said.message().contains("permission denied for database");
                let is_plain = *said.code() != SqlState::PROTOCOL_VIOLATION;
                if closed { Ok(None) } else { Err(Failed { said: said.message().to_owned(), is_plain }) }
            }
        }
    }
}

/// Whether the server's messages are in English; its copy speaks as it does.
async fn speaks_english(session: &Client) -> bool {
    let Ok(messages) = session.simple_query("SHOW lc_messages").await else { return false };
    let locale = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    locale.is_some_and(|locale| ["C", "POSIX", "en"].iter().any(|english| is_of_language(locale, english)))
}

/// Whether a locale, such as `en_GB.UTF-8`, is one of this language.
fn is_of_language(locale: &str, language: &str) -> bool {
    locale.strip_prefix(language).is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.', '@', '-']))
}

/// Returns the logins that there are pools for.
async fn logins(admin: &Admin, ini: &Ini, moves: &[Move]) -> Result<Vec<Login>, StepError> {
    let (pools, config) = (admin.show("POOLS").await?, admin.show("CONFIG").await?);
    let text = |row: &Shown, key: &str| row.get(key).cloned().unwrap_or_default();
    let setting = |key: &str| config.iter().find(|row| text(row, "key") == key).map(|row| text(row, "value"));
    let auth_user = setting("auth_user").filter(|user| !user.is_empty());
    let known = setting("auth_file").and_then(|path| std::fs::read_to_string(path).ok()).map(|file| users(&file));
    // for a role that is named, PgBouncer would fill the pool whether or not somebody comes
    let fills = admin.show("DATABASES").await?.iter().any(|row| row.contains_key("min_pool_size"));
    let alone = if fills { " min_pool_size=0 pool_size=1" } else { " pool_size=1" };
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
                // it would be lines of their own in the file
                if user.contains(char::is_control) {
                    continue;
                }
                let mut settings = match forced {
                    Some(_) => settings.clone(),
                    None => format!("{settings} user={}", ini::quote(&user)),
                };
                // it would be the name of the trial's entry
                if own("dbname").is_none() {
                    settings.push_str(&format!(" dbname={}", ini::quote(&entry.database)));
                }
                settings.push_str(alone);
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
    fn english_is_told_by_its_locales() {
        let speaks = |locale: &str| ["C", "POSIX", "en"].iter().any(|english| is_of_language(locale, english));
        assert!(["C", "C.UTF-8", "POSIX", "en", "en_GB.UTF-8"].into_iter().all(speaks));
        assert!(!["", "de_DE.UTF-8", "ca_ES", "eno"].into_iter().any(speaks));
    }

    #[tokio::test]
    async fn lines_of_an_interrupted_trial_go_and_leave_the_rest_to_the_letter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgbouncer.ini");
        let deadline = Instant::now() + CLEAR_BUDGET;
        let texts = ["[databases]\na = host=h\n", "[databases]\r\na = host=h"];
        let below = ["", "b = host=h\n[pgbouncer]\n"];
        for (text, below) in texts.into_iter().flat_map(|text| below.map(|below| (text, below))) {
            std::fs::write(&path, format!("{text}{MARK}{NAME}0_old = host=x\n{NAME}0_new = host=x\n{below}")).unwrap();
            let line_end = if below.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            for _ in 0..2 {
                forget(&path, deadline).await.unwrap();
                assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{text}{line_end}{below}"));
            }
        }
    }
}
