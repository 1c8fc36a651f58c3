//! Latency second by second: what transactions took in any stretch of the newest hours, such as the minute before a
//! switchover and the minute after it, also for a report that is made later and elsewhere.
//!
//! A transaction counts in the second in which it was due. Times fall into buckets of 4.4 %, so a percentile is right to
//! about 2 %. Bounded: of a longer run the oldest seconds are dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Six hours: a few megabytes at hundreds of transactions per second.
const SECONDS: usize = 6 * 3600;
const BUCKETS_PER_DOUBLING: f64 = 16.0;

/// Every second's transactions, by how long they took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Second>", into = "Vec<Second>")]
pub struct Timeline {
    seconds: BTreeMap<i64, BTreeMap<u16, u32>>,
}

/// One second as it is written: Unix time, then pairs of a bucket and a count.
#[derive(Serialize, Deserialize)]
struct Second(i64, Vec<(u16, u32)>);

/// What transactions took in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// How many seconds of it are known.
    pub seconds: usize,
    /// How many transactions were due in them.
    pub transactions: u64,
    /// Half of them took at most this.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
}

impl From<Vec<Second>> for Timeline {
    fn from(seconds: Vec<Second>) -> Self {
        Self { seconds: seconds.into_iter().map(|Second(at, counts)| (at, counts.into_iter().collect())).collect() }
    }
}

impl From<Timeline> for Vec<Second> {
    fn from(timeline: Timeline) -> Self {
        timeline.seconds.into_iter().map(|(at, counts)| Second(at, counts.into_iter().collect())).collect()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a logarithm of microseconds is small")]
fn bucket(took: Duration) -> u16 {
    (took.as_secs_f64().max(1e-6).log2().mul_add(BUCKETS_PER_DOUBLING, 20.0 * BUCKETS_PER_DOUBLING)).round() as u16
}

fn millis(bucket: u16) -> f64 {
    (f64::from(bucket) / BUCKETS_PER_DOUBLING - 20.0).exp2() * 1000.0
}

impl Timeline {
    /// Counts a transaction.
    pub(crate) fn record(&mut self, due: Timestamp, took: Duration) {
        *self.seconds.entry(due.as_second()).or_default().entry(bucket(took)).or_default() += 1;
        while self.seconds.len() > SECONDS {
            self.seconds.pop_first();
        }
    }

    /// Returns whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.seconds.is_empty()
    }

    /// Adds what other clients counted.
    pub fn add(&mut self, other: &Self) {
        for (second, counts) in &other.seconds {
            let own = self.seconds.entry(*second).or_default();
            counts.iter().for_each(|(bucket, count)| *own.entry(*bucket).or_default() += count);
        }
    }

    /// Returns what transactions took that were due between two moments, to the nearest second; `None` if there were none.
    pub fn window(&self, from: Timestamp, to: Timestamp) -> Option<Window> {
        let nearest = |at: Timestamp| (at.as_millisecond() + 500).div_euclid(1000);
        let (from, to) = (nearest(from), nearest(to));
        let (mut all, mut seconds) = (BTreeMap::<u16, u64>::new(), 0);
        for (_, counts) in self.seconds.range(from..to.max(from)) {
            seconds += 1;
            counts.iter().for_each(|(bucket, count)| *all.entry(*bucket).or_default() += u64::from(*count));
        }
        let transactions: u64 = all.values().sum();
        let at = |percent: u64| {
            let wanted = (transactions * percent).div_ceil(100);
            let mut seen = 0;
            all.iter().find(|(_, count)| {
                seen += **count;
                seen >= wanted
            })
        };
        let (p50, p99) = (at(50)?.0, at(99)?.0);
        Some(Window { seconds, transactions, p50_ms: millis(*p50), p99_ms: millis(*p99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_second(n).unwrap()
    }

    #[test]
    fn a_window_holds_what_was_due_in_it_and_its_percentiles_are_right_to_two_percent() {
        let mut timeline = Timeline::default();
        timeline.record(second(9), MS(5000));
        (0..97).for_each(|_| timeline.record(second(10), MS(4)));
        (0..3).for_each(|_| timeline.record(second(11), MS(90)));
        timeline.record(second(12), MS(5000));
        let window = timeline.window(second(10), second(12)).unwrap();
        assert_eq!((window.seconds, window.transactions), (2, 100));
        assert!((window.p50_ms - 4.0).abs() < 0.09 && (window.p99_ms - 90.0).abs() < 2.0, "{window:?}");
        assert_eq!(timeline.window(second(20), second(80)), None, "nobody knows, and it is not 0");
        assert_eq!(timeline.window(second(12), second(10)), None);
    }

    #[test]
    fn clients_of_several_databases_are_counted_together_and_a_timeline_survives_json() {
        let (mut one, mut two) = (Timeline::default(), Timeline::default());
        one.record(second(1), MS(10));
        two.record(second(1), MS(10));
        two.record(second(2), Duration::ZERO);
        one.add(&two);
        assert_eq!(one.window(second(1), second(3)).unwrap().transactions, 3);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Timeline>(&text).unwrap(), one);
    }

    #[test]
    fn of_a_long_run_the_newest_hours_are_kept() {
        let mut timeline = Timeline::default();
        (0..SECONDS as i64 + 10).for_each(|n| timeline.record(second(n), MS(1)));
        assert_eq!(timeline.seconds.len(), SECONDS);
        assert_eq!(timeline.window(second(0), second(10)), None);
    }
}
