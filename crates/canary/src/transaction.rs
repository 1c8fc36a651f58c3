//! One attempt at one transaction: what is sent, in which order, and what can be said about its outcome.
//!
//! BEGIN, a read of what the client wrote last, three writes; then COMMIT in a message of its own, so that it is always
//! known whether it was sent, and that the transaction is open between messages, as those of applications are. Writes that are meant to vanish carry negative numbers: a negative number that is ever seen
//! was never committed by anybody.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::meter::Ending;
use crate::session::{Failure, commit_surely_failed, needs_reconnect};

/// What a transaction does besides its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// A subtransaction that is rolled back, and one that is kept.
    Savepoints,
    /// ROLLBACK instead of COMMIT.
    Rollback,
}

/// A transaction to be tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) client: &'a str,
    pub(crate) kind: Kind,
    /// The number it commits under; unused by [`Kind::Rollback`].
    pub(crate) seq: i64,
    /// The last number that was acknowledged: a read must see at least this.
    pub(crate) last_acknowledged: i64,
    /// A number for writes that vanish; positive here, negative in the table.
    pub(crate) vanishing: i64,
}

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done {
        ending: Ending,
        stale: bool,
    },
    /// Nothing was committed.
    Failed {
        failure: Failure,
        reconnect: bool,
    },
    /// COMMIT was sent; whether it took effect is not known.
    Unknown(Failure),
}

impl Outcome {
    /// The outcome of an attempt that was cut short.
    pub(crate) fn cut_short(commit_sent: &AtomicBool, failure: Failure) -> Self {
        if commit_sent.load(Ordering::Relaxed) {
            Self::Unknown(failure)
        } else {
            Self::Failed { failure, reconnect: true }
        }
    }

    fn failed(error: &Error) -> Self {
        Self::Failed { failure: Failure::of(error), reconnect: needs_reconnect(error) }
    }
}

/// Tries the transaction once. `commit_sent` is set before COMMIT is, for a caller who drops this future.
pub(crate) async fn attempt(client: &Client, plan: Plan<'_>, commit_sent: &AtomicBool) -> Outcome {
    let mut answers = Vec::new();
    for message in plan.messages() {
        match client.simple_query(&message).await {
            Ok(answer) => answers.extend(answer),
            Err(error) => return Outcome::failed(&error),
        }
    }
    // The last thing written is the counter; its row has to be there.
    let counted = matches!(answers.last(), Some(SimpleQueryMessage::CommandComplete(1)));
    let stale = lowest_seen(&answers) < plan.last_acknowledged || !counted;
    if plan.kind == Kind::Rollback {
        return match client.simple_query("ROLLBACK").await {
            Ok(_) => Outcome::Done { ending: Ending::Rollback, stale },
            Err(error) => Outcome::failed(&error),
        };
    }
    if client.is_closed() {
        return Outcome::Failed {
            failure: Failure::new("connection_closed", "connection closed before COMMIT"),
            reconnect: true,
        };
    }
    commit_sent.store(true, Ordering::Relaxed);
    match client.simple_query("COMMIT").await {
        Ok(_) => Outcome::Done { ending: Ending::Commit, stale },
        Err(error) if commit_surely_failed(&error) => Outcome::failed(&error),
        Err(error) => Outcome::Unknown(Failure::of(&error)),
    }
}

impl Plan<'_> {
    // Values are written into the text because unnamed statements would cost a round trip each; they are numbers and an
    // id of our own making, in hexadecimal.

    /// What goes before COMMIT. Each message costs a round trip, on a machine that also runs the servers being measured:
    /// one less took the canary from 7.6 to 6 % of a core at 300 transactions/s. The occasional transaction with
    /// savepoints pays for one more, to be open for longer.
    fn messages(&self) -> Vec<String> {
        let (begin, writes) = (self.begin(), self.writes());
        match self.kind {
            Kind::Savepoints => vec![begin, writes],
            Kind::Plain | Kind::Rollback => vec![format!("{begin}; {writes}")],
        }
    }

    /// A plain BEGIN: a fence by `default_transaction_read_only` has to be felt here as applications feel it.
    fn begin(&self) -> String {
        let client = self.client;
        format!(
            "BEGIN; \
             SELECT (SELECT pg_catalog.max(seq) FROM pgleap_canary.entry WHERE client = '{client}' AND seq > 0), \
                    (SELECT last_seq FROM pgleap_canary.counter WHERE client = '{client}')"
        )
    }

    fn writes(&self) -> String {
        let client = self.client;
        let gone = -self.vanishing;
        let keyed = |seq: i64| insert("entry", client, seq);
        let keyless = |seq: i64| insert("entry_keyless", client, seq);
        let seq = if self.kind == Kind::Rollback { gone } else { self.seq };
        let rows = match self.kind {
            Kind::Plain | Kind::Rollback => format!("{}{}", keyed(seq), keyless(seq)),
            Kind::Savepoints => format!(
                "SAVEPOINT vanishing; {}{}ROLLBACK TO SAVEPOINT vanishing; {}\
                 SAVEPOINT kept; {}RELEASE SAVEPOINT kept; ",
                keyed(gone),
                keyless(gone),
                keyed(seq),
                keyless(seq)
            ),
        };
        format!("{rows}UPDATE pgleap_canary.counter SET value = value + 1, last_seq = {seq} WHERE client = '{client}'")
    }
}

/// The text that follows client and number in a payload; the audit compares it.
pub(crate) const PAYLOAD_TAIL: &str = "........................................";

fn insert(table: &str, client: &str, seq: i64) -> String {
    format!(
        "INSERT INTO pgleap_canary.{table} (client, seq, payload) \
         VALUES ('{client}', {seq}, '{client}/{seq}{PAYLOAD_TAIL}'); "
    )
}

/// The lower of the two numbers that the read found; a row that is not there counts as 0.
fn lowest_seen(answer: &[SimpleQueryMessage]) -> i64 {
    let number =
        |row: &tokio_postgres::SimpleQueryRow, nth| row.try_get(nth).ok().flatten().and_then(|n| n.parse().ok());
    answer
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(number(row, 0).unwrap_or(0).min(number(row, 1).unwrap_or(0))),
            _ => None,
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: Kind) -> Plan<'static> {
        Plan { client: "ab-0", kind, seq: 7, last_acknowledged: 6, vanishing: 3 }
    }

    #[test]
    fn a_rolled_back_transaction_never_writes_a_number_that_could_be_acknowledged() {
        let text = plan(Kind::Rollback).writes();
        assert!(!text.contains("'ab-0', 7") && text.matches("'ab-0', -3").count() == 2, "{text}");
    }

    #[test]
    fn savepoints_write_the_vanishing_number_before_they_roll_back_and_the_real_one_after() {
        let text = plan(Kind::Savepoints).writes();
        let (before, after) = text.split_once("ROLLBACK TO").unwrap();
        assert_eq!((before.matches(", -3,").count(), before.matches(", 7,").count()), (2, 0));
        assert_eq!((after.matches(", -3,").count(), after.matches(", 7,").count()), (0, 2));
    }

    #[test]
    fn being_cut_short_is_a_failure_before_commit_and_unknown_after() {
        let failure = || Failure::new("timeout", "");
        let before = Outcome::cut_short(&AtomicBool::new(false), failure());
        assert_eq!(before, Outcome::Failed { failure: failure(), reconnect: true });
        assert_eq!(Outcome::cut_short(&AtomicBool::new(true), failure()), Outcome::Unknown(failure()));
    }
}
