//! Watches clients that read from the target's standbys, before writers follow them.

use std::time::Duration;

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{MovePools, Ways, move_pools::Moved, standbys};
use crate::{
    config::Readers,
    pg::Side,
    pgbouncer::admin::Traffic,
    switchover::{check_gates::refuse_held, hot::databases, postpone::KeepSlots},
    world::{Cx, World},
};

/// Looks at the age of rows, failed transactions, their times, and who waits, for as long as the window lasts. What is found
/// wrong several times in a row ends the switchover, and leads readers back.
pub struct WatchWindow {
    /// How long.
    pub window: Duration,
}

/// What was seen in the window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// How many transactions went through the entries.
    pub transactions: u64,
    /// How long one took on average, in microseconds; before the move, and since.
    pub average_us: (Option<u64>, Option<u64>),
    /// How many of a hundred were rolled back; before the move, and since.
    pub failed_percent: (Option<f64>, Option<f64>),
    /// The longest that a row was under way, in milliseconds.
    pub worst_staleness_ms: f64,
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often in a row something must be wrong: a look may meet a checkpoint or a restart.
const IN_A_ROW: u32 = 3;
/// Averages over fewer transactions say nothing.
const ENOUGH: u64 = 100;

#[expect(clippy::cast_precision_loss, reason = "percentages")]
fn percent((good, bad): (i64, i64)) -> Option<f64> {
    let all = good + bad;
    (all >= ENOUGH.cast_signed()).then(|| bad as f64 * 100.0 / all as f64)
}

fn average_us(transactions: u64, us: u64) -> Option<u64> {
    (transactions >= ENOUGH).then(|| us / transactions)
}

/// Compares what went through the entries, and what failed, with what did before the move.
fn compare(moved: &Moved, traffic: &[Traffic], there: (i64, i64)) -> Seen {
    let sum = |of: &[Traffic]| of.iter().fold((0, 0), |sum, t| (sum.0 + t.transactions, sum.1 + t.transactions_us));
    let (before, now) = (sum(&moved.traffic), sum(traffic));
    // a pooler that was started again counts from nothing
    let transactions = now.0.saturating_sub(before.0);
    Seen {
        transactions,
        average_us: (average_us(before.0, before.1), average_us(transactions, now.1.saturating_sub(before.1))),
        failed_percent: (percent(moved.before), percent((there.0 - moved.there.0, there.1 - moved.there.1))),
        worst_staleness_ms: 0.0,
    }
}

/// Returns what is wrong, a line each.
fn problems(limits: &Readers, seen: &Seen, traffic: &[Traffic]) -> Vec<String> {
    let mut problems = Vec::new();
    if let (before, Some(now)) = seen.failed_percent {
        let before = before.unwrap_or(0.0);
        if now > before + f64::from(limits.max_failed_percent) {
            problems.push(format!(
                "{now:.1} % of the transactions fail, {before:.1} % did before (`readers.max_failed_percent` = {})",
                limits.max_failed_percent
            ));
        }
    }
    if let (Some(before), Some(now)) = seen.average_us
        && now > before.max(1000) * u64::from(limits.max_slowdown)
    {
        problems.push(format!(
            "a transaction takes {now} µs, it took {before} µs before (`readers.max_slowdown` = {})",
            limits.max_slowdown
        ));
    }
    for of in traffic.iter().filter(|of| u128::from(of.longest_wait_us) > limits.pause.as_micros()) {
        problems.push(format!(
            "a client of `{}` has waited {} ms for a server connection",
            of.entry,
            of.longest_wait_us / 1000
        ));
    }
    problems
}

/// Looks, and remembers how often in a row something was wrong.
#[derive(Debug, Default)]
pub struct Watch {
    wrong: u32,
    worst_ms: f64,
}

impl Watch {
    /// Looks at readers on the target's standbys; returns what was seen, and what is wrong.
    ///
    /// # Errors
    /// Fatal, when something is wrong for the third time in a row: readers are better led back.
    pub async fn look(&mut self, cx: &Cx<'_>) -> Result<(Seen, Vec<String>), StepError> {
        let world = cx.world;
        let moved = cx.output::<MovePools>()?;
        let (all, names) = databases(cx)?;
        let addresses: Vec<_> =
            Ways::of(cx, Side::Source)?.of_readers(Side::Source).into_iter().map(|way| way.new).collect();
        let looked = async {
            let stale = standbys::staleness(cx, Side::Source, Side::Target, &all).await?;
            let traffic = world.route.traffic(&world.route.leading_to(&addresses, &names).await?).await?;
            let seen = compare(&moved, &traffic, standbys::counts(cx, Side::Target, &names).await?);
            let mut problems = problems(&world.config.readers, &seen, &traffic);
            match stale {
                Ok(took) => self.worst_ms = self.worst_ms.max(took.as_secs_f64() * 1000.0),
                Err(why) => problems.insert(0, why),
            }
            Ok::<_, StepError>((seen, problems))
        };
        let (seen, problems) = looked.await.unwrap_or_else(|error| (Seen::default(), vec![error.to_string()]));
        cx.sample("reader_staleness_ms", self.worst_ms);
        self.wrong = if problems.is_empty() { 0 } else { self.wrong + 1 };
        if self.wrong < IN_A_ROW {
            return Ok((seen, problems));
        }
        Err(StepError::fatal(
            "readers are not served well by the target's standbys",
            "remove the cause, then `pgleap switchover` begins anew; readers are led back meanwhile",
        )
        .because(problems.join("; ")))
    }
}

impl Step<World> for WatchWindow {
    type Output = Seen;
    const NAME: StepName = StepName("readers.watch_window");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("watch readers on the target's standbys for {} s, before writers follow", self.window.as_secs())
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Seen>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Seen, StepError> {
        let keep_slots = async {
            let mut slots = KeepSlots::begin();
            loop {
                slots.keep(cx, Side::Source).await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // beside it: readers are looked at every second, however long the other takes
        tokio::select! {
            biased;
            seen = self.watched(cx) => seen,
            never = keep_slots => never,
        }
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

impl WatchWindow {
    async fn watched(&self, cx: &Cx<'_>) -> Result<Seen, StepError> {
        let mut watch = Watch::default();
        let began = Instant::now();
        loop {
            let look = Instant::now();
            let (seen, problems) = watch.look(cx).await?;
            if problems.is_empty() && began.elapsed() >= self.window {
                // hours may have gone by since the gates were looked at
                refuse_held(cx, Side::Source).await?;
                return Ok(Seen { worst_staleness_ms: watch.worst_ms, ..seen });
            }
            cx.progress(Progress {
                text: match problems.first() {
                    Some(problem) => format!("watching readers: {problem}"),
                    None => "watching readers".to_owned(),
                },
                done: Some(began.elapsed().as_secs().min(self.window.as_secs())),
                total: Some(self.window.as_secs()),
                unit: "s",
                ..Progress::default()
            });
            tokio::time::sleep_until(look + LOOK_EVERY.min(self.window)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(transactions: u64, us: u64, wait: u64) -> Vec<Traffic> {
        let entry = "app_ro".to_owned();
        vec![Traffic { entry, transactions, transactions_us: us, longest_wait_us: wait }]
    }

    fn moved() -> Moved {
        Moved { entries: 1, pause_ms: 1.0, traffic: traffic(1000, 2_000_000, 0), before: (990, 10), there: (50, 0) }
    }

    fn found(now: &[Traffic], there: (i64, i64)) -> Vec<String> {
        problems(&Readers::default(), &compare(&moved(), now, there), now)
    }

    #[test]
    fn readers_that_are_served_as_before_are_well() {
        assert_eq!(found(&traffic(2000, 4_500_000, 0), (1050, 12)), Vec::<String>::new());
    }

    #[test]
    fn failures_slowness_and_waiting_are_each_told_with_their_numbers() {
        let failing = found(&traffic(2000, 4_000_000, 0), (950, 100));
        assert_eq!(failing, ["10.0 % of the transactions fail, 1.0 % did before (`readers.max_failed_percent` = 1)"]);
        let slow = found(&traffic(2000, 13_000_000, 0), (1050, 0));
        assert_eq!(slow, ["a transaction takes 11000 µs, it took 2000 µs before (`readers.max_slowdown` = 5)"]);
        let waiting = found(&traffic(2000, 4_000_000, 6_000_000), (1050, 0));
        assert_eq!(waiting, ["a client of `app_ro` has waited 6000 ms for a server connection"]);
    }

    #[test]
    fn few_transactions_are_not_judged_by() {
        assert_eq!(found(&traffic(1050, 900_000_000, 0), (60, 40)), Vec::<String>::new());
    }
}
