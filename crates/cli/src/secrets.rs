//! Refuses passwords on the command line, where every user of the machine can read them, and never repeats one.

use std::ffi::OsString;

use pgleap_upgrade::pg::secret::PasswordFrom;
use std::path::Path;
use tokio_postgres::{Config, config::Host};

use crate::{errors::CommandError, exit::Exit};

/// Looks for a connection string with a password among the arguments, before anything could print them.
///
/// # Errors
/// If one holds a password. The message repeats nothing of it.
pub fn refuse_passwords(arguments: impl Iterator<Item = OsString>) -> Result<(), CommandError> {
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    match arguments.any(|argument| holds_password(&argument)) {
        true => Err(CommandError::new(Exit::Usage, "a connection string on the command line must not hold a password")
            .because("every user of this machine can read the arguments of a process")
            .state("nothing was contacted, nothing was changed")
            .hint("leave it out, and give it by PGPASSWORD or a passfile; then change it, as it may have been seen")),
        false => Ok(()),
    }
}

/// Errs on the side of refusal: `password` and `=` in either form, or a URL with something between `:` and `@`.
fn holds_password(argument: &str) -> bool {
    let lower = argument.to_ascii_lowercase();
    let mut rest = lower.as_str();
    while let Some(at) = rest.find("password") {
        rest = &rest[at + "password".len()..];
        if rest.trim_start().starts_with('=') {
            return true;
        }
    }
    let Some((_, after)) = lower.split_once("://") else { return false };
    let authority = after.split(['/', '?']).next().unwrap_or_default();
    // A password may hold `/`, unescaped and wrong, but there all the same.
    let userinfo = after.rsplit_once('@').or_else(|| authority.rsplit_once('@')).map(|(userinfo, _)| userinfo);
    userinfo.and_then(|userinfo| userinfo.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
}

/// Reads a connection string that holds no password, and adds the password from its own place.
///
/// # Errors
/// If it is no connection string, or the passfile that was named has no line for it.
pub async fn connection(dsn: &str, passfile: Option<&Path>) -> Result<Config, CommandError> {
    // The parser's own words may quote the text; nothing of it is repeated.
    let mut config: Config = dsn.parse().map_err(|_| {
        CommandError::new(Exit::Usage, "`--dsn` cannot be read as a connection string")
            .hint("give it as `host=… port=… user=… dbname=…` or `postgres://user@host:port/dbname`")
    })?;
    if let Ok(password) = std::env::var("PGPASSWORD") {
        config.password(password);
        return Ok(config);
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass")).filter(|path| path.exists());
    let Some(path) = passfile.map(Path::to_owned).or(home) else { return Ok(config) };
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(directory)) => directory.display().to_string(),
        None => String::new(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let user = config.get_user().unwrap_or_default().to_owned();
    match PasswordFrom::Passfile(path).fetch(&host, port, &user).await {
        Ok(secret) => {
            config.password(secret.reveal());
            Ok(config)
        }
        // A file that is merely there may have nothing to say of this server; one that was named must.
        Err(_) if passfile.is_none() => Ok(config),
        Err(error) => Err(CommandError::of(Exit::Usage, &error).hint("add the line, or leave `--passfile` out")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_found_in_every_form_of_a_connection_string() {
        for bad in [
            "host=h password=hunter2",
            "--dsn=host=h PASSWORD = 'x'",
            "postgres://u:hunter2@h/db",
            "--dsn=postgresql://u:a/b@h:5432/db",
            "postgres://u@h/db?sslmode=disable&password=x",
        ] {
            assert!(holds_password(bad), "{bad}");
        }
        for good in
            ["host=h port=5432 user=u", "postgres://u@h:5432/db", "postgres://u:@h/db", "--passfile=/p", "password"]
        {
            assert!(!holds_password(good), "{good}");
        }
    }
}
