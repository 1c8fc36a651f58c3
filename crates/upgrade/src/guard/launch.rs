//! How a guard of this host's poolers is started where none answers.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use pgleap_saga::StepError;
use tokio::{net::UnixStream, sync::Mutex, time::Instant};

use super::{service::Guard, ward::Ward};
use crate::world::io_failure;

/// Who runs the guard of this host's poolers.
#[derive(Debug, Clone)]
pub enum Launch {
    /// A process of its own, which outlives this one: `program --config … guard --beside`.
    Child {
        /// This program.
        program: PathBuf,
        /// The configuration that names the poolers.
        config: PathBuf,
    },
    /// A task of this process, which dies with it: for a laboratory that lives as long.
    Task,
}

/// The guard of this host's poolers: where it listens, and how it comes to be there.
pub struct Beside {
    launch: Launch,
    directory: PathBuf,
    wards: Vec<Ward>,
    starting: Mutex<()>,
}

const START_BUDGET: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Beside {
    /// Describes it; nothing is started yet.
    pub fn new(launch: Launch, directory: PathBuf, wards: Vec<Ward>) -> Self {
        Self { launch, directory, wards, starting: Mutex::default() }
    }

    /// Returns where it listens.
    pub fn socket(directory: &Path) -> PathBuf {
        directory.join("guard.sock")
    }

    /// Connects to the guard, and starts it where none answers.
    ///
    /// # Errors
    /// Transient, if it does not answer in time; blocked, if it cannot be started.
    pub async fn connect(&self) -> Result<UnixStream, StepError> {
        let socket = Self::socket(&self.directory);
        if let Ok(stream) = UnixStream::connect(&socket).await {
            return Ok(stream);
        }
        let _one_at_a_time = self.starting.lock().await;
        if let Ok(stream) = UnixStream::connect(&socket).await {
            return Ok(stream);
        }
        self.start(&socket)?;
        let deadline = Instant::now() + START_BUDGET;
        loop {
            match UnixStream::connect(&socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= deadline => {
                    return Err(StepError::transient("the guard of this host's poolers does not answer")
                        .because(format!("{error}; what it said is in `{}`", self.log().display())));
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.join("guard.log")
    }

    fn start(&self, socket: &Path) -> Result<(), StepError> {
        std::fs::create_dir_all(&self.directory).map_err(|error| io_failure("make", &self.directory, error))?;
        match &self.launch {
            Launch::Task => {
                let listener = Guard::listen(socket)?;
                let guard = Guard::over(self.wards.clone(), &self.directory, |_| ())?;
                tokio::spawn(guard.serve(listener, None));
                Ok(())
            }
            Launch::Child { program, config } => {
                let path = self.log();
                let fail = |error| io_failure("write", &path, error);
                let log = OpenOptions::new().create(true).append(true).open(&path).map_err(fail)?;
                let errors = log.try_clone().map_err(fail)?;
                let mut command = std::process::Command::new(program);
                command.arg("--config").arg(config).args(["guard", "--beside"]);
                command.stdin(Stdio::null()).stdout(log).stderr(errors);
                // what is to happen to this process is not to happen to its guard
                command.env_remove("PGLEAP_FAULT");
                // neither Ctrl-C at this terminal nor the end of it may reach a guard
                std::os::unix::process::CommandExt::process_group(&mut command, 0);
                command.spawn().map(drop).map_err(|error| io_failure("run", program, error))
            }
        }
    }
}
