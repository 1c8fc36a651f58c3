//! `pgleap guard`: holds the pauses of this host's PgBouncers, and ends each by itself when its lease is over.
//!
//! As a service it has a configuration of its own, and is called over the network by a pgleap elsewhere. With `--beside` it
//! was started by a pgleap on this host, outlives it, and ends when nobody needed it for a while.

use std::{fs::File, io::Write, path::Path, time::Duration};

use pgleap_upgrade::{
    config::guard::GuardConfig,
    guard::{Guard, launch::Beside},
    world,
};

use crate::{args, errors::CommandError, exit::Exit, interrupt, site::Site};

/// How long nobody must have asked, and nothing been held.
const IDLE: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &args::Guard, config: &Path) -> Result<Exit, CommandError> {
    match args.beside {
        true => beside(&Site::load(config)?).await,
        false => service(&GuardConfig::load(config)?).await,
    }
}

fn tell(what: &str) {
    eprintln!("{:.3} {what}", jiff::Timestamp::now());
}

async fn service(config: &GuardConfig) -> Result<Exit, CommandError> {
    std::fs::create_dir_all(&config.notes).map_err(|error| cannot("make", &config.notes, &error))?;
    let Some(_lock) = lock(&config.notes)? else {
        return Err(CommandError::new(Exit::Usage, "another guard works with these notes")
            .because(format!("`{}` is locked", config.notes.display())));
    };
    let guard = Guard::over(world::poolers(&config.poolers).await?, &config.notes, tell)?;
    let door = Guard::listen_on_network(&config.listen, &config.identity).await?;
    tell(&format!("{} poolers, listening on {}", config.poolers.len(), config.listen));
    tokio::select! {
        served = guard.serve(door, None) => served?,
        // what is held is in the notes: the next guard ends it
        () = interrupt::once() => tell("stopped on request"),
    }
    Ok(Exit::Done)
}

async fn beside(site: &Site) -> Result<Exit, CommandError> {
    let directory = &site.config.state_dir;
    // somebody was faster: that one serves
    let Some(_lock) = lock(directory)? else { return Ok(Exit::Done) };
    let wards = world::wards(&site.config).await?.into_iter().filter(|ward| ward.guard().is_none());
    let guard = Guard::over(wards, directory, tell)?;
    // the socket last: who can connect is answered
    let door = Guard::listen(&Beside::socket(directory))?;
    guard.serve(door, Some(IDLE)).await?;
    Ok(Exit::Done)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::new(Exit::Unexpected, format!("cannot {what} `{}`", path.display())).because(error.to_string())
}

/// Takes the lock of a directory of notes, and writes this process's number into it; `None` if somebody has it.
fn lock(directory: &Path) -> Result<Option<File>, CommandError> {
    let path = directory.join("guard.lock");
    let fail = |error: std::io::Error| cannot("lock", &path, &error);
    // the file of a living guard must keep its number
    let file = File::options().create(true).append(true).open(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(error)) => return Err(fail(error)),
    }
    file.set_len(0).map_err(fail)?;
    (&file).write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(fail)?;
    Ok(Some(file))
}
