//! A setting of the whole cluster, in `postgresql.auto.conf`.
//!
//! Does not know settings that are lists of names, which ALTER SYSTEM quotes one by one.

use std::time::Duration;

use pgleap_saga::StepError;
use tokio::time::Instant;

use crate::pg::{PgError, Session, ident};

/// The file may hold a name several times: the last counts.
const IN_AUTO_CONF: &str = "
    SELECT setting FROM pg_catalog.pg_file_settings
     WHERE name = $1 AND sourcefile = pg_catalog.current_setting('data_directory') || '/postgresql.auto.conf'
     ORDER BY seqno DESC LIMIT 1";

/// What all files together say: the last line counts.
const IN_FILES: &str = "
    SELECT setting FROM pg_catalog.pg_file_settings WHERE name = $1 AND setting IS NOT NULL ORDER BY seqno DESC LIMIT 1";

const NOW: &str = "
    SELECT setting = $2 OR pg_catalog.current_setting(name) = $2, pending_restart, source = 'command line'
      FROM pg_catalog.pg_settings WHERE name = $1";

const RELOAD: &str = "SELECT pg_catalog.pg_reload_conf()";

/// The server's processes read their files when they come to it.
const TAKES_EFFECT_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Reads the value that `postgresql.auto.conf` gives it, as it stands there; `None` if it does not name it.
pub(super) async fn in_auto_conf(session: &Session, name: &str) -> Result<Option<String>, PgError> {
    Ok(session.query_opt(IN_AUTO_CONF, &[&name]).await?.map(|row| row.get(0)))
}

/// Writes it there, or takes it out, and has the server read it.
async fn write(session: &Session, name: &str, value: Option<&str>) -> Result<(), PgError> {
    let name = ident::quote(name);
    let statement = match value {
        Some(value) => format!("ALTER SYSTEM SET {name} = {}", ident::literal(value)),
        None => format!("ALTER SYSTEM RESET {name}"),
    };
    session.batch(&statement).await?;
    session.batch(RELOAD).await
}

/// Whether a limit is as high as `wanted`, or higher; what is no number must be the same.
pub(crate) fn suffices(value: &str, wanted: &str) -> bool {
    match (value.parse::<i64>(), wanted.parse::<i64>()) {
        (Ok(value), Ok(wanted)) => value >= wanted,
        _ => value == wanted,
    }
}

/// Returns what the files say, if it serves as well: a limit that takes a restart is never lowered, whoever raised it.
async fn in_files(session: &Session, name: &str, wanted: &str, restart: bool) -> Result<Option<String>, PgError> {
    let row = session.query_opt(IN_FILES, &[&name]).await?;
    let value: Option<String> = row.map(|row| row.get(0));
    Ok(value.filter(|value| value == wanted || (restart && suffices(value, wanted))))
}

/// Whether the files say what is wanted, and the server has it, or will with its next restart.
pub(super) async fn holds(session: &Session, name: &str, wanted: &str, restart: bool) -> Result<bool, PgError> {
    // killed between the file and the reload, it is written and not read
    let Some(value) = in_files(session, name, wanted, restart).await? else { return Ok(false) };
    let row = session.query_one(NOW, &[&name, &value]).await?;
    Ok(row.get(0) || row.get(1))
}

/// Writes the value if the files do not say so yet, and sees that the server has taken it, or will with its next restart.
pub(super) async fn change(session: &Session, name: &str, wanted: &str, restart: bool) -> Result<(), StepError> {
    let value = match in_files(session, name, wanted, restart).await? {
        Some(value) => {
            session.batch(RELOAD).await?;
            value
        }
        None => {
            write(session, name, Some(wanted)).await?;
            wanted.to_owned()
        }
    };
    let until = Instant::now() + TAKES_EFFECT_WITHIN;
    loop {
        let row = session.query_one(NOW, &[&name, &value]).await?;
        let (holds, pending, by_command_line): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if holds || pending {
            return Ok(());
        }
        if by_command_line {
            let message = format!("`{name}` is given on the source's command line, where no file changes it");
            let hint = format!("change it to {value} where the server is started, then `pgleap resume`");
            return Err(StepError::blocked(message, hint));
        }
        if Instant::now() > until {
            let message = format!("the source did not take `{name} = {value}` from its files");
            return Err(StepError::blocked(message, "look into the source's log, then `pgleap resume`"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What needs the value that the fix wrote, and would keep the server from starting, or work from going on, without it.
const NEEDED: &str = "
    WITH back AS (SELECT CASE WHEN $1 IN ('max_replication_slots', 'max_active_replication_origins') THEN coalesce($2,
             (SELECT setting FROM pg_catalog.pg_file_settings
               WHERE name = $1 AND sourcefile <> pg_catalog.current_setting('data_directory') || '/postgresql.auto.conf'
               ORDER BY seqno DESC LIMIT 1),
             (SELECT boot_val FROM pg_catalog.pg_settings WHERE name = $1))::bigint END AS most)
    SELECT pg_catalog.format('%s logical replication slots are there', count(*)) FROM pg_catalog.pg_replication_slots
     WHERE $1 = 'wal_level' AND slot_type = 'logical' HAVING count(*) > 0
     UNION ALL
    SELECT pg_catalog.format('%s replication slots are there', count(*)) FROM pg_catalog.pg_replication_slots
     WHERE $1 = 'max_replication_slots' HAVING count(*) > (SELECT most FROM back)
     UNION ALL
    SELECT pg_catalog.format('%s replication origins are there', count(*)) FROM pg_catalog.pg_replication_origin
     WHERE $1 IN ('max_active_replication_origins', 'max_replication_slots') HAVING count(*) > (SELECT most FROM back)";

/// Puts back what the file had, if it still has what the fix wrote. Returns a word for the operator if it does not.
pub(super) async fn put_back(
    session: &Session,
    name: &str,
    fixed: &str,
    before: Option<&str>,
) -> Result<Option<String>, PgError> {
    let now = in_auto_conf(session, name).await?;
    if now.as_deref() == before {
        // perhaps written and not read
        session.batch(RELOAD).await?;
        return Ok(None);
    }
    if now.as_deref() != Some(fixed) {
        return Ok(Some(format!("`{name}` was changed since, and is left as it is")));
    }
    if let Some(row) = session.query(NEEDED, &[&name, &before]).await?.first() {
        let why: String = row.get(0);
        return Ok(Some(format!("`{name}` is left at {fixed}: {why}; set it when they are gone")));
    }
    write(session, name, before).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::suffices;

    #[test]
    fn higher_limit_serves_as_well_and_another_word_does_not() {
        assert!(suffices("50", "8") && suffices("8", "8") && !suffices("7", "8"));
        assert!(suffices("logical", "logical") && !suffices("replica", "logical"));
    }
}
