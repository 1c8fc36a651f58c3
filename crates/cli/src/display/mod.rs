//! Tells a run's story while it happens: to a terminal, as plain lines, or as JSON lines.
//!
//! Drawing has a thread of its own: a terminal that stops taking output (Ctrl-S, a stuck ssh) must never hold the thread
//! that has clients waiting. What falls too far behind is skipped, and said to be.

mod live;
pub mod story;
pub mod text;

use std::{
    collections::HashMap,
    io::{Write, stderr, stdout},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use pgleap_canary::Stats;
use pgleap_saga::{Event, EventSink};
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    mpsc, oneshot, watch,
};

use crate::out::{Out, Paint};
use live::Live;
use story::{Kind, Line, Story};

/// Without a terminal a step's progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often times and spinners move on.
const TICK: Duration = Duration::from_millis(120);
/// How long the end of a run waits for a terminal that takes no output.
const PATIENCE: Duration = Duration::from_secs(2);

/// A display at work; ended by [`Display::finish`].
pub struct Display {
    says: mpsc::UnboundedSender<String>,
    aside: watch::Sender<String>,
    over: oneshot::Sender<()>,
    drawing: JoinHandle<()>,
}

/// A hand that puts lines among those of the story.
#[derive(Clone)]
pub struct Voice(mpsc::UnboundedSender<String>);

impl Voice {
    /// Puts a line among those of the story.
    pub fn say(&self, text: impl Into<String>) {
        // Nobody reads it once the display has ended.
        let _ = self.0.send(text.into());
    }
}

impl Display {
    /// Begins to tell what `events` brings.
    pub fn start(events: &EventSink, out: Out) -> Self {
        let events = events.subscribe();
        let (says, said) = mpsc::unbounded_channel();
        let (aside, asides) = watch::channel(String::new());
        let (over, ended) = oneshot::channel();
        let drawing = thread::spawn(move || {
            // A runtime without sockets or files; the rare failure to build it costs the display, not the run.
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() {
                runtime.block_on(Teller::new(out, asides).tell(events, said, ended));
            }
        });
        Self { says, aside, over, drawing }
    }

    /// Returns a hand for others to put lines among those of the story.
    pub fn voice(&self) -> Voice {
        Voice(self.says.clone())
    }

    /// Returns where to put a line that stays below the story and changes, such as a canary's numbers.
    pub fn aside(&self) -> watch::Sender<String> {
        self.aside.clone()
    }

    /// Tells what is left, clears the live lines, and ends.
    pub async fn finish(self) {
        // Gone only if the display is.
        let _ = self.over.send(());
        // A stuck terminal is not waited for.
        let deadline = Instant::now() + PATIENCE;
        while !self.drawing.is_finished() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Returns a canary's numbers as the line below a live story.
pub fn canary_line(stats: &Stats) -> String {
    let waiting = match stats.waiting_ms {
        ms if ms >= 50.0 => format!(", waiting {}", text::millis(ms)),
        _ => String::new(),
    };
    let tps = stats.periods.last().map_or(0.0, |period| period.tps);
    format!(
        "{} transactions, {tps:.0}/s, {} failed, longest stall {}{waiting}",
        text::count(stats.transactions),
        stats.failed_transactions,
        text::millis(stats.longest_client_stall_ms)
    )
}

enum Screen {
    Live(Live),
    Plain { paint: Paint, told: HashMap<String, Instant> },
    Json,
}

struct Teller {
    story: Story,
    screen: Screen,
    asides: watch::Receiver<String>,
}

impl Teller {
    fn new(out: Out, asides: watch::Receiver<String>) -> Self {
        let screen = match (out.is_json(), out.story_is_watched()) {
            (true, _) => Screen::Json,
            (false, true) => Screen::Live(Live::new(out.paint())),
            (false, false) => Screen::Plain { paint: out.paint(), told: HashMap::new() },
        };
        Self { story: Story::default(), screen, asides }
    }

    async fn tell(
        mut self,
        mut events: Receiver<Event>,
        mut said: mpsc::UnboundedReceiver<String>,
        mut over: oneshot::Receiver<()>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Ok(event) => self.event(event),
                    Err(RecvError::Lagged(lost)) => self.say(&format!("(the display fell behind: {lost} events skipped)")),
                    Err(RecvError::Closed) => break,
                },
                Some(line) = said.recv() => self.say(&line),
                // Looked at last: every event and line sent before the end was taken above.
                _ = &mut over => break,
                _ = ticks.tick() => self.tick(),
            }
        }
        if let Some(line) = self.story.tick(Instant::now() + Duration::from_secs(3600)) {
            self.line(&line);
        }
        if let Screen::Live(live) = &self.screen {
            live.clear();
        }
    }

    fn event(&mut self, event: Event) {
        if matches!(self.screen, Screen::Json) {
            if let Ok(text) = serde_json::to_string(&event) {
                let mut out = stdout().lock();
                let _ = writeln!(out, "{text}").and_then(|()| out.flush());
            }
            return;
        }
        let lines = self.story.tell(event, Instant::now());
        lines.iter().for_each(|line| self.line(line));
        self.refresh();
    }

    fn line(&mut self, line: &Line) {
        let width = self.story.width();
        match &mut self.screen {
            // The live line shows both already.
            Screen::Live(live) if !matches!(line.kind, Kind::Running | Kind::Progress) => live.line(line, width),
            Screen::Plain { paint, told } => {
                if line.kind == Kind::Progress {
                    let now = Instant::now();
                    let last = told.get(&line.subject);
                    if last.is_some_and(|at| now.duration_since(*at) < PROGRESS_EVERY) {
                        return;
                    }
                    told.insert(line.subject.clone(), now);
                }
                let at = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
                let _ = writeln!(stderr(), "{}{}", paint.dim(&at), line.render(width, *paint));
            }
            Screen::Live(_) | Screen::Json => {}
        }
    }

    fn say(&mut self, text: &str) {
        match &self.screen {
            Screen::Live(live) => live.say(text),
            Screen::Plain { .. } | Screen::Json => {
                let _ = writeln!(stderr(), "{text}");
            }
        }
    }

    fn tick(&mut self) {
        if let Some(line) = self.story.tick(Instant::now()) {
            self.line(&line);
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        if let Screen::Live(live) = &mut self.screen {
            live.show(&self.story, &self.asides.borrow());
        }
    }
}
