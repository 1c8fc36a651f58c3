//! What a process waits for that has begun nothing yet: as progress for its own terminal, and in the journal for others.

use jiff::Timestamp;
use pgleap_saga::{Journal, Progress};
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use crate::world::Cx;

/// Where the journal keeps it.
const WAITING: &str = "waiting";
/// A wait that goes on unchanged is told this often.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// A wait whose words change is told at most this often.
const TELL_NO_SOONER: Duration = Duration::from_secs(5);

/// A process that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which: one that died waits for nothing any more.
    pub process: u32,
    /// Since when.
    pub since: Timestamp,
    /// Until when, if that is known.
    pub until: Option<Timestamp>,
    /// For what.
    pub what: String,
}

/// Returns what the process `writer`, which holds the journal, waits for.
pub fn waiting(journal: &Journal, writer: Option<u32>) -> Option<Waiting> {
    let waiting: Waiting = serde_json::from_str(&journal.meta(WAITING).ok()??).ok()?;
    (Some(waiting.process) == writer).then_some(waiting)
}

/// A wait; over when it is dropped.
pub(super) struct Wait<'a> {
    cx: &'a Cx<'a>,
    now: Waiting,
    told: Option<Instant>,
}

impl<'a> Wait<'a> {
    pub(super) fn begin(cx: &'a Cx<'a>, until: Option<Timestamp>) -> Self {
        let now = Waiting { process: std::process::id(), since: Timestamp::now(), until, what: String::new() };
        Self { cx, now, told: None }
    }

    /// Tells what is waited for: at once if it is new, and again every so often.
    pub(super) fn tell(&mut self, what: String) {
        let pace = if self.now.what == what { TELL_EVERY } else { TELL_NO_SOONER };
        if self.told.is_some_and(|told| told.elapsed() < pace) {
            return;
        }
        self.told = Some(Instant::now());
        self.now.what = what;
        let waited = Timestamp::now().duration_since(self.now.since).as_secs_f64();
        let left = self.now.until.map(|until| until.duration_since(Timestamp::now()).as_secs_f64().max(0.0));
        let text = match waited {
            ..1.0 => self.now.what.clone(),
            _ => format!("{}, for {waited:.0} s now", self.now.what),
        };
        self.cx.progress(Progress { text, eta_s: left.map(|left| (left, left)), ..Progress::default() });
        // a line that is missing in `status` is no reason not to wait
        let _ = self.cx.keep(WAITING, &serde_json::to_string(&self.now).unwrap_or_default());
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let _ = self.cx.keep(WAITING, "");
    }
}
