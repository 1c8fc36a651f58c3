//! Counts and measures. Takes every moment as an argument, so that it can be tested without waiting.
//!
//! Latency begins when a transaction is *due*. With a rate, a client that was held up has transactions that became due
//! meanwhile: each of them is measured from its own moment, so one long stall shows as all the waits it caused.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use jiff::Timestamp;

use crate::report::{FailureKind, Latency, PeriodReport, Stats};
use crate::session::Failure;
use crate::timeline::Timeline;

/// Three significant digits: 0.1 % of the value, in about 100 KiB.
const DIGITS: u8 = 3;

/// The numbers of all clients of one run, shared by them.
pub(crate) struct Meter(Mutex<Numbers>);

struct Numbers {
    started: (Instant, Timestamp),
    clients: Vec<ClientState>,
    totals: Totals,
    failures: BTreeMap<String, FailureKind>,
    latency: Option<Histogram<u32>>,
    longest_gap: Duration,
    longest_stall: Duration,
    /// Never empty; only the last one is open.
    periods: Vec<Period>,
    timeline: Timeline,
}

#[derive(Clone, Default)]
struct ClientState {
    due: Option<Instant>,
    last_end: Option<Instant>,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    transactions: u64,
    rolled_back: u64,
    failed_transactions: u64,
    failed_connects: u64,
    retries: u64,
    reconnects: u64,
    unknown_outcomes: u64,
    stale_reads: u64,
    unfinished: u64,
}

struct Period {
    name: String,
    started: (Instant, Timestamp),
    ended: Option<Instant>,
    transactions: u64,
    failed_transactions: u64,
    longest_stall: Duration,
    latency: Option<Histogram<u32>>,
    /// What remains of `latency` once the period is over: many periods then take little memory.
    summary: Latency,
}

/// How a transaction ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    Rollback,
}

impl Meter {
    pub(crate) fn new(clients: usize, started: (Instant, Timestamp)) -> Self {
        Self(Mutex::new(Numbers {
            started,
            clients: vec![ClientState::default(); clients],
            totals: Totals::default(),
            failures: BTreeMap::new(),
            latency: histogram(),
            longest_gap: Duration::ZERO,
            longest_stall: Duration::ZERO,
            periods: vec![Period::new("start", started)],
            timeline: Timeline::default(),
        }))
    }

    /// A client has work to do since `due`.
    pub(crate) fn begin(&self, client: usize, due: Instant) {
        self.numbers().clients[client].due = Some(due);
    }

    /// The server acknowledged the end of the client's transaction at `at`.
    pub(crate) fn finish(&self, client: usize, at: Instant, ending: Ending) {
        let mut numbers = self.numbers();
        let Some(due) = numbers.clients[client].due.take() else { return };
        let latency = at.saturating_duration_since(due);
        let had_work_since = numbers.clients[client].last_end.map_or(due, |last| last.max(due));
        numbers.longest_gap = numbers.longest_gap.max(at.saturating_duration_since(had_work_since));
        numbers.clients[client].last_end = Some(at);
        numbers.stalled(due, at);
        record(&mut numbers.latency, latency);
        let since = due.saturating_duration_since(numbers.started.0);
        // beyond the end of time only
        if let Ok(due) = numbers.started.1.checked_add(since) {
            numbers.timeline.record(due, latency);
        }
        let committed = u64::from(ending == Ending::Commit);
        numbers.totals.transactions += committed;
        numbers.totals.rolled_back += 1 - committed;
        let period = numbers.period();
        period.transactions += committed;
        record(&mut period.latency, latency);
    }

    /// The canary was stopped while the client still waited.
    pub(crate) fn abandon(&self, client: usize, at: Instant) {
        let mut numbers = self.numbers();
        let Some(due) = numbers.clients[client].due.take() else { return };
        let since = numbers.clients[client].last_end.map_or(due, |last| last.max(due));
        numbers.longest_gap = numbers.longest_gap.max(at.saturating_duration_since(since));
        numbers.stalled(due, at);
        numbers.totals.unfinished += 1;
    }

    pub(crate) fn failed(&self, failure: Failure, at: Timestamp) {
        let mut numbers = self.numbers();
        numbers.totals.failed_transactions += 1;
        numbers.period().failed_transactions += 1;
        numbers.note(failure, at);
    }

    /// Counts a failure whose effect on the database nobody knows.
    pub(crate) fn unknown(&self, failure: Failure, at: Timestamp) {
        self.numbers().totals.unknown_outcomes += 1;
        self.failed(failure, at);
    }

    pub(crate) fn failed_connect(&self, failure: Failure, at: Timestamp) {
        let mut numbers = self.numbers();
        numbers.totals.failed_connects += 1;
        numbers.note(failure, at);
    }

    pub(crate) fn retried(&self) {
        self.numbers().totals.retries += 1;
    }

    pub(crate) fn reconnected(&self) {
        self.numbers().totals.reconnects += 1;
    }

    pub(crate) fn stale_read(&self) {
        self.numbers().totals.stale_reads += 1;
    }

    /// Closes the present period and opens the next.
    pub(crate) fn mark(&self, name: &str, at: (Instant, Timestamp)) {
        let mut numbers = self.numbers();
        let waiting = numbers.longest_wait(at.0);
        let period = numbers.period();
        // Whoever waits now has waited in the period that ends: its stall is brought up to date when the wait is over.
        period.longest_stall = period.longest_stall.max(waiting);
        period.ended = Some(at.0);
        period.summary = summary(period.latency.take().as_ref());
        numbers.periods.push(Period::new(name, at));
    }

    /// Returns the numbers as of `at`; waits that are not over count with their length so far.
    pub(crate) fn stats(&self, at: Instant) -> Stats {
        let numbers = self.numbers();
        let waiting = numbers.longest_wait(at);
        let totals = numbers.totals;
        Stats {
            started_at: numbers.started.1,
            seconds: at.saturating_duration_since(numbers.started.0).as_secs_f64(),
            transactions: totals.transactions,
            rolled_back: totals.rolled_back,
            failed_transactions: totals.failed_transactions,
            failed_connects: totals.failed_connects,
            retries: totals.retries,
            reconnects: totals.reconnects,
            unknown_outcomes: totals.unknown_outcomes,
            stale_reads: totals.stale_reads,
            unfinished: totals.unfinished,
            failures: numbers.failures.clone(),
            latency: summary(numbers.latency.as_ref()),
            longest_gap_ms: ms(numbers.longest_gap.max(numbers.longest_open_gap(at))),
            longest_client_stall_ms: ms(numbers.longest_stall.max(waiting)),
            waiting_ms: ms(waiting),
            periods: numbers.periods.iter().map(|period| period.report(at, &numbers.clients)).collect(),
        }
    }

    /// Returns the latency second by second.
    pub(crate) fn timeline(&self) -> Timeline {
        self.numbers().timeline.clone()
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // Counters only: a panic elsewhere cannot leave them in a state that matters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn period(&mut self) -> &mut Period {
        let last = self.periods.len() - 1;
        &mut self.periods[last]
    }

    fn stalled(&mut self, due: Instant, at: Instant) {
        let stall = at.saturating_duration_since(due);
        self.longest_stall = self.longest_stall.max(stall);
        for period in self.periods.iter_mut().rev() {
            if period.ended.is_some_and(|ended| ended <= due) {
                break;
            }
            period.longest_stall = period.longest_stall.max(stall);
        }
    }

    fn note(&mut self, failure: Failure, at: Timestamp) {
        self.failures
            .entry(failure.kind)
            .or_insert(FailureKind { count: 0, first_at: at, first_message: failure.message })
            .count += 1;
    }

    fn longest_wait(&self, at: Instant) -> Duration {
        self.clients.iter().filter_map(|c| c.due).map(|due| at.saturating_duration_since(due)).max().unwrap_or_default()
    }

    fn longest_open_gap(&self, at: Instant) -> Duration {
        self.clients
            .iter()
            .filter_map(|c| c.due.map(|due| c.last_end.map_or(due, |last| last.max(due))))
            .map(|since| at.saturating_duration_since(since))
            .max()
            .unwrap_or_default()
    }
}

impl Period {
    fn new(name: &str, started: (Instant, Timestamp)) -> Self {
        Self {
            name: name.to_owned(),
            started,
            ended: None,
            transactions: 0,
            failed_transactions: 0,
            longest_stall: Duration::ZERO,
            latency: histogram(),
            summary: Latency::default(),
        }
    }

    fn report(&self, at: Instant, clients: &[ClientState]) -> PeriodReport {
        let seconds = self.ended.unwrap_or(at).saturating_duration_since(self.started.0).as_secs_f64();
        let open_stall = clients
            .iter()
            .filter_map(|client| client.due)
            .filter(|due| self.ended.is_none_or(|ended| *due < ended))
            .map(|due| at.saturating_duration_since(due))
            .max()
            .unwrap_or_default();
        PeriodReport {
            name: self.name.clone(),
            started_at: self.started.1,
            seconds,
            transactions: self.transactions,
            failed_transactions: self.failed_transactions,
            longest_stall_ms: ms(self.longest_stall.max(open_stall)),
            latency: if self.ended.is_some() { self.summary } else { summary(self.latency.as_ref()) },
            tps: if seconds > 0.0 { self.transactions as f64 / seconds } else { 0.0 },
        }
    }
}

fn histogram() -> Option<Histogram<u32>> {
    // Fails for a number of digits that the crate does not know; `DIGITS` is one that it does.
    Histogram::new(DIGITS).ok()
}

fn record(histogram: &mut Option<Histogram<u32>>, took: Duration) {
    if let Some(histogram) = histogram {
        // Grows as needed; refuses only what no clock of ours can measure.
        let _ = histogram.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

fn summary(histogram: Option<&Histogram<u32>>) -> Latency {
    let Some(histogram) = histogram.filter(|histogram| !histogram.is_empty()) else { return Latency::default() };
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Latency { p50_ms: at(0.5), p95_ms: at(0.95), p99_ms: at(0.99), max_ms: histogram.max() as f64 / 1000.0 }
}

fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> (Meter, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Meter::new(2, (start, Timestamp::UNIX_EPOCH)), move |at_ms| start + Duration::from_millis(at_ms))
    }

    #[test]
    fn a_late_beginning_counts_as_latency_but_not_as_gap() {
        let (meter, at) = meter();
        meter.begin(0, at(0));
        meter.finish(0, at(1000), Ending::Commit);
        // Due at 100, begun at 1000 because the client was held up.
        meter.begin(0, at(100));
        meter.finish(0, at(1010), Ending::Commit);
        let stats = meter.stats(at(1010));
        assert_eq!((stats.transactions, stats.longest_gap_ms), (2, 1000.0));
        assert!(stats.latency.p50_ms > 900.0, "both waited nearly a second: {:?}", stats.latency);
    }

    #[test]
    fn idling_is_no_gap() {
        let (meter, at) = meter();
        meter.begin(0, at(0));
        meter.finish(0, at(5), Ending::Commit);
        meter.begin(0, at(5000));
        meter.finish(0, at(5003), Ending::Commit);
        assert_eq!(meter.stats(at(5003)).longest_gap_ms, 5.0);
    }

    #[test]
    fn a_stall_counts_in_full_for_every_period_that_it_overlaps_and_for_no_other() {
        let (meter, at) = meter();
        meter.mark("pause", (at(100), Timestamp::UNIX_EPOCH));
        meter.begin(0, at(150));
        meter.begin(1, at(160));
        meter.finish(1, at(165), Ending::Commit);
        meter.mark("after", (at(200), Timestamp::UNIX_EPOCH));
        let open: Vec<_> = meter.stats(at(250)).periods.iter().map(|p| p.longest_stall_ms).collect();
        assert_eq!(open, [0.0, 100.0, 100.0], "while it lasts");
        meter.finish(0, at(350), Ending::Commit);
        meter.mark("later", (at(400), Timestamp::UNIX_EPOCH));
        let stats = meter.stats(at(500));
        let stalls: Vec<_> = stats.periods.iter().map(|p| p.longest_stall_ms).collect();
        assert_eq!(stalls, [0.0, 200.0, 200.0, 0.0]);
        assert_eq!(stats.periods.iter().map(|p| p.transactions).collect::<Vec<_>>(), [0, 1, 1, 0]);
        assert_eq!(stats.periods[2].latency.max_ms.round(), 200.0, "kept when the period was closed");
        assert_eq!(stats.longest_client_stall_ms, 200.0);
    }

    #[test]
    fn a_wait_that_is_not_over_shows_at_once() {
        let (meter, at) = meter();
        meter.begin(0, at(10));
        let stats = meter.stats(at(910));
        assert_eq!((stats.waiting_ms, stats.longest_client_stall_ms, stats.longest_gap_ms), (900.0, 900.0, 900.0));
        meter.abandon(0, at(1010));
        let stats = meter.stats(at(2000));
        assert_eq!((stats.waiting_ms, stats.longest_client_stall_ms, stats.unfinished), (0.0, 1000.0, 1));
    }

    #[test]
    fn failures_are_counted_by_kind_with_the_first_message() {
        let (meter, at) = meter();
        meter.failed(Failure::new("23505", "first"), Timestamp::UNIX_EPOCH);
        meter.failed(Failure::new("23505", "second"), Timestamp::UNIX_EPOCH);
        meter.unknown(Failure::new("closed", "gone"), Timestamp::UNIX_EPOCH);
        let stats = meter.stats(at(1));
        assert_eq!((stats.failed_transactions, stats.unknown_outcomes), (3, 1));
        assert_eq!((stats.failures["23505"].count, stats.failures["23505"].first_message.as_str()), (2, "first"));
    }
}
