//! A second process that finishes or takes back a switchover when the first one dies.
//!
//! `pgleap switchover` starts `pgleap resume --when-orphaned` beside itself and holds the other end of its standard input.
//! The end of that pipe without a last word is the first one's death: the second then does what `pgleap resume` does, from
//! the same journal. Guards and the fence's lease need nobody, but they only let clients go on where they were; after the
//! point of no return somebody must finish. Where only readers were led away, whom nobody watches any more, it leads them
//! back. Does not survive the host: then `resume` is typed elsewhere.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use pgleap_saga::PlanState;
use pgleap_upgrade::{readers, switchover::is_felt};

use crate::{
    commands::drive::{Verb, drive_begun},
    errors::CommandError,
    exit::Exit,
    out::Out,
    site::Site,
};

/// The last word of a process that ended by itself.
const WELL: u8 = b'.';
/// The dead process's lock goes with it, in a moment; somebody else's stays.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const GOODBYE: Duration = Duration::from_secs(2);

/// The second process, as the first one holds it.
pub struct Second(Child);

impl Second {
    /// Starts it, in a process group of its own: Ctrl-C at this terminal does not reach it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(site: &Site) -> Result<Self, CommandError> {
        let start = || -> std::io::Result<Child> {
            let log = OpenOptions::new().create(true).append(true).open(site.config.state_dir.join("second.log"))?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--yes", "--no-color", "--config"]).arg(&site.file).args(["resume", "--when-orphaned"]);
            // what is to happen to the first is not to happen to the second
            command.env_remove("PGLEAP_FAULT");
            command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn()
        };
        start().map(Self).map_err(|error| {
            CommandError::new(Exit::Unexpected, "cannot start the process that takes over if this one dies")
                .because(error.to_string())
                .state("nothing was changed")
        })
    }

    /// Sends it home: there is nothing to take over.
    pub fn dismiss(mut self) {
        // one that is gone already is as good
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(&[WELL]);
        }
        // it goes by itself; one that does not is nobody's business any more
        let deadline = std::time::Instant::now() + GOODBYE;
        while matches!(self.0.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Waits until the first process has ended; takes over if it died in a switchover.
///
/// # Errors
/// As `pgleap resume`.
pub async fn stand_by(site: &Site, out: Out) -> Result<Exit, CommandError> {
    let mut word = Vec::new();
    // there is nothing else to do meanwhile; an error is the end of the pipe too
    let _ = std::io::stdin().read_to_end(&mut word);
    if word.contains(&WELL) {
        return Ok(Exit::Done);
    }
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    while site.writer().is_some() {
        if tokio::time::Instant::now() >= deadline {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let Some(journal) = site.read()? else { return Ok(Exit::Done) };
    let plans = journal.plans()?;
    drop(journal);
    let open = |is: fn(&PlanState) -> bool| plans.iter().any(|plan| plan.outcome.is_none() && is(plan));
    if open(is_felt) {
        drive_begun(site, out, Verb::Resume).await
    } else if open(readers::are_led) {
        drive_begun(site, out, Verb::LeadReadersBack).await
    } else {
        // nobody waits, and whoever killed the first may have meant it
        Ok(Exit::Done)
    }
}
