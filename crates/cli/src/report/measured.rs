//! What clients saw meanwhile: a canary's numbers, and the audit of its ledger.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use pgleap_canary::{Audit, Stats, Timeline, Window};
use pgleap_saga::{Journal, JournalError, PlanState};
use serde::{Deserialize, Serialize};

use crate::{display::text, errors::CommandError, exit::Exit};

/// Where the journal keeps it, so that a report made later shows it too.
const META: &str = "measured";

/// What a canary measured while the upgrade was under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// How many clients wrote.
    pub clients: usize,
    /// Transactions whose COMMIT was acknowledged.
    pub transactions: u64,
    /// Attempts that failed, whether or not they were repeated.
    pub failed_transactions: u64,
    /// COMMIT was sent, and its answer never came.
    pub unknown_outcomes: u64,
    /// The longest that a client waited for one transaction.
    pub longest_client_stall_ms: f64,
    /// Half of the transactions took at most this.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// Its periods: named stretches of time with their own numbers.
    pub periods: Vec<Period>,
    /// Acknowledged writes that the database does not hold; `None` if no ledger was audited.
    pub lost_writes: Option<u64>,
    /// Writes that it holds more than once.
    pub duplicated_writes: Option<u64>,
    /// The longest client stall of a bare PAUSE and RESUME under the same load: no switchover can do better.
    pub pause_floor_ms: Option<f64>,
    /// What transactions took around each switchover.
    #[serde(default)]
    pub around: Vec<Around>,
    /// What that is taken from.
    #[serde(skip)]
    pub timeline: Timeline,
}

/// What transactions took in the minute before a switchover's pause, and in the minute after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Around {
    /// The switchover's plan.
    pub plan: String,
    /// Before.
    pub before: Option<Window>,
    /// After.
    pub after: Option<Window>,
}

impl Around {
    /// Compares the two minutes in a few words; none if one of them is not known.
    pub fn in_words(&self) -> Option<String> {
        let (before, after) = (self.before?, self.after?);
        let ms = text::millis;
        Some(format!(
            "p50 {} before, {} after; p99 {} before, {} after",
            ms(before.p50_ms),
            ms(after.p50_ms),
            ms(before.p99_ms),
            ms(after.p99_ms)
        ))
    }
}

const A_MINUTE: SignedDuration = SignedDuration::from_secs(60);

/// A stretch of a canary's run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Period {
    /// Its name.
    pub name: String,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it lasted.
    pub seconds: f64,
    /// The longest wait that overlaps it.
    pub longest_stall_ms: f64,
    /// Attempts that failed in it.
    pub failed_transactions: u64,
    /// Transactions acknowledged per second.
    pub tps: f64,
}

impl Measured {
    /// Takes a canary's numbers and, if its ledger was audited, the verdict.
    pub fn of(clients: usize, stats: &Stats, audit: Option<&Audit>) -> Self {
        let period = |period: &pgleap_canary::PeriodReport| Period {
            name: period.name.clone(),
            started_at: period.started_at,
            seconds: period.seconds,
            longest_stall_ms: period.longest_stall_ms,
            failed_transactions: period.failed_transactions,
            tps: period.tps,
        };
        Self {
            clients,
            transactions: stats.transactions,
            failed_transactions: stats.failed_transactions,
            unknown_outcomes: stats.unknown_outcomes,
            longest_client_stall_ms: stats.longest_client_stall_ms,
            p50_ms: stats.latency.p50_ms,
            p99_ms: stats.latency.p99_ms,
            periods: stats.periods.iter().map(period).collect(),
            lost_writes: audit.map(|audit| audit.lost),
            duplicated_writes: audit.map(|audit| audit.duplicated),
            pause_floor_ms: None,
            around: Vec::new(),
            timeline: Timeline::default(),
        }
    }

    /// Takes from the timeline what is to be said of each switchover that moved writes. A minute ends where the next
    /// switchover's pause begins.
    #[must_use]
    pub fn around(mut self, plans: &[PlanState]) -> Self {
        if self.timeline.is_empty() {
            return self;
        }
        let pauses: Vec<_> = plans
            .iter()
            .filter(|plan| plan.kind == "switchover")
            .filter_map(|plan| Some((plan, plan.sections.first()?.started_at, plan.sections.first()?.ended_at?)))
            .collect();
        let minutes = |(nth, (plan, from, to)): (usize, &(&PlanState, Timestamp, Timestamp))| {
            let last = nth.checked_sub(1).and_then(|nth| pauses.get(nth)).map_or(Timestamp::MIN, |pause| pause.2);
            let next = pauses.get(nth + 1).map_or(Timestamp::MAX, |pause| pause.1);
            let before = from.checked_sub(A_MINUTE).map_or(last, |at| at.max(last));
            let after = to.checked_add(A_MINUTE).map_or(next, |at| at.min(next));
            Around {
                plan: plan.id.clone(),
                before: self.timeline.window(before, *from),
                after: self.timeline.window(*to, after),
            }
        };
        let moved = |(_, (plan, ..)): &(usize, &(&PlanState, _, _))| plan.past_point_of_no_return;
        self.around = pauses.iter().enumerate().filter(moved).map(minutes).collect();
        self
    }

    /// Puts the numbers of canaries that ran side by side together: counts are added, of waits the longest is kept.
    pub fn together(parts: Vec<Self>) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
        let join = |mut all: Self, part: Self| {
            all.clients += part.clients;
            all.transactions += part.transactions;
            all.failed_transactions += part.failed_transactions;
            all.unknown_outcomes += part.unknown_outcomes;
            all.longest_client_stall_ms = all.longest_client_stall_ms.max(part.longest_client_stall_ms);
            all.p50_ms = all.p50_ms.max(part.p50_ms);
            all.p99_ms = all.p99_ms.max(part.p99_ms);
            all.lost_writes = sum(all.lost_writes, part.lost_writes);
            all.duplicated_writes = sum(all.duplicated_writes, part.duplicated_writes);
            all.timeline.add(&part.timeline);
            // marked at the same moments, so the nth period of each is the same stretch of time
            for (period, other) in all.periods.iter_mut().zip(&part.periods) {
                period.longest_stall_ms = period.longest_stall_ms.max(other.longest_stall_ms);
                period.failed_transactions += other.failed_transactions;
                period.tps += other.tps;
            }
            all
        };
        parts.into_iter().reduce(join).unwrap_or_default()
    }

    /// Reads the file that `pgleap canary --report` wrote.
    ///
    /// # Errors
    /// If it cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self, CommandError> {
        let failed = |why: String| {
            CommandError::new(Exit::Usage, format!("cannot use `{}` as a canary's report", path.display()))
                .because(why)
                .hint("name the file that `pgleap canary --report FILE` wrote")
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let report: pgleap_canary::Report = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        Ok(Self { timeline: report.timeline, ..Self::of(report.clients, &report.stats, None) })
    }

    /// Keeps it in the journal, for reports to come.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep(&self, journal: &Journal) -> Result<(), JournalError> {
        journal.set_meta(META, &serde_json::json!(self).to_string())
    }

    /// Returns what a run kept.
    pub(super) fn kept(journal: &Journal) -> Result<Option<Self>, JournalError> {
        Ok(journal.meta(META)?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Returns the longest stall and the failed transactions from one moment to another; `None` if no period lies there.
    ///
    /// A period belongs to the stretch that holds its middle, so marks need not be set at the same millisecond.
    pub(super) fn between(&self, from: Timestamp, to: Timestamp) -> Option<(f64, u64)> {
        let (from, to) = (from.as_millisecond() as f64, to.as_millisecond() as f64);
        let middle = |period: &&Period| {
            let middle = period.started_at.as_millisecond() as f64 + period.seconds * 500.0;
            from <= middle && middle <= to
        };
        let stalls: Vec<_> = self.periods.iter().filter(middle).collect();
        let longest = stalls.iter().map(|period| period.longest_stall_ms).reduce(f64::max)?;
        Some((longest, stalls.iter().map(|period| period.failed_transactions).sum()))
    }
}

#[cfg(test)]
mod tests {
    use pgleap_saga::{Direction, SectionState};

    use super::*;

    fn switchover(id: &str, from: i64, to: i64, moved: bool) -> PlanState {
        let at = |second| Timestamp::from_second(second).unwrap();
        PlanState {
            id: id.into(),
            kind: "switchover".into(),
            params: serde_json::Value::Null,
            direction: Direction::Forward,
            past_point_of_no_return: moved,
            stopped: false,
            cause: None,
            outcome: None,
            opened_at: at(from),
            closed_at: None,
            sections: vec![SectionState {
                name: "write pause".into(),
                budget_ms: 2000,
                started_at: at(from),
                ended_at: Some(at(to)),
            }],
            steps: Vec::new(),
        }
    }

    /// A timeline of one transaction a second.
    fn steady(seconds: std::ops::Range<i64>) -> Timeline {
        let seconds: Vec<_> = seconds.map(|n| (n, [(192, 1)])).collect();
        serde_json::from_value(serde_json::json!(seconds)).unwrap()
    }

    #[test]
    fn the_minutes_around_a_switchover_end_at_the_next_one_and_where_nobody_measured() {
        let measured = Measured { timeline: steady(980..1300), ..Measured::default() };
        let plans = [
            switchover("s1", 1000, 1001, true),
            switchover("s2", 1041, 1042, false),
            switchover("s3", 1200, 1201, true),
        ];
        let around = measured.around(&plans).around;
        let seconds = |window: &Option<Window>| window.map(|window| window.seconds);
        let seen: Vec<_> = around.iter().map(|a| (a.plan.as_str(), seconds(&a.before), seconds(&a.after))).collect();
        assert_eq!(seen, [("s1", Some(20), Some(40)), ("s3", Some(60), Some(60))], "one that moved nobody has none");
        assert!(around[0].in_words().unwrap().starts_with("p50 3.9 ms before, 3.9 ms after; p99"));
    }

    #[test]
    fn without_a_timeline_what_a_run_kept_stays() {
        let kept = vec![Around { plan: "s1".into(), before: None, after: None }];
        let measured = Measured { around: kept.clone(), ..Measured::default() };
        assert_eq!(measured.around(&[]).around, kept);
    }
}
