//! From events to lines: what scrolls by, and what is under way.
//!
//! Knows no terminal, so that the live display and the plain one tell the same story.

use std::time::{Duration, Instant};

use pgleap_saga::{Event, EventKind, Outcome, Progress, Reversal, StepDescription};

use super::text;
use crate::out::Paint;

/// How long the newest note waits for the end of its step, to share a line with it.
const NOTE_WAITS: Duration = Duration::from_secs(1);

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plan was opened.
    Plan,
    /// An attempt began.
    Running,
    /// How far it is.
    Progress,
    /// A step's effect holds.
    Done,
    /// A line of the story.
    Note,
    /// Something was coped with.
    Warning,
    /// An attempt failed.
    Failed,
    /// There will be another one.
    Retry,
    /// The plan turned back.
    Turned,
    /// A step was taken back.
    Undone,
    /// The write pause, and the point of no return.
    Pause,
}

impl Kind {
    fn label(self, paint: Paint) -> String {
        let (word, painted): (&str, fn(Paint, &str) -> String) = match self {
            Self::Plan => ("plan", Paint::bold),
            Self::Running => ("running", Paint::cyan),
            Self::Progress => ("running", Paint::dim),
            Self::Done => ("done", Paint::green),
            Self::Note => ("note", Paint::dim),
            Self::Warning => ("warning", Paint::yellow),
            Self::Failed => ("failed", Paint::red),
            Self::Retry => ("retry", Paint::yellow),
            Self::Turned => ("back", Paint::yellow),
            Self::Undone => ("undone", Paint::yellow),
            Self::Pause => ("pause", Paint::cyan),
        };
        painted(paint, &format!("{word:<8}"))
    }
}

/// A line of the story.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it is about.
    pub kind: Kind,
    /// The step, or the plan.
    pub subject: String,
    /// The rest.
    pub text: String,
}

impl Line {
    /// Returns the line with its subject in a column of that width.
    pub fn render(&self, width: usize, paint: Paint) -> String {
        let label = self.kind.label(paint);
        let text = match self.kind {
            Kind::Note | Kind::Progress => paint.dim(&self.text),
            _ => self.text.clone(),
        };
        format!("  {label} {:<width$}  {text}", self.subject).trim_end().to_owned()
    }
}

/// What is under way.
#[derive(Debug, Clone)]
pub struct Now {
    /// The step.
    pub step: String,
    /// Its one line.
    pub summary: String,
    /// Since when.
    pub since: Instant,
    /// How far, if it told.
    pub progress: Option<Progress>,
    /// It is being taken back.
    pub undoing: bool,
    /// Its place in the plan, and the number of steps there.
    pub place: (usize, usize),
}

/// Reads events, and keeps what the display needs of them.
#[derive(Debug, Default)]
pub struct Story {
    steps: Vec<StepDescription>,
    now: Option<Now>,
    note: Option<(Instant, Line)>,
    section: Option<(String, u64, Instant)>,
}

impl Story {
    /// Returns what is under way.
    pub fn now(&self) -> Option<&Now> {
        self.now.as_ref()
    }

    /// Returns the section whose clock runs: its name, its budget in milliseconds, and since when.
    pub fn section(&self) -> Option<&(String, u64, Instant)> {
        self.section.as_ref()
    }

    /// Returns the width of the column of step names.
    pub fn width(&self) -> usize {
        self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0).max(24)
    }

    /// Returns the note that has waited long enough.
    pub fn tick(&mut self, now: Instant) -> Option<Line> {
        let due = self.note.as_ref().is_some_and(|(since, _)| now.duration_since(*since) >= NOTE_WAITS);
        if due { self.note.take().map(|(_, line)| line) } else { None }
    }

    /// Takes in an event and returns the lines that scroll by.
    pub fn tell(&mut self, event: Event, at: Instant) -> Vec<Line> {
        let subject = event.step.clone().unwrap_or_else(|| event.plan.clone());
        let line = |kind, text: String| Line { kind, subject: subject.clone(), text };
        let mut lines = Vec::new();
        // All but what tells of the same step's way lets a waiting note go first.
        let keeps_note = matches!(
            event.kind,
            EventKind::StepProgressed(_) | EventKind::Sampled { .. } | EventKind::StepSucceeded { .. }
        );
        if !keeps_note {
            lines.extend(self.note.take().map(|(_, line)| line));
        }
        match event.kind {
            EventKind::PlanOpened { steps, .. } => {
                lines.push(line(Kind::Plan, text::plural(steps.len(), "step")));
                self.steps = steps;
                self.now = None;
            }
            EventKind::StepStarted { attempt, summary } => {
                let again = if attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
                lines.push(line(Kind::Running, format!("{summary}{again}")));
                self.begin(&subject, summary, false, at);
            }
            EventKind::StepProgressed(progress) => {
                lines.push(line(Kind::Progress, describe(&progress)));
                // Work outside plans has no start of its own.
                if self.now.is_none() && event.step.is_none() {
                    self.begin(&subject, String::new(), false, at);
                }
                if let Some(now) = self.now.as_mut().filter(|now| now.step == subject) {
                    now.progress = Some(progress);
                }
            }
            EventKind::Sampled { .. } => {}
            // Outside plans the result says the same, as data.
            EventKind::Noted { .. } if event.plan.is_empty() => {}
            EventKind::Noted { text } => self.note = Some((at, line(Kind::Note, text))),
            EventKind::Warned { text } => lines.push(line(Kind::Warning, text)),
            EventKind::StepSucceeded { seconds } => {
                let mut result = format!("{:>10}", text::seconds(seconds));
                let last = self.now.take().and_then(|now| now.progress);
                match (self.note.take(), last) {
                    (Some((_, note)), _) if note.subject == subject => result.push_str(&format!("  {}", note.text)),
                    (note, last) => {
                        lines.extend(note.map(|(_, line)| line));
                        if let Some(key) = last.as_ref().and_then(key_result) {
                            result.push_str(&format!("  {key}"));
                        }
                    }
                }
                if self.is_return(&subject) {
                    result.push_str("  (past the point of no return)");
                }
                lines.push(line(Kind::Done, result));
            }
            EventKind::StepFailed { error } => {
                self.now = None;
                lines.push(line(Kind::Failed, error.to_string()));
            }
            EventKind::StepRetrying { in_ms, attempt } => {
                #[expect(clippy::cast_precision_loss, reason = "a wait for people")]
                let wait = text::millis(in_ms as f64);
                lines.push(line(Kind::Retry, format!("attempt {attempt} in {wait}")));
            }
            EventKind::PlanRetrying { in_ms, attempt, attempts } => {
                #[expect(clippy::cast_precision_loss, reason = "a wait for people")]
                let wait = text::millis(in_ms as f64);
                lines.push(line(Kind::Retry, format!("attempt {attempt} of {attempts} in {wait}")));
            }
            EventKind::UnwindStarted { cause } => {
                lines.push(line(Kind::Turned, format!("taking back what was done: {}", cause.message)));
            }
            EventKind::StepUndoStarted => self.begin(&subject, format!("taking back `{subject}`"), true, at),
            EventKind::StepUndone => {
                self.now = None;
                lines.push(line(Kind::Undone, String::new()));
            }
            EventKind::StepUndoFailed { error } => {
                self.now = None;
                lines.push(line(Kind::Failed, format!("cannot be taken back: {error}")));
            }
            EventKind::PointOfNoReturnPassed => {
                lines.push(line(Kind::Pause, "point of no return: from here only forward".into()));
            }
            EventKind::SectionStarted { name, budget_ms } => {
                #[expect(clippy::cast_precision_loss, reason = "a budget for people")]
                let budget = text::millis(budget_ms as f64);
                lines.push(line(Kind::Pause, format!("{name} begins, at most {budget}")));
                self.section = Some((name, budget_ms, at));
            }
            EventKind::SectionEnded { name, ms } => {
                self.section = None;
                #[expect(clippy::cast_precision_loss, reason = "a pause for people")]
                lines.push(line(Kind::Pause, format!("{name} is over after {}", text::millis(ms as f64))));
            }
            EventKind::PlanClosed { outcome } | EventKind::RunEnded { outcome } => {
                self.now = None;
                self.section = None;
                let (kind, text) = match outcome {
                    Outcome::Done => (Kind::Done, "every step holds".to_owned()),
                    Outcome::Unwound { .. } => (Kind::Undone, "everything was taken back".to_owned()),
                    // The engine's own note says so.
                    Outcome::Stopped => return lines,
                    Outcome::Blocked(failure) => (Kind::Failed, format!("blocked at `{}`", failure.step)),
                    Outcome::NeedsOperator(failure) => (Kind::Failed, format!("needs a person at `{}`", failure.step)),
                };
                lines.push(line(kind, text));
            }
        }
        lines
    }

    fn begin(&mut self, step: &str, summary: String, undoing: bool, at: Instant) {
        let place = self.steps.iter().find(|s| s.name == step).map_or(0, |s| s.number);
        let place = (place, self.steps.len());
        self.now = Some(Now { step: step.to_owned(), summary, since: at, progress: None, undoing, place });
    }

    fn is_return(&self, step: &str) -> bool {
        self.steps.iter().any(|s| s.name == step && s.reversal == Reversal::PointOfNoReturn)
    }
}

/// Returns a progress in words: how much of how much, how fast, how far behind, how long still.
pub fn describe(progress: &Progress) -> String {
    let mut parts = Vec::new();
    if !progress.text.is_empty() {
        // Tools align their output for a terminal of their own.
        parts.push(progress.text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    parts.extend(amount(progress));
    if let Some(rate) = progress.rate_per_s.filter(|rate| *rate > 0.0) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
        let rate =
            if progress.unit == "bytes" { text::bytes(rate as u64) } else { format!("{rate:.1} {}", progress.unit) };
        parts.push(format!("{rate}/s"));
    }
    if let Some(lag) = progress.lag_bytes {
        parts.push(format!("lag {}", text::bytes(lag)));
    }
    if let Some((soonest, latest)) = progress.eta_s {
        parts.push(match (text::seconds(soonest), text::seconds(latest)) {
            (a, b) if a == b => format!("{a} left"),
            (a, b) => format!("{a} to {b} left"),
        });
    }
    parts.join(", ")
}

fn amount(progress: &Progress) -> Option<String> {
    let done = progress.done?;
    let show = |n: u64| if progress.unit == "bytes" { text::bytes(n) } else { n.to_string() };
    let unit = if progress.unit == "bytes" { String::new() } else { format!(" {}", progress.unit) };
    Some(match progress.total {
        Some(total) => format!("{} of {}{unit}", show(done), show(total)),
        None => format!("{}{unit}", show(done)),
    })
}

/// What remains worth saying of a progress once the step is done.
fn key_result(progress: &Progress) -> Option<String> {
    match (progress.lag_bytes, progress.done) {
        (Some(lag), _) => Some(format!("lag {}", text::bytes(lag))),
        (None, Some(done)) if progress.unit == "bytes" => Some(text::bytes(done.max(progress.total.unwrap_or(0)))),
        (None, Some(done)) => Some(format!("{done} {}", progress.unit)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pgleap_saga::StepError;

    use super::*;

    fn tell(story: &mut Story, step: Option<&str>, kind: EventKind) -> Vec<String> {
        let event = Event { at: Timestamp::UNIX_EPOCH, plan: "upgrade-1".into(), step: step.map(Into::into), kind };
        story.tell(event, Instant::now()).iter().map(|line| line.render(10, Paint::plain())).collect()
    }

    fn started() -> EventKind {
        EventKind::StepStarted { attempt: 1, summary: "do it".into() }
    }

    #[test]
    fn a_steps_note_shares_the_line_of_its_end() {
        let mut story = Story::default();
        tell(&mut story, Some("a.b"), started());
        assert_eq!(tell(&mut story, Some("a.b"), EventKind::Noted { text: "it is exact".into() }), [""; 0]);
        let lines = tell(&mut story, Some("a.b"), EventKind::StepSucceeded { seconds: 0.4 });
        assert_eq!(lines, ["  done     a.b             400 ms  it is exact"]);
    }

    #[test]
    fn a_note_whose_step_goes_on_is_told_after_a_moment() {
        let mut story = Story::default();
        tell(&mut story, Some("a.b"), started());
        tell(&mut story, Some("a.b"), EventKind::Noted { text: "first".into() });
        assert_eq!(
            tell(&mut story, Some("a.b"), EventKind::Noted { text: "second".into() }).len(),
            1,
            "the first goes"
        );
        assert_eq!(story.tick(Instant::now()), None);
        let told = story.tick(Instant::now() + NOTE_WAITS).map(|line| line.text);
        assert_eq!(told.as_deref(), Some("second"));
    }

    #[test]
    fn a_progress_says_how_much_how_fast_how_far_behind_and_how_long_still() {
        let progress = Progress {
            text: "copying".into(),
            done: Some(1 << 30),
            total: Some(3 << 30),
            unit: "bytes",
            rate_per_s: Some(104_857_600.0),
            eta_s: Some((20.0, 35.0)),
            lag_bytes: Some(1 << 20),
        };
        assert_eq!(describe(&progress), "copying, 1.0 GiB of 3.0 GiB, 100 MiB/s, lag 1.0 MiB, 20.0 s to 35.0 s left");
    }

    #[test]
    fn a_failure_that_turns_the_plan_back_is_told_with_its_cause() {
        let mut story = Story::default();
        let error = StepError::fatal("the slot is lost", "start again").because("WAL was removed");
        let failed = tell(&mut story, Some("a.b"), EventKind::StepFailed { error: error.clone() });
        assert_eq!(failed, ["  failed   a.b         the slot is lost: WAL was removed"]);
        let turned = tell(&mut story, None, EventKind::UnwindStarted { cause: error });
        assert_eq!(turned, ["  back     upgrade-1   taking back what was done: the slot is lost"]);
    }
}
