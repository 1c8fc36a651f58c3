//! How long a transient failure is waited out.

use std::time::Duration;

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
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            factor: 2,
            max_delay: Duration::from_secs(10),
            attempts: 8,
            in_section: Duration::from_millis(5),
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
        let patience: Duration = (1..self.attempts).filter_map(|n| self.delay(n)).sum();
        let delay = self.grown(self.in_section.max(Duration::from_millis(1)), failed);
        (waited < patience).then(|| delay.min(self.most_urgent()))
    }

    /// Returns the longest wait between two attempts that clients wait for.
    pub(crate) fn most_urgent(&self) -> Duration {
        self.max_delay.min(Duration::from_secs(1))
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
