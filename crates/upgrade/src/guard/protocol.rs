//! What is said to a guard, and what it answers: one JSON object a line, one answer to each request.
//!
//! A guard may be newer than who asks, and never older: it is upgraded first, and goes on to understand what was said before.

use std::io::{Error, ErrorKind};

use pgleap_saga::StepError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::note::Turn;
use crate::pgbouncer::{
    admin::{Entry, Traffic},
    ini::Address,
    inspect::{Inspection, Unseen},
    pooler::Move,
};

/// What is understood here. Raised with each verb and field that an older guard does not know, or would pass over.
pub const PROTOCOL: u32 = 1;
/// The version, for people.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A question to the guard of one pooler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which pooler, by the `host:port` of its console.
    pub pooler: String,
    /// What it should do.
    pub verb: Verb,
    /// Until when somebody waits for the answer, in milliseconds of the guard's own clock: what a broken link delivers later
    /// is not done. None to learn that clock, which [`Verb::Status`] alone may.
    pub until_ms: Option<i64>,
    /// How many turns the guard had seen when it last answered here: a decision that another turn came after is not followed.
    #[serde(default)]
    pub epoch: Option<u64>,
}

/// An answer, with who gives it, the guard's clock and its count of turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Now, in milliseconds since 1970 by the guard's host.
    pub now_ms: i64,
    /// How many turns it has seen.
    #[serde(default)]
    pub epoch: u64,
    /// What the guard understands: its [`PROTOCOL`], 0 of one that is older than that number.
    #[serde(default)]
    pub protocol: u32,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// The answer.
    pub answer: Answer,
}

/// What a guard can do. Everything may be asked twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// List the pooler's entries.
    Entries,
    /// Look at everything that the checks ask about, and change nothing.
    Inspect {
        /// Where the entries should lead.
        source: Address,
    },
    /// Compute the configuration with these entries moved, and see that the file can be replaced.
    Rehearse {
        /// The entries to be moved, from where to where.
        moves: Vec<Move>,
    },
    /// See that the pooler itself can log in where these entries are to be led.
    TryLogins {
        /// The entries to be moved, from where to where.
        moves: Vec<Move>,
    },
    /// Open what a pause of so many entries will use.
    WarmUp {
        /// How many entries.
        entries: usize,
    },
    /// Pause, and hold the pause for `lease_ms` at most.
    Hold {
        /// What is held, and between which addresses it is decided.
        turn: Turn,
        /// After this the guard decides by itself.
        lease_ms: u64,
        /// How long seeing every entry paused may take.
        within_ms: u64,
    },
    /// Wait until no server connection is left.
    Drained {
        /// The entries that are paused.
        entries: Vec<Entry>,
        /// How long that may take.
        within_ms: u64,
    },
    /// The decision is the new address: see that every entry leads there when its clients go on. They wait on, until `Resume` or
    /// the end of the lease.
    Decide {
        /// What was held.
        turn: Turn,
    },
    /// Let clients go on: where it was decided, or else where they were.
    Resume {
        /// The pause that is ended; one of another id is left alone.
        turn: String,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// Say how much went through each entry.
    Traffic,
    /// Read the configuration anew.
    Reload,
    /// Say what is held.
    Status,
}

/// What a guard answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// The pooler's entries.
    Entries(Vec<Entry>),
    /// What was seen, or why nothing was.
    Inspected(Result<Inspection, Unseen>),
    /// Everybody who could be tried can log in; these could not be, a line each.
    Tried(Vec<String>),
    /// What went through each entry.
    Traffic(Vec<Traffic>),
    /// What is held.
    Status(Status),
    /// It was refused, or could not be done.
    Refused(StepError),
}

/// What a guard holds for one pooler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Status {
    /// The pause that is held, if there is one.
    pub held: Option<String>,
    /// The decision for the new address was received, and the pause is not over.
    pub decided: bool,
    /// How many leases ended without a decision, since the guard began.
    pub lapsed: u64,
}

/// Longer lines are no requests: an entry takes some hundred bytes.
const LONGEST_LINE: u64 = 4 << 20;

/// Reads one line; `None` at the end of the stream.
///
/// # Errors
/// What the stream said, or `InvalidData`: the line is no such message, and the next one may be.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<T>> {
    let mut line = Vec::new();
    stream.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => {
            let message = serde_json::from_slice(&line);
            message.map(Some).map_err(|error| Error::new(ErrorKind::InvalidData, error))
        }
        Some(_) => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes one line.
///
/// # Errors
/// What the stream said.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}
