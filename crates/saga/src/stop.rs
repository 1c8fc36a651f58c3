//! The wish to stop, from a person or a signal handler to the executor.
//!
//! Counted, not merely set: a request that made a plan unwind must not stop the unwinding too, a later one may.

use std::sync::Arc;

use tokio::sync::watch;

/// A request to stop, shared by everyone who holds a clone.
#[derive(Debug, Clone)]
pub struct StopSignal {
    requests: Arc<watch::Sender<u64>>,
}

impl StopSignal {
    /// Returns a signal that nobody has raised yet.
    pub fn new() -> Self {
        Self { requests: Arc::new(watch::Sender::new(0)) }
    }

    /// Asks the run to stop at the next point where that leaves nobody waiting.
    pub fn request(&self) {
        self.requests.send_modify(|count| *count += 1);
    }

    /// Returns whether a stop was requested at all.
    pub fn is_requested(&self) -> bool {
        self.count() > 0
    }

    /// Waits until a stop is requested.
    pub async fn requested(&self) {
        self.beyond(0).await;
    }

    pub(crate) fn count(&self) -> u64 {
        *self.requests.borrow()
    }

    /// Waits until more than `seen` requests were made.
    pub(crate) async fn beyond(&self, seen: u64) {
        let mut requests = self.requests.subscribe();
        // The sender lives in `self`, so waiting cannot fail before the count is reached.
        let _ = requests.wait_for(|count| *count > seen).await;
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        Self::new()
    }
}
