//! How long a transient failure is waited out.

use std::time::Duration;

use tokio::time::Instant;

use crate::StepError;

/// Backoff between the attempts at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Wait after the first failed attempt.
    pub first: Duration,
    /// Each wait is this many times the one before.
    pub factor: u32,
    /// Longest wait.
    pub max_delay: Duration,
    /// Attempts in one run before the failure is left to a person.
    pub attempts: u32,
    /// Wait between attempts while clients wait too: inside a section.
    pub in_section: Duration,
    /// What a person can do once the attempts are used up, in the words of the program that they type it to.
    pub used_up: &'static str,
}

/// The failed attempts at one step, or at its undo, since it last succeeded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tries {
    /// How many.
    pub(crate) failed: u32,
    /// Time spent waiting between them.
    pub(crate) waited: Duration,
    began: Option<Instant>,
}

impl Tries {
    /// Remembers when the first attempt began.
    pub(crate) fn begin(&mut self) {
        self.began.get_or_insert_with(Instant::now);
    }

    /// Adds to a failure that will not be retried any more how long that was tried, and what is left to do.
    pub(crate) fn give_up(self, error: &mut StepError, policy: &RetryPolicy) {
        let (times, took) = (self.failed, self.began.map(|began| began.elapsed()).unwrap_or_default());
        let tried = format!("tried {times} times over {:.1} s; {}", took.as_secs_f64(), policy.used_up);
        error.hint = Some(error.hint.take().map_or(tried.clone(), |own| format!("{own}; {tried}")));
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            factor: 2,
            max_delay: Duration::from_secs(10),
            attempts: 8,
            in_section: Duration::from_millis(5),
            used_up: "resume tries again",
        }
    }
}

impl RetryPolicy {
    /// Returns the wait after `failed` failed attempts, or `None` once the attempts are used up.
    pub fn delay(&self, failed: u32) -> Option<Duration> {
        (failed < self.attempts).then(|| self.grown(self.first, failed))
    }

    /// Returns the wait after `failed` failed attempts where clients wait and there is no way back: it starts small,
    /// stays so short that clients do not wait for it much longer than for the cause, and gives up after about as long a
    /// wait in total as outside.
    pub(crate) fn urgent_delay(&self, failed: u32, waited: Duration) -> Option<Duration> {
        let delay = self.grown(self.in_section.max(Duration::from_millis(1)), failed);
        (waited < self.patience()).then(|| delay.min(self.most_urgent()))
    }

    /// Returns the longest wait between two attempts that clients wait for.
    pub(crate) fn most_urgent(&self) -> Duration {
        self.max_delay.min(Duration::from_secs(1))
    }

    /// Returns how long retries wait in total.
    pub(crate) fn patience(&self) -> Duration {
        (1..self.attempts).filter_map(|n| self.delay(n)).sum()
    }

    fn grown(&self, start: Duration, failed: u32) -> Duration {
        let growth = self.factor.saturating_pow(failed.saturating_sub(1));
        start.saturating_mul(growth).min(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_longest_one_and_end() {
        let policy = RetryPolicy::default();
        let delays: Vec<_> = (1..=8).map(|n| policy.delay(n).map(|d| d.as_millis())).collect();
        let ms = |n| Some(n);
        assert_eq!(delays, [ms(200), ms(400), ms(800), ms(1600), ms(3200), ms(6400), ms(10_000), None]);
    }

    #[test]
    fn urgent_delays_start_small_and_wait_as_long_in_total() {
        let policy = RetryPolicy::default();
        let (mut waited, mut failed) = (Duration::ZERO, 1);
        assert_eq!(policy.urgent_delay(1, waited), Some(Duration::from_millis(5)));
        while let Some(delay) = policy.urgent_delay(failed, waited) {
            assert!(delay <= Duration::from_secs(1), "attempt {failed} is too late for clients: {delay:?}");
            (waited, failed) = (waited + delay, failed + 1);
        }
        assert!(waited >= Duration::from_millis(22_600) && waited <= Duration::from_millis(23_600), "{waited:?}");
    }

    #[test]
    fn no_delay_overflows() {
        assert_eq!(
            RetryPolicy { attempts: u32::MAX, ..RetryPolicy::default() }.delay(4_000_000),
            Some(Duration::from_secs(10))
        );
    }
}
