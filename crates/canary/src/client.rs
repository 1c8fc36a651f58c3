//! One client: when its transactions are due, and how it goes on after an error.
//!
//! A failed transaction is tried again under the same number, after a short and bounded wait. One whose outcome is
//! unknown is noted as such, and its work is done again under the next number; it has been waited for all the while, so
//! its time goes on counting.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::Config;

use crate::book::Book;
use crate::meter::{Ending, Meter};
use crate::session::{Failure, Session};
use crate::transaction::{Kind, Outcome, Plan, attempt};

/// How long a transaction that is in flight when the canary is stopped may still take.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);

const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);

/// Once in so many transactions a client rolls back, and once it uses savepoints.
const SPECIAL_EVERY: u64 = 50;

/// What all clients of a canary share.
pub(crate) struct Shared {
    pub(crate) connect: Config,
    pub(crate) transaction_timeout: Duration,
    pub(crate) book: Book,
    pub(crate) meter: Meter,
}

/// A client that is connected and about to begin.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) name: String,
    pub(crate) session: Option<Session>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: watch::Receiver<bool>,
    /// When the first transaction is due, and the time from one to the next; `None`: as soon as the last one is done.
    pub(crate) schedule: Option<(Instant, Duration)>,
}

impl Worker {
    /// Runs until the canary is stopped.
    pub(crate) async fn run(mut self) {
        let mut nth = 0;
        while let Some(due) = self.next_due(nth).await {
            self.shared.meter.begin(self.number, due.into_std());
            if !self.work(self.kind_of(nth), nth).await {
                self.shared.meter.abandon(self.number, Instant::now().into_std());
                break;
            }
            nth += 1;
        }
        self.shared.book.ended(self.number);
    }

    /// Waits for the next transaction to be due; `None` when the canary was stopped.
    async fn next_due(&mut self, nth: u64) -> Option<Instant> {
        if stopped(&self.stop) {
            return None;
        }
        let Some((first, interval)) = self.schedule else { return Some(Instant::now()) };
        let due = first + interval.mul_f64(nth as f64);
        tokio::select! {
            () = sleep_until(due) => Some(due),
            _ = self.stop.wait_for(|stop| *stop) => None,
        }
    }

    /// Every other client, the only one among them, now and then does what must leave no trace.
    fn kind_of(&self, nth: u64) -> Kind {
        match (self.number % 2, nth % SPECIAL_EVERY) {
            (0, 10) => Kind::Savepoints,
            (0, 35) => Kind::Rollback,
            _ => Kind::Plain,
        }
    }

    /// Tries until one transaction is acknowledged; `false` when the canary was stopped before that.
    async fn work(&mut self, kind: Kind, nth: u64) -> bool {
        let mut failures = 0;
        let mut is_retry = false;
        loop {
            if failures > 0 && !self.back_off(failures).await {
                return false;
            }
            if self.session.is_none() && !self.reconnect().await {
                if stopped(&self.stop) {
                    return false;
                }
                failures += 1;
                continue;
            }
            if is_retry {
                self.shared.meter.retried();
            }
            let (seq, outcome) = self.attempt(kind, nth).await;
            match outcome {
                Outcome::Done { ending, stale } => {
                    let at = Instant::now();
                    if ending == Ending::Commit {
                        self.shared.book.acknowledged(self.number, seq);
                    }
                    if stale {
                        self.shared.meter.stale_read();
                    }
                    self.shared.meter.finish(self.number, at.into_std(), ending);
                    return true;
                }
                Outcome::Failed { failure, reconnect } => {
                    self.shared.meter.failed(failure, Timestamp::now());
                    is_retry = true;
                    self.recover(reconnect).await;
                }
                Outcome::Unknown(failure) => {
                    self.shared.book.unknown(self.number, seq);
                    self.shared.meter.unknown(failure, Timestamp::now());
                    // Not a retry: what follows has another number.
                    is_retry = false;
                    self.session = None;
                }
            }
            failures += 1;
            if stopped(&self.stop) {
                return false;
            }
        }
    }

    async fn attempt(&self, kind: Kind, nth: u64) -> (i64, Outcome) {
        let (seq, last_acknowledged) = self.shared.book.position(self.number);
        let vanishing = i64::try_from(nth).unwrap_or(i64::MAX - 1) + 1;
        let plan = Plan { client: &self.name, kind, seq, last_acknowledged, vanishing };
        let Some(session) = &self.session else {
            let failure = Failure::new("connection_closed", "no connection");
            return (seq, Outcome::Failed { failure, reconnect: true });
        };
        let limit = self.shared.transaction_timeout;
        let commit_sent = AtomicBool::new(false);
        let outcome = tokio::select! {
            outcome = attempt(&session.client, plan, &commit_sent) => outcome,
            () = sleep(limit) => {
                let message = format!("no answer within {} ms", limit.as_millis());
                Outcome::cut_short(&commit_sent, Failure::new("timeout", message))
            }
            () = grace_over(self.stop.clone()) => {
                Outcome::cut_short(&commit_sent, Failure::new("stopped", "still unanswered when the canary stopped"))
            }
        };
        (seq, outcome)
    }

    /// Leaves the connection fit for the next attempt, or gives it up.
    async fn recover(&mut self, reconnect: bool) {
        let fit = match &self.session {
            Some(session) if !reconnect => session.rollback(self.shared.transaction_timeout.min(STOP_GRACE)).await,
            _ => false,
        };
        if !fit {
            self.session = None;
        }
    }

    async fn reconnect(&mut self) -> bool {
        let result = tokio::select! {
            result = Session::connect(&self.shared.connect, self.shared.transaction_timeout) => result,
            _ = self.stop.wait_for(|stop| *stop) => return false,
        };
        match result {
            Ok(session) => {
                self.session = Some(session);
                self.shared.meter.reconnected();
                true
            }
            Err(error) => {
                self.shared.meter.failed_connect(Failure::of_connect(&error), Timestamp::now());
                false
            }
        }
    }

    /// Waits a little longer after each failure in a row; `false` when the canary was stopped.
    async fn back_off(&mut self, failures: u32) -> bool {
        let wait = FIRST_BACKOFF.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_BACKOFF);
        tokio::select! {
            () = sleep(wait) => true,
            _ = self.stop.wait_for(|stop| *stop) => false,
        }
    }
}

/// A canary that is gone without a word counts as stopped.
fn stopped(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

async fn grace_over(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
    sleep(STOP_GRACE).await;
}
