//! `pg_hba.conf`: one server's own door, shut to everybody but one role, and opened again to the letter.
//!
//! Rights are in the catalogs and reach every standby; this file does not. Replication is not concerned: its lines are matched
//! by the keyword `replication`, which `all` does not mean.

use std::{path::PathBuf, time::Duration};

use pgleap_saga::StepError;
use tokio::time::Instant;

use super::{Cluster, PgError, Session};
use crate::{files::replace, world::io_failure};

const BEGIN: &str = "# >>> pgleap: this server is closed to clients until the switchover";
const END: &str = "# <<< pgleap";
const KINDS: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];

const PLACE: &str = "SELECT pg_catalog.current_setting('hba_file')";
const RELOAD: &str = "SELECT pg_catalog.clock_timestamp()::text, pg_catalog.pg_reload_conf()";
/// A new backend inherits the moment at which the postmaster read its files.
const LOADED: &str = "SELECT pg_catalog.pg_conf_load_time() >= $1::text::timestamptz";
/// What keeps the postmaster from reading the rules: it goes on with those that it has.
const ERRORS: &str = "
    SELECT pg_catalog.format('line %s: %s', line_number, error) FROM pg_catalog.pg_hba_file_rules WHERE error IS NOT NULL";
const LOADED_BUDGET: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Splits a line into its tokens, as they are written, without a comment; quotes hold blanks together.
fn tokens(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut start, mut quoted) = (None, false);
    for (at, letter) in line.char_indices() {
        match letter {
            '#' if !quoted => {
                found.extend(start.take().map(|from| &line[from..at]));
                return found;
            }
            _ if letter.is_whitespace() && !quoted => found.extend(start.take().map(|from| &line[from..at])),
            _ => {
                quoted ^= letter == '"';
                start.get_or_insert(at);
            }
        }
    }
    found.extend(start.map(|from| &line[from..]));
    found
}

/// Returns the text with a block before all rules that lets `role` in as before and refuses everybody else.
///
/// # Errors
/// Why it cannot be done.
fn close(text: &str, role: &str) -> Result<String, String> {
    if role.contains(['"', '\n']) {
        return Err(format!("the name of role `{role}` cannot be written there"));
    }
    let own = open(text).replace("\\\n", " ");
    let mut rules = Vec::new();
    for line in own.lines() {
        let words = tokens(line);
        if words.iter().any(|word| word.starts_with(',') || word.ends_with(',')) {
            return Err(format!("it holds a list with blanks: `{}`", line.trim()));
        }
        match words.as_slice() {
            [kind, ..] if kind.starts_with("include") => return Err(format!("it holds `{}`", line.trim())),
            [kind, database, user, rest @ ..] if KINDS.contains(kind) && *database != "replication" => {
                // a rule for others would let this role in where it was not let in before
                let for_role = user.split(',').any(|name| name == "all" || name.trim_matches('"') == role);
                if for_role {
                    rules.push(format!("{kind} {database} \"{role}\" {}", rest.join(" ")));
                }
            }
            _ => {}
        }
    }
    if rules.is_empty() {
        return Err(format!("no rule of it lets role `{role}` in by its name or by `all`"));
    }
    Ok(format!("{BEGIN}\n{}\nlocal all all reject\nhost all all all reject\n{END}\n{}", rules.join("\n"), open(text)))
}

/// Returns the text without that block.
fn open(text: &str) -> String {
    match text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(&format!("{END}\n"))?.1))) {
        Some((before, after)) => format!("{before}{after}"),
        None => text.to_owned(),
    }
}

/// Shuts the door of a server on this host to everybody but the role that pgleap is there, and returns when it is shut.
///
/// # Errors
/// Fatal, if the file cannot be understood, or the server does not take it; it is as it was then.
pub async fn shut(cluster: &Cluster, database: &str) -> Result<(), StepError> {
    let session = cluster.db(database).await?;
    let (path, old) = read(&session).await?;
    let place = path.display();
    let refuse = |why: String| {
        StepError::fatal(
            format!("`{place}` cannot be rewritten: {why}"),
            "mend that file; or set `readers.order = \"together\"`, then try again",
        )
    };
    let new = close(&old, &cluster.endpoint.user).map_err(refuse)?;
    if new != old {
        replace(&path, &new)?;
    }
    let failure = match errors(&session).await {
        // the postmaster would keep the rules that it has
        Ok(errors) if !errors.is_empty() => refuse(errors.join("; ")),
        Ok(_) => match is_reloaded(cluster, &session, database).await {
            Ok(true) => return Ok(()),
            Ok(false) => refuse(format!("the {} does not read its files anew", cluster.called)),
            Err(error) => error.into(),
        },
        Err(error) => error.into(),
    };
    if new != old {
        // nobody may be shut out by a file that was not understood
        replace(&path, &old)?;
        session.query_one(RELOAD, &[]).await?;
    }
    Err(failure)
}

/// Opens it again, and returns when it is open.
///
/// # Errors
/// If the file cannot be read or replaced, or the server says that it cannot read it.
pub async fn reopen(cluster: &Cluster, database: &str) -> Result<(), StepError> {
    let session = cluster.db(database).await?;
    let (path, old) = read(&session).await?;
    let new = open(&old);
    if new != old {
        replace(&path, &new)?;
    }
    // an error in another file of the server keeps this from being seen, and the rules are read all the same
    let _seen: bool = is_reloaded(cluster, &session, database).await?;
    match errors(&session).await?.as_slice() {
        [] => Ok(()),
        errors => Err(StepError::transient(format!("the {} cannot read `{}`", cluster.called, path.display()))
            .because(errors.join("; "))),
    }
}

/// Returns why the door of a server could not be shut, or opened again, a line each.
///
/// # Errors
/// If it cannot be asked.
pub async fn reasons(cluster: &Cluster, database: &str) -> Result<Vec<String>, StepError> {
    let session = cluster.db(database).await?;
    let (path, text) = read(&session).await?;
    let mut reasons = errors(&session).await?;
    reasons.extend(close(&text, &cluster.endpoint.user).err());
    Ok(reasons.iter().map(|why| format!("the {}'s `{}`: {why}", cluster.called, path.display())).collect())
}

async fn errors(session: &Session) -> Result<Vec<String>, PgError> {
    Ok(session.query(ERRORS, &[]).await?.iter().map(|row| row.get(0)).collect())
}

async fn read(session: &Session) -> Result<(PathBuf, String), StepError> {
    let path = PathBuf::from(session.query_one(PLACE, &[]).await?.get::<_, String>(0));
    let text = std::fs::read_to_string(&path).map_err(|error| io_failure("read", &path, error))?;
    Ok((path, text))
}

/// Lets the server read its files anew; whether a new backend was seen to know them in time.
async fn is_reloaded(cluster: &Cluster, session: &Session, database: &str) -> Result<bool, PgError> {
    let since: String = session.query_one(RELOAD, &[]).await?.get(0);
    let deadline = Instant::now() + LOADED_BUDGET;
    loop {
        let fresh = cluster.open(database, LOADED_BUDGET).await?;
        if fresh.query_one(LOADED, &[&since]).await?.get(0) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# rules\nlocal all all trust\nhost all all 127.0.0.1/32 scram-sha-256 # own\n\
                        host app \"bob, jr\" 10.0.0.0/8 trust\nhost shop pgleap,bob 10.1.0.0/16 md5\n\
                        hostssl replication all 10.0.0.0/8 cert map=m\n";

    #[test]
    fn the_role_is_let_in_as_before_and_everybody_else_is_refused_first() {
        let closed = close(TEXT, "pgleap").unwrap();
        let head: Vec<_> = closed.lines().take_while(|line| *line != END).skip(1).collect();
        assert_eq!(
            head,
            [
                "local all \"pgleap\" trust",
                "host all \"pgleap\" 127.0.0.1/32 scram-sha-256",
                "host shop \"pgleap\" 10.1.0.0/16 md5",
                "local all all reject",
                "host all all all reject",
            ]
        );
        assert!(closed.ends_with(TEXT), "the file itself stays below, to the letter");
    }

    #[test]
    fn a_closed_file_opens_to_the_letter_and_closes_only_once() {
        let closed = close(TEXT, "pgleap").unwrap();
        assert_eq!(open(&closed), TEXT);
        assert_eq!(close(&closed, "pgleap").unwrap(), closed);
        assert_eq!(open(TEXT), TEXT);
    }

    #[test]
    fn a_file_that_cannot_be_seen_through_is_refused() {
        assert!(close("include other.conf\nhost all all all trust\n", "pgleap").unwrap_err().contains("include"));
        assert!(close("host all bob all trust\n", "pgleap").unwrap_err().contains("no rule"));
        assert!(close("host all \\\nall all trust\n", "pgleap").is_ok(), "a line that goes on in the next");
        assert!(close(TEXT, "a\"b").is_err());
        assert!(close("host all pgleap, bob 10.0.0.0/8 md5\n", "pgleap").unwrap_err().contains("list with blanks"));
    }
}
