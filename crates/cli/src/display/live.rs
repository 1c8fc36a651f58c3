//! The live lines at the foot of a terminal: what is under way, and a line that belongs to somebody else.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pgleap_saga::Progress;

use super::{
    story::{Line, Now, Story, describe},
    text,
};
use crate::out::Paint;

/// Redraws in a second, at most.
const REFRESH_HZ: u8 = 8;
const BAR_WIDTH: usize = 20;

pub(super) struct Live {
    screen: MultiProgress,
    now: ProgressBar,
    detail: ProgressBar,
    aside: ProgressBar,
    paint: Paint,
}

impl Live {
    pub(super) fn new(paint: Paint) -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REFRESH_HZ));
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_spinner())
                .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
        };
        let add = |template: &str| {
            let bar = screen.add(ProgressBar::new_spinner());
            bar.set_style(style(template));
            bar
        };
        let now = add("{spinner} {wide_msg}");
        let detail = add("  {wide_msg}");
        let aside = add("  {wide_msg}");
        Self { now, detail, aside, screen, paint }
    }

    pub(super) fn line(&self, line: &Line, width: usize) {
        self.say(&line.render(width, self.paint));
    }

    pub(super) fn say(&self, text: &str) {
        // Fails only with the terminal.
        let _ = self.screen.println(text);
    }

    pub(super) fn clear(&self) {
        for bar in [&self.now, &self.detail, &self.aside] {
            bar.finish_and_clear();
        }
        let _ = self.screen.clear();
    }

    pub(super) fn show(&mut self, story: &Story, aside: &str) {
        let (first, second) = match story.now() {
            Some(now) => lines(now, story, self.paint),
            None => (self.paint.dim("…"), String::new()),
        };
        self.now.set_message(first);
        self.now.tick();
        self.detail.set_message(second);
        let aside = if aside.is_empty() { String::new() } else { format!("{} {aside}", self.paint.cyan("canary  ")) };
        self.aside.set_message(aside);
    }
}

/// The step with its place and time, and how far it is.
fn lines(now: &Now, story: &Story, paint: Paint) -> (String, String) {
    let word = if now.undoing { "undoing " } else { "running " };
    let place = match now.place {
        (0, _) | (_, 0) => String::new(),
        (n, of) => format!("{n} of {of}"),
    };
    let took = text::seconds(now.since.elapsed().as_secs_f64());
    let subject = if now.step.is_empty() { String::new() } else { format!("{}  ", paint.bold(&now.step)) };
    let mut first = format!("{} {subject}{took}  {}", paint.cyan(word), paint.dim(&place));
    if let Some((name, budget_ms, since)) = story.section() {
        let budget = Duration::from_millis(*budget_ms).as_secs_f64();
        let text = format!("{name} {} of {}", text::seconds(since.elapsed().as_secs_f64()), text::seconds(budget));
        first.push_str(&format!("  {}", paint.yellow(&text)));
    }
    let second = match &now.progress {
        Some(progress) => match bar(progress) {
            Some(bar) => format!("         {}  {}", paint.cyan(&bar), describe(progress)),
            None => format!("         {}", describe(progress)),
        },
        None => format!("         {}", paint.dim(&now.summary)),
    };
    (first, second)
}

/// Returns `━━━━━━────── 42%` where both ends are known.
fn bar(progress: &Progress) -> Option<String> {
    let (done, total) = (progress.done?, progress.total.filter(|total| *total > 0)?);
    #[expect(clippy::cast_precision_loss, reason = "a bar of a few characters")]
    let share = (done as f64 / total as f64).clamp(0.0, 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the bar's width")]
    let full = (share * BAR_WIDTH as f64).round() as usize;
    Some(format!("{}{} {:>3.0}%", "━".repeat(full), "─".repeat(BAR_WIDTH - full), share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_drawn_only_where_the_whole_is_known() {
        let progress = |done, total| Progress { done, total, ..Progress::default() };
        assert_eq!(bar(&progress(Some(1), None)), None);
        assert_eq!(bar(&progress(Some(1), Some(0))), None);
        let half = bar(&progress(Some(5), Some(10))).unwrap();
        assert!(half.ends_with("  50%") && half.matches('━').count() == 10, "{half}");
        assert!(bar(&progress(Some(20), Some(10))).unwrap().contains("100%"), "more than all is all");
    }
}
