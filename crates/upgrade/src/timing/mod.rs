//! When a switchover begins: at a time, in a quiet moment, after an attempt that was taken back. Until it does, nothing is
//! changed but pgleap's own marker rows.
//!
//! What is waited for is told as progress, and kept in the journal for whoever asks `status`. Survives the death of the
//! process: nothing was begun, so nothing is left. The wait between preparation and pause is a step ([`Postpone`]).
//!
//! [`Postpone`]: crate::switchover::postpone::Postpone

mod postpone_file;
mod quiet;
mod waiting;

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use pgleap_saga::{StepError, StopSignal};
use tokio::time::Instant;

use crate::{pg::Side, world::Cx};

pub use postpone_file::PostponeFile;
pub use quiet::Look;
pub use waiting::{Waiting, waiting};

/// What the operator asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timing {
    /// Not before this.
    pub at: Option<Timestamp>,
    /// Not before a moment in which the foretold stall fits the write budget; given up after this long.
    pub quiet_within: Option<Duration>,
    /// As long as this file is there, the pause does not begin.
    pub postpone_file: Option<PathBuf>,
    /// How many attempts; as configured without it.
    pub attempts: Option<u32>,
}

/// The longest that the next attempt is waited for.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(600);

/// How often a wait for a time looks at the clock, which may be set meanwhile.
const CLOCK_EVERY: Duration = Duration::from_secs(1);
const QUIET_LOOK_EVERY: Duration = Duration::from_secs(1);

/// Returns how long the attempt after the `failed`th waits.
pub fn backoff(first: Duration, failed: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1))).min(LONGEST_BACKOFF)
}

fn stopped(waited_for: &str) -> StepError {
    StepError::blocked(format!("stopped on request while it waited for {waited_for}"), "begin it again when ready")
}

/// Waits until `at`. Whatever would hold the switchover now is told at once: hours are left to remove it.
///
/// # Errors
/// If it was stopped.
pub async fn until(cx: &Cx<'_>, from: Side, at: Timestamp, stop: &StopSignal) -> Result<(), StepError> {
    let shown = at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string();
    let mut wait = waiting::Wait::begin(cx, Some(at));
    let look = async {
        wait.tell(format!("waits until {shown}"));
        match quiet::Watch::begin(cx, from).look(cx).await {
            Ok(look) if look.reasons.is_empty() => {}
            Ok(look) => cx.warn(format!("a switchover would be held now: {}", look.reasons.join("; "))),
            Err(error) => cx.warn(format!("what would hold a switchover cannot be looked at now: {error}")),
        }
        while Timestamp::now() < at {
            let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
            wait.tell(format!("waits until {shown}"));
            tokio::time::sleep(left.min(CLOCK_EVERY)).await;
        }
    };
    tokio::select! {
        biased;
        () = look => Ok(()),
        () = stop.requested() => Err(stopped(&shown)),
    }
}

/// Waits for a moment in which nothing holds a switchover and the foretold stall fits the write budget; returns what was
/// seen in it.
///
/// # Errors
/// If there was none until `deadline`, naming what was in the way last; or if it was stopped.
pub async fn until_quiet(cx: &Cx<'_>, from: Side, deadline: Instant, stop: &StopSignal) -> Result<Look, StepError> {
    let budget = cx.world.config.budgets.write_pause;
    let mut wait = waiting::Wait::begin(cx, None);
    let mut watch = quiet::Watch::begin(cx, from);
    let looks = async {
        loop {
            let not_yet = match watch.look(cx).await {
                Ok(look) => match look.in_the_way(budget) {
                    None => return Ok(look),
                    Some(what) => what,
                },
                // a side that does not answer for a moment may do so in the next
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(StepError::blocked(
                    "no quiet moment came",
                    "give it longer by `--within`, or remove what is named",
                )
                .because(not_yet));
            }
            wait.tell(format!("waits for a quiet moment: {not_yet}"));
            tokio::time::sleep(QUIET_LOOK_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        look = looks => look,
        () = stop.requested() => Err(stopped("a quiet moment")),
    }
}

/// Waits `delay` for the next attempt.
///
/// # Errors
/// If it was stopped.
pub async fn until_next(cx: &Cx<'_>, delay: Duration, attempt: u32, stop: &StopSignal) -> Result<(), StepError> {
    let at = Timestamp::now() + jiff::SignedDuration::try_from(delay).unwrap_or_default();
    let mut wait = waiting::Wait::begin(cx, Some(at));
    wait.tell(format!("waits to begin attempt {attempt}"));
    tokio::select! {
        biased;
        () = tokio::time::sleep(delay) => Ok(()),
        () = stop.requested() => Err(stopped(&format!("attempt {attempt}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_waits_twice_as_long_as_the_one_before_up_to_the_longest() {
        let first = Duration::from_secs(10);
        assert_eq!([1, 2, 3, 7, 100].map(|failed| backoff(first, failed).as_secs()), [10, 20, 40, 600, 600]);
    }
}
