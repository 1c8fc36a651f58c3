//! Waits until the target has applied what the source has written.

use std::{collections::VecDeque, time::Duration};

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    health::{self, Health},
    watched::check_retained,
};
use crate::{
    pg::{Lsn, Side, marker},
    provision::PrepareDatabases,
    world::{Cx, Database, World},
};

/// Waits for a marker's arrival in every database: `confirmed_flush_lsn` moves without a row becoming visible.
pub struct CatchUp {
    /// The furthest behind that still counts as caught up, in bytes of WAL.
    pub max_lag_bytes: u64,
}

/// The target, caught up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaughtUp {
    /// How long it took.
    pub seconds: f64,
    /// How far behind it was in the end, in bytes.
    pub lag_bytes: u64,
}

/// How long a marker may be under way for the target to count as caught up.
const ROUND_TRIP: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Speeds of writing and applying, from looks over the last while.
#[derive(Debug, Default)]
pub struct Rates {
    looks: VecDeque<(f64, Lsn, Lsn)>,
}

/// What the speeds promise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// How fast the source writes, in bytes per second.
    pub produced_per_s: f64,
    /// How fast the target applies, in bytes per second.
    pub applied_per_s: f64,
    /// Seconds until it has caught up, at the soonest and at the latest; `None` if it does not at this rate.
    pub eta_s: Option<(f64, f64)>,
}

impl Rates {
    const WINDOW_S: f64 = 60.0;
    const LEAST_S: f64 = 2.0;

    /// Adds a look at `seconds` since any fixed moment.
    pub fn add(&mut self, seconds: f64, publisher: Lsn, applied: Lsn) {
        self.looks.push_back((seconds, publisher, applied));
        while self.looks.front().is_some_and(|first| seconds - first.0 > Self::WINDOW_S) {
            self.looks.pop_front();
        }
    }

    /// Returns what the looks promise; `None` before they span two seconds.
    #[expect(clippy::cast_precision_loss, reason = "rates are estimates")]
    pub fn outlook(&self) -> Option<Outlook> {
        let (first, last) = (self.looks.front()?, self.looks.back()?);
        let seconds = last.0 - first.0;
        if seconds < Self::LEAST_S {
            return None;
        }
        let produced_per_s = last.1.bytes_since(first.1) as f64 / seconds;
        let applied_per_s = last.2.bytes_since(first.2) as f64 / seconds;
        let gain = applied_per_s - produced_per_s;
        let lag = last.1.bytes_since(last.2) as f64;
        // applying is lumpy: a fifth more or less of it either way
        let eta = |factor: f64| lag / (applied_per_s * factor - produced_per_s);
        let eta_s = (gain > applied_per_s * 0.02).then(|| {
            let late = eta(0.8);
            (eta(1.2), if late > 0.0 { late } else { eta(1.0) * 5.0 })
        });
        Some(Outlook { produced_per_s, applied_per_s, eta_s })
    }
}

/// Makes the display of a look.
pub fn progress(health: &Health, outlook: Option<Outlook>) -> Progress {
    let text = match outlook {
        Some(Outlook { eta_s: None, produced_per_s, applied_per_s }) if health.lag_bytes > 0 => format!(
            "will not catch up at this rate: the source writes {:.1} MiB/s, the target applies {:.1} MiB/s",
            produced_per_s / 1_048_576.0,
            applied_per_s / 1_048_576.0
        ),
        _ => "catching up".to_owned(),
    };
    Progress {
        text,
        lag_bytes: Some(health.lag_bytes),
        rate_per_s: outlook.map(|o| o.applied_per_s),
        eta_s: outlook.and_then(|o| o.eta_s),
        unit: "bytes",
        ..Progress::default()
    }
}

/// Writes a marker in every database of `from` and waits up to `patience` for all to arrive; returns how long it took.
///
/// # Errors
/// If either side cannot be asked.
pub async fn round_trip(
    world: &World,
    from: Side,
    databases: &[Database],
    patience: Duration,
) -> Result<Option<Duration>, StepError> {
    let started = Instant::now();
    let one = async |database: &Database| -> Result<bool, StepError> {
        let written = marker::write(&*world.cluster(from).db(&database.name).await?, from).await?;
        let to = world.cluster(from.other()).db(&database.name).await?;
        Ok(marker::wait(&to, from, written.n, LOOK_EVERY, started + patience).await?)
    };
    let arrived = futures::future::try_join_all(databases.iter().map(one)).await?;
    Ok(arrived.iter().all(|arrived| *arrived).then(|| started.elapsed()))
}

impl Step<World> for CatchUp {
    type Output = CaughtUp;
    const NAME: StepName = StepName("replicate.catch_up");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "wait until the target has applied what the source has written".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<CaughtUp>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<CaughtUp, StepError> {
        let world = cx.world;
        let databases = cx.output::<PrepareDatabases>()?.databases;
        let started = Instant::now();
        let mut rates = Rates::default();
        let mut warned = false;
        loop {
            let arrived = round_trip(world, Side::Source, &databases, ROUND_TRIP).await?;
            let health = health::look(world, Side::Source, &databases).await?;
            // before the problems, of which it is one: here it takes the upgrade back
            check_retained(world, health.retained_bytes)?;
            if let Some(problem) = health.problems.first() {
                return Err(StepError::blocked("replication has stopped", "remove the cause, then `pgleap resume`")
                    .because(problem.clone()));
            }
            rates.add(started.elapsed().as_secs_f64(), health.publisher, health.applied);
            let outlook = rates.outlook();
            cx.progress(progress(&health, outlook));
            #[expect(clippy::cast_precision_loss, reason = "a chart's value")]
            cx.sample("lag_bytes", health.lag_bytes as f64);
            if arrived.is_some() && health.lag_bytes <= self.max_lag_bytes {
                return Ok(CaughtUp { seconds: started.elapsed().as_secs_f64(), lag_bytes: health.lag_bytes });
            }
            if let Some(Outlook { eta_s: None, .. }) = outlook
                && !warned
                && started.elapsed() > Duration::from_secs(10)
            {
                warned = true;
                cx.warn(progress(&health, outlook).text);
            }
            if started.elapsed() > world.config.budgets.catch_up {
                return Err(StepError::blocked(
                    format!("the target has not caught up within {} s", world.config.budgets.catch_up.as_secs()),
                    "raise `budgets.catch_up`, then `pgleap resume`; or `pgleap unwind`",
                )
                .because(format!("{} bytes behind", health.lag_bytes)));
            }
        }
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlook_says_when_the_target_never_catches_up() {
        let mut rates = Rates::default();
        rates.add(0.0, Lsn(1000), Lsn(0));
        rates.add(1.0, Lsn(2000), Lsn(500));
        assert_eq!(rates.outlook(), None, "two seconds are needed");
        rates.add(4.0, Lsn(5000), Lsn(2000));
        let outlook = rates.outlook().unwrap();
        assert_eq!((outlook.produced_per_s, outlook.applied_per_s, outlook.eta_s), (1000.0, 500.0, None));
    }

    #[test]
    fn outlook_is_an_interval_around_lag_over_gain() {
        let mut rates = Rates::default();
        rates.add(0.0, Lsn(10_000), Lsn(0));
        rates.add(10.0, Lsn(11_000), Lsn(5_000));
        let (soon, late) = rates.outlook().unwrap().eta_s.unwrap();
        let plain = 6_000.0 / 400.0;
        assert!(soon < plain && plain < late, "{soon} {plain} {late}");
    }
}
