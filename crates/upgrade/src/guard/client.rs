//! Asks the guard of one pooler.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use pgleap_saga::StepError;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, BufStream},
    net::TcpStream,
    sync::Mutex,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::{
    launch::Beside,
    protocol::{Answer, PROTOCOL, Reply, Request, VERSION, Verb, read, write},
};
use crate::config::GuardAddress;

/// Where a guard is.
#[derive(Clone)]
pub enum Place {
    /// On this host, started where none answers.
    Beside(Arc<Beside>),
    /// On another, as a service.
    Network {
        /// Its host and port.
        address: GuardAddress,
        /// What it is called with.
        tls: TlsConnector,
    },
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection to the guard of one pooler, opened when it is first needed and again when it broke.
pub struct GuardClient {
    /// How errors call the pooler.
    name: String,
    /// How the guard calls it.
    console: String,
    place: Place,
    kept: Mutex<Option<Line>>,
}

/// An open connection, what the guard's clock showed at a moment of ours, and how many turns it had seen.
struct Line {
    stream: BufStream<Box<dyn Stream>>,
    clock: (i64, Instant),
    epoch: u64,
}

/// What an answer may take beyond what was asked to take time.
const ANSWER_BUDGET: Duration = Duration::from_secs(2);
const CONNECT_BUDGET: Duration = Duration::from_secs(5);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl GuardClient {
    /// Describes it; nothing is connected yet.
    pub fn new(name: String, console: String, place: Place) -> Self {
        Self { name, console, place, kept: Mutex::default() }
    }

    /// Asks, and returns the answer; `within` is how long the doing may take. A guard that died is asked again, once.
    ///
    /// # Errors
    /// What the guard refused, or transient: it does not answer.
    pub async fn ask(&self, verb: Verb, within: Duration) -> Result<Answer, StepError> {
        let budget = within + ANSWER_BUDGET;
        let mut kept = self.kept.lock().await;
        let was_open = kept.is_some();
        let mut answer = tokio::time::timeout(budget, self.exchange(&mut kept, &verb, budget)).await;
        if was_open && matches!(answer, Ok(Err(_))) {
            answer = tokio::time::timeout(budget, self.exchange(&mut kept, &verb, budget)).await;
        }
        match answer {
            Ok(Ok(Answer::Refused(error))) => Err(error),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StepError::transient(format!("the guard of {} does not answer", self.name))),
        }
    }

    /// A connection on which an exchange did not come to its end is given up: what it may still bring answers no question.
    async fn exchange(&self, kept: &mut Option<Line>, verb: &Verb, budget: Duration) -> Result<Answer, StepError> {
        let mut line = match kept.take() {
            Some(line) => line,
            None => {
                let mut stream = BufStream::new(self.connect().await?);
                let reply = self.send(&mut stream, Verb::Status, None, None).await?;
                if reply.protocol < PROTOCOL {
                    return Err(self.older(&reply.version));
                }
                Line { stream, clock: (reply.now_ms, Instant::now()), epoch: reply.epoch }
            }
        };
        let (then, at) = line.clock;
        let until = then.saturating_add_unsigned(millis(at.elapsed() + budget));
        let reply = self.send(&mut line.stream, verb.clone(), Some(until), Some(line.epoch)).await?;
        (line.clock, line.epoch) = ((reply.now_ms, Instant::now()), reply.epoch);
        *kept = Some(line);
        Ok(reply.answer)
    }

    async fn send(
        &self,
        stream: &mut BufStream<Box<dyn Stream>>,
        verb: Verb,
        until_ms: Option<i64>,
        epoch: Option<u64>,
    ) -> Result<Reply, StepError> {
        let request = Request { pooler: self.console.clone(), verb, until_ms, epoch };
        let exchanged = async {
            write(stream, &request).await?;
            read::<Reply>(stream).await?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
        };
        exchanged.await.map_err(|error: std::io::Error| {
            let failed = match error.kind() {
                ErrorKind::InvalidData => StepError::blocked(
                    format!("the guard of {} answers what pgleap {VERSION} cannot read", self.name),
                    "install the guard's version of pgleap here, then try again",
                ),
                _ => StepError::transient(format!("the guard of {} broke off", self.name)),
            };
            failed.because(error.to_string())
        })
    }

    /// Makes the error for a guard that would not know, or would pass over, some of what it is asked.
    fn older(&self, version: &str) -> StepError {
        let what = if version.is_empty() { "an older pgleap".to_owned() } else { format!("pgleap {version}") };
        let hint = match self.place {
            Place::Beside(_) => "wait until it has ended by itself, some seconds after who started it, then try again",
            Place::Network { .. } => {
                "install the same version on its host and start it again, then try again: guards are upgraded first"
            }
        };
        StepError::blocked(format!("the guard of {} is {what}, which pgleap {VERSION} cannot rely on", self.name), hint)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, StepError> {
        let (address, tls) = match &self.place {
            Place::Beside(guard) => return Ok(Box::new(guard.connect().await?)),
            Place::Network { address, tls } => (address, tls),
        };
        let call = async {
            let name = ServerName::try_from(address.host.clone()).map_err(std::io::Error::other)?;
            let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
            stream.set_nodelay(true)?;
            tls.connect(name, stream).await
        };
        let fail = |why: String| StepError::transient(format!("cannot reach the guard at {address}")).because(why);
        match tokio::time::timeout(CONNECT_BUDGET, call).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(fail(error.to_string())),
            Err(_) => Err(fail(format!("no answer within {} s", CONNECT_BUDGET.as_secs()))),
        }
    }
}
