//! `pg_hba.conf`: one server's own door, shut to everybody but one role, and opened again to the letter.
//!
//! Rights are in the catalogs and reach every standby; this file does not. Replication is not concerned: its lines are matched
//! by the keyword `replication`, which `all` does not mean.

use std::{path::Path, time::Duration};

use pgleap_saga::StepError;
use tokio::time::Instant;

use super::{Cluster, PgError};
use crate::{pgbouncer::pooler::replace, world::io_failure};

const BEGIN: &str = "# >>> pgleap: this server is closed to clients until the switchover";
const END: &str = "# <<< pgleap";
const KINDS: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];

const PLACE: &str = "SELECT pg_catalog.current_setting('hba_file')";
const RELOAD: &str = "SELECT pg_catalog.clock_timestamp()::text, pg_catalog.pg_reload_conf()";
/// A new backend inherits the moment at which the postmaster read its files.
const LOADED: &str = "SELECT pg_catalog.pg_conf_load_time() >= $1::text::timestamptz";
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
/// Blocked, if the file cannot be read, understood or replaced, or does not take.
pub async fn shut(cluster: &Cluster, database: &str) -> Result<(), StepError> {
    let role = cluster.endpoint.user.clone();
    rewrite(cluster, database, |text| close(text, &role)).await
}

/// Opens it again, and returns when it is open.
///
/// # Errors
/// As [`shut`].
pub async fn reopen(cluster: &Cluster, database: &str) -> Result<(), StepError> {
    rewrite(cluster, database, |text| Ok(open(text))).await
}

async fn rewrite(
    cluster: &Cluster,
    database: &str,
    change: impl FnOnce(&str) -> Result<String, String>,
) -> Result<(), StepError> {
    let session = cluster.db(database).await?;
    let place: String = session.query_one(PLACE, &[]).await?.get(0);
    let path = Path::new(&place);
    let old = std::fs::read_to_string(path).map_err(|error| io_failure("read", path, error))?;
    let new = change(&old).map_err(|why| {
        StepError::blocked(
            format!("`{place}` cannot be rewritten: {why}"),
            "name the role of `source.dsn` in a rule of its own; or set `readers.order = \"together\"`",
        )
    })?;
    if new != old {
        replace(path, &new)?;
    }
    // also if nothing was written: who did may have died before the server was told
    let reloaded = async {
        let since: String = session.query_one(RELOAD, &[]).await?.get(0);
        let deadline = Instant::now() + LOADED_BUDGET;
        loop {
            let fresh = cluster.open(database, LOADED_BUDGET).await?;
            if fresh.query_one(LOADED, &[&since]).await?.get(0) {
                return Ok::<_, PgError>(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let failure = match reloaded.await {
        Ok(true) => return Ok(()),
        Ok(false) => StepError::transient(format!("the {} has not read `{place}` anew", cluster.called)),
        Err(error) => StepError::from(error),
    };
    if new != old {
        // nobody may be shut out by a file that was not understood
        replace(path, &old)?;
        session.query_one(RELOAD, &[]).await?;
    }
    Err(failure)
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
    }
}
