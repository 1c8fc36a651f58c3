//! `pgleap guard --beside`: the guard that another pgleap starts on its own host, and that outlives it.
//!
//! It ends by itself when nobody needed it for a while. What it did by itself is in `guard.log` in the state directory.

use std::{fs::File, io::Write, time::Duration};

use pgleap_upgrade::{
    guard::{Guard, launch::Beside},
    world,
};

use crate::{errors::CommandError, exit::Exit, site::Site};

/// How long nobody must have asked, and nothing been held.
const IDLE: Duration = Duration::from_secs(10);

pub(super) async fn run(site: &Site) -> Result<Exit, CommandError> {
    let directory = &site.config.state_dir;
    let lock = directory.join("guard.lock");
    let fail = |error: &std::io::Error| {
        CommandError::new(Exit::Unexpected, format!("cannot lock `{}`", lock.display())).because(error.to_string())
    };
    // the file of a living guard must keep its number
    let file = File::options().create(true).append(true).open(&lock).map_err(|error| fail(&error))?;
    match file.try_lock() {
        Ok(()) => {}
        // somebody was faster: that one serves
        Err(std::fs::TryLockError::WouldBlock) => return Ok(Exit::Done),
        Err(std::fs::TryLockError::Error(error)) => return Err(fail(&error)),
    }
    // for a person who looks for it
    file.set_len(0).map_err(|error| fail(&error))?;
    (&file).write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(|error| fail(&error))?;
    // the socket last: who can connect is answered
    let poolers = world::poolers(&site.config).await?;
    let guard = Guard::over(poolers, directory, |what| {
        let now = jiff::Timestamp::now();
        eprintln!("{now:.3} {what}");
    })?;
    let listener = Guard::listen(&Beside::socket(directory))?;
    guard.serve(listener, Some(IDLE)).await?;
    Ok(Exit::Done)
}
