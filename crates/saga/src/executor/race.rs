//! What may cut a step short, depending on who waits for it.

use tokio::time::Instant;

use crate::StopSignal;

/// Who waits while the plan is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    /// Nobody: a stop drops the step at its next await.
    Free,
    /// Clients, and there is a way back: a stop or the deadline drops the step, and the plan unwinds.
    Guarded(Instant),
    /// Clients, and the only way is forward: nothing cuts the step short.
    Committed,
}

/// Why a step was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Stopped,
    OverBudget,
}

impl Zone {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Guarded(deadline) => Some(deadline),
            Self::Free | Self::Committed => None,
        }
    }

    /// Returns what would cut a step short that started now.
    pub(super) fn cut_now(self, stop: &StopSignal) -> Option<Cut> {
        match self {
            Self::Guarded(deadline) if Instant::now() >= deadline => Some(Cut::OverBudget),
            Self::Free | Self::Guarded(_) if stop.is_requested() => Some(Cut::Stopped),
            _ => None,
        }
    }

    /// Polls the work until it ends or is cut short; what ends in the same moment as the deadline has ended.
    pub(super) async fn race<T>(self, stop: &StopSignal, work: impl Future<Output = T>) -> Result<T, Cut> {
        match self {
            Self::Committed => Ok(work.await),
            Self::Free => tokio::select! {
                biased;
                result = work => Ok(result),
                () = stop.requested() => Err(Cut::Stopped),
            },
            Self::Guarded(deadline) => tokio::select! {
                biased;
                result = work => Ok(result),
                () = tokio::time::sleep_until(deadline) => Err(Cut::OverBudget),
                () = stop.requested() => Err(Cut::Stopped),
            },
        }
    }
}
