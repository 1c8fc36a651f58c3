//! A route that is the operator's own: a program is asked to let clients wait, to lead them elsewhere, and to let them go.
//!
//! One run for each question: one JSON object on its standard input, one on its standard output, and an exit code. The contract
//! is `docs/command-route.md`. It is believed when it shows what was asked of it, as a PgBouncer is. Survives: a program
//! that hangs (its whole process group is killed), that fails, that answers something else, that was killed half way (every
//! question may be asked twice). A guard asks, so that the pause ends also when pgleap dies.

use std::{fmt, time::Duration};

use pgleap_local::{Account, CommandError, run_with_input};
use pgleap_saga::StepError;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    config,
    pg::Side,
    pgbouncer::{admin::Entry, ini::Address},
    route::Clients,
};

/// The number of the contract.
pub const CONTRACT: u32 = 1;

/// What the program is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Say how things are, and change nothing.
    Status,
    /// See that clients could be led to the other side, and lead none.
    Check,
    /// Let new transactions wait.
    Pause,
    /// Wait until none is under way at the server.
    Drain,
    /// Lead clients to a side. They wait on.
    Repoint,
    /// Let clients go on, wherever they are led.
    Resume,
}

impl Question {
    fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Check => "check",
            Self::Pause => "pause",
            Self::Drain => "drain",
            Self::Repoint => "repoint",
            Self::Resume => "resume",
        }
    }

    /// What comes after the decision is tried again until it is done; before it, a refusal is the end of the attempt.
    fn is_tried_again(self) -> bool {
        matches!(self, Self::Repoint | Self::Resume)
    }
}

/// What the program reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`CONTRACT`].
    pub contract: u32,
    /// What is asked for.
    pub verb: Question,
    /// Where the source is.
    pub source: Address,
    /// Where the target is.
    pub target: Address,
    /// The side to be led to, for `check` and `repoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Side>,
    /// The pause, for `pause`: the same word for the same pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
    /// After so long somebody ends the pause, for `pause`: the guard by `resume`; the program itself if it can outlive the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// After so long it is killed.
    pub within_ms: u64,
}

/// What the program answers to every question: how things are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where clients are led, or will be when they go on.
    pub leads_to: Side,
    /// Clients wait.
    pub paused: bool,
}

/// The program, with what it must be told each time.
#[derive(Debug, Clone)]
pub struct Program {
    of: config::Program,
    source: Address,
    target: Address,
}

/// What it may exit with to be asked again.
const TRY_AGAIN: i32 = 75;
/// A rollout takes that long where much is to be started.
const AGAIN_FOR: Duration = Duration::from_secs(60);
/// A program that does not show at once what was asked of it is asked again so soon.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many bytes of an answer that is none are repeated.
const SHOWN: usize = 200;

/// Why there is no answer.
struct Refused {
    error: StepError,
    /// It asked to be asked again.
    not_now: bool,
}

impl From<StepError> for Refused {
    fn from(error: StepError) -> Self {
        Self { error, not_now: false }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the route's program `{}`", self.of.name())
    }
}

impl Program {
    /// Describes it; it is not run yet.
    pub fn new(of: config::Program, source: Address, target: Address) -> Self {
        Self { of, source, target }
    }

    /// Returns how requests to its guard name it.
    pub fn console(&self) -> String {
        format!("program {}", self.of.name())
    }

    fn side(&self, address: &Address) -> Option<Side> {
        match address {
            address if *address == self.source => Some(Side::Source),
            address if *address == self.target => Some(Side::Target),
            _ => None,
        }
    }

    /// Returns what clients see when it lets them wait.
    pub fn clients(&self) -> Clients {
        self.of.clients
    }

    /// Whether it ends a pause by itself.
    pub fn outlives_host(&self) -> bool {
        self.of.outlives_host
    }

    /// Returns a request with nothing but what each has.
    pub fn request(&self, verb: Question) -> Request {
        let (source, target) = (self.source.clone(), self.target.clone());
        Request { contract: CONTRACT, verb, source, target, to: None, turn: None, lease_ms: None, within_ms: 0 }
    }

    /// Runs it once.
    ///
    /// # Errors
    /// That it could not be run, was killed, exited with something else than 0, or answered what is no state; transient if it
    /// asked for that, or if it is needed to let clients go on.
    pub async fn ask(&self, request: Request, within: Duration) -> Result<State, StepError> {
        self.ask_once(request, within).await.map_err(|refused| refused.error)
    }

    /// Runs it, and again for as long as it says "not now", at most for [`AGAIN_FOR`].
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_until_now(&self, request: Request) -> Result<State, StepError> {
        let until = Instant::now() + AGAIN_FOR;
        loop {
            match self.ask_once(request.clone(), Duration::MAX).await {
                Err(refused) if refused.not_now && Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
                done => return done.map_err(|refused| refused.error),
            }
        }
    }

    async fn ask_once(&self, mut request: Request, within: Duration) -> Result<State, Refused> {
        let verb = request.verb;
        let within = within.min(self.of.timeout);
        request.within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let fail = |what: String, again: bool| match again || verb.is_tried_again() {
            true => StepError::transient(format!("{self} {what} at `{}`", verb.word())),
            false => StepError::fatal(
                format!("{self} {what} at `{}`", verb.word()),
                "see what it says, mend it, then `pgleap route-check`",
            ),
        };
        let mut line = serde_json::to_vec(&request).unwrap_or_default();
        line.push(b'\n');
        let us =
            Account::ourselves().map_err(|error| fail("cannot be run".to_owned(), false).because(error.to_string()))?;
        // dies with its guard: what it would do later could be a pause that nobody ends
        let mut command = us.command(self.of.command.first().map_or("", String::as_str));
        command.args(self.of.command.iter().skip(1));
        let output = run_with_input(command, line, within).await.map_err(|error| match &error {
            CommandError::Spawn { source, .. } => {
                Refused::from(fail("cannot be run".to_owned(), false).because(source.to_string()))
            }
            CommandError::Failed { output, .. } => {
                let not_now = output.status.code() == Some(TRY_AGAIN);
                let error = fail(format!("failed ({})", output.status), not_now).because(last_words(&output.stderr));
                Refused { error, not_now }
            }
            CommandError::TimedOut { last_words, .. } => {
                let error = fail(format!("had not ended after {} ms, and was killed", within.as_millis()), false);
                error.because(last_words.trim_start_matches(": ").to_owned()).into()
            }
        })?;
        serde_json::from_str(output.stdout.trim()).map_err(|error| {
            let said: String = output.stdout.trim().chars().take(SHOWN).collect();
            fail("answered what is no state".to_owned(), false).because(format!("{error}: `{said}`")).into()
        })
    }

    /// Returns how things are.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn status(&self) -> Result<State, StepError> {
        self.ask(self.request(Question::Status), self.of.timeout).await
    }

    /// Returns the one entry that it is.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn entries(&self) -> Result<Vec<Entry>, StepError> {
        let State { leads_to, paused } = self.status().await?;
        let Address { host, port } = match leads_to {
            Side::Source => self.source.clone(),
            Side::Target => self.target.clone(),
        };
        let (name, database) = (self.of.name(), Entry::ANY.to_owned());
        Ok(vec![Entry { name, host, port, database, paused, pool_mode: String::new() }])
    }

    /// Asks whether clients could be led to `to`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn check(&self, to: &Address) -> Result<(), StepError> {
        let request = Request { to: self.side(to), ..self.request(Question::Check) };
        self.ask(request, self.of.timeout).await.map(drop)
    }

    /// Lets clients wait.
    ///
    /// # Errors
    /// As [`Self::ask`], or fatal: they do not wait.
    pub async fn pause(&self, turn: &str, lease: Duration, deadline: Instant) -> Result<(), StepError> {
        if self.of.clients == Clients::Errors {
            return Ok(());
        }
        let request = Request {
            turn: Some(turn.to_owned()),
            lease_ms: u64::try_from(lease.as_millis()).ok(),
            ..self.request(Question::Pause)
        };
        match self.ask(request, left(deadline)).await?.paused {
            true => Ok(()),
            false => Err(self.no_effect("clients do not wait", Question::Pause)),
        }
    }

    /// Waits until no transaction is under way.
    ///
    /// # Errors
    /// As [`Self::ask`], or fatal: clients do not wait any more.
    pub async fn drained(&self, deadline: Instant) -> Result<(), StepError> {
        if self.of.clients != Clients::Wait {
            return Ok(());
        }
        match self.ask(self.request(Question::Drain), left(deadline)).await?.paused {
            true => Ok(()),
            false => Err(self.no_effect("clients do not wait any more", Question::Drain)),
        }
    }

    /// Leads clients to `to`.
    ///
    /// # Errors
    /// Transient, if it does not show that until `deadline`.
    pub async fn repoint(&self, to: &Address, deadline: Instant) -> Result<(), StepError> {
        let side = self.side(to);
        loop {
            let request = Request { to: side, ..self.request(Question::Repoint) };
            let state = self.ask(request, left(deadline)).await?;
            if Some(state.leads_to) == side {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!("{self} still leads to the {} after `repoint`", state.leads_to);
                return Err(StepError::transient(message));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets clients go on.
    ///
    /// # Errors
    /// Transient, if it does not show that.
    pub async fn resume(&self) -> Result<(), StepError> {
        match self.ask(self.request(Question::Resume), self.of.timeout).await?.paused {
            false => Ok(()),
            true => Err(StepError::transient(format!("{self} keeps clients waiting after `resume`"))),
        }
    }

    fn no_effect(&self, what: &str, verb: Question) -> StepError {
        StepError::fatal(
            format!("{self} says that {what} after `{}`", verb.word()),
            "mend it, then `pgleap route-check`",
        )
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn last_words(stderr: &str) -> String {
    let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => "it said nothing on its standard error".to_owned(),
        lines => lines[lines.len().saturating_sub(3)..].join("; "),
    }
}

#[cfg(test)]
mod tests {
    use pgleap_saga::Class;

    use super::*;

    fn program(script: &str) -> Program {
        let of = config::Program {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: Duration::from_secs(20),
            clients: Clients::Wait,
            outlives_host: false,
        };
        let at = |port| Address { host: "db1".to_owned(), port };
        Program::new(of, at(5432), at(5433))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    const SOURCE: Side = Side::Source;

    #[tokio::test]
    async fn program_reads_one_line_and_answers_how_things_are() {
        let told = tempfile::NamedTempFile::new().unwrap();
        let program = program(&format!(
            r#"read -r line; echo "$line" > {}; echo '{{"leads_to":"source","paused":true}}'"#,
            told.path().display()
        ));
        program.pause("7f3a switchover-1", Duration::from_secs(2), soon()).await.unwrap();
        let line = std::fs::read_to_string(told.path()).unwrap();
        let request: Request = serde_json::from_str(&line).unwrap();
        assert_eq!((request.contract, request.verb, request.to), (1, Question::Pause, None));
        assert_eq!((request.turn.as_deref(), request.lease_ms), (Some("7f3a switchover-1"), Some(2000)));
        assert_eq!(request.target.port, 5433);
        assert_eq!(program.status().await.unwrap(), State { leads_to: SOURCE, paused: true });
    }

    #[tokio::test]
    async fn program_that_fails_hangs_or_talks_nonsense_gives_one_error_each() {
        let fails = program("echo 'no such backend' >&2; exit 3").status().await.unwrap_err();
        assert_eq!(fails.message, "the route's program `sh` failed (exit status: 3) at `status`");
        assert_eq!((fails.class, fails.cause.as_deref()), (Class::Fatal, Some("no such backend")));

        let hangs = program("echo begun >&2; sleep 600");
        let error = hangs.pause("t", Duration::ZERO, Instant::now() + Duration::from_millis(300)).await.unwrap_err();
        assert!(error.message.ends_with("and was killed at `pause`"), "{error}");

        let nonsense = program("echo ok").status().await.unwrap_err();
        assert!(nonsense.cause.unwrap().ends_with(": `ok`"));

        let killed = program("kill -9 $$").status().await.unwrap_err();
        assert!(killed.message.contains("signal: 9"), "{killed}");
    }

    #[tokio::test]
    async fn program_is_believed_when_it_shows_what_was_asked_of_it() {
        let deaf = program(r#"echo '{"leads_to":"source","paused":false}'"#);
        let error = deaf.pause("t", Duration::ZERO, soon()).await.unwrap_err();
        assert_eq!(error.message, "the route's program `sh` says that clients do not wait after `pause`");
        let target = Address { host: "db1".to_owned(), port: 5433 };
        let error = deaf.repoint(&target, Instant::now()).await.unwrap_err();
        assert_eq!(error.class, Class::Transient, "past the decision it is tried again: {error}");
        deaf.resume().await.unwrap();
    }

    #[tokio::test]
    async fn what_lets_clients_go_on_and_what_asks_for_it_is_tried_again() {
        let error = program("exit 1").resume().await.unwrap_err();
        assert_eq!(error.class, Class::Transient);
        let error = program("exit 75").pause("t", Duration::ZERO, soon()).await.unwrap_err();
        assert_eq!(error.class, Class::Transient);
    }
}
