//! Where words go: data to stdout, the story to stderr; colour only where somebody sees it.
//!
//! Survives a reader that has gone away: a closed pipe or terminal never ends a switchover.

use std::io::{IsTerminal, Write, stderr, stdin, stdout};

use serde::Serialize;

use crate::{args::Format, errors::CommandError, exit::Exit};

/// The version of every JSON form that this program prints; raised when the meaning of a field changes.
pub const SCHEMA: u32 = 1;

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// Returns a paint that leaves text alone.
    pub fn plain() -> Self {
        Self { on: false }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    /// For what a person looks for.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
    /// For what may be passed over.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
    /// For what failed.
    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }
    /// For what holds.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }
    /// For what was coped with, or waits.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }
    /// For what is under way.
    pub fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }
}

/// How this run of the program speaks.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// Text or JSON.
    pub format: Format,
    /// Confirmations were given on the command line.
    pub yes: bool,
    colour: bool,
}

impl Out {
    /// Brings together what the command line asked for.
    pub fn new(format: Format, yes: bool, no_color: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        // The convention: any value but the empty one.
        let asked_not_to = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { format, yes, colour: !asked_not_to && !dumb }
    }

    /// Returns whether data is JSON.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Returns whether a person watches the story.
    pub fn story_is_watched(self) -> bool {
        stderr().is_terminal()
    }

    /// Returns the paint of the story.
    pub fn paint(self) -> Paint {
        Paint { on: self.colour && stderr().is_terminal() }
    }

    /// Returns the paint of the data.
    pub fn data_paint(self) -> Paint {
        Paint { on: self.colour && stdout().is_terminal() }
    }

    /// Prints a line of the story.
    pub fn say(self, text: &str) {
        // A terminal that was closed must not end what is under way.
        let _ = writeln!(stderr(), "{text}");
    }

    /// Prints a piece of data and the end of its line.
    pub fn data(self, text: &str) {
        let mut out = stdout().lock();
        // `pgleap journal | head` closes the pipe; there is nobody left to tell.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// Prints data as one line of JSON.
    pub fn json<T: Serialize>(self, data: &T) {
        match serde_json::to_string(data) {
            Ok(text) => self.data(&text),
            Err(error) => self.say(&format!("error: cannot write JSON: {error}")),
        }
    }

    /// Prints an error: on stderr always, and as an object on stdout where JSON was asked for.
    pub fn error(self, error: &CommandError) {
        self.say(&error.render(self.paint()));
        if self.is_json() {
            self.json(&serde_json::json!({ "schema": SCHEMA, "error": error, "exit_code": error.exit as u8 }));
        }
    }

    /// Asks before something that moves traffic or destroys the way back.
    ///
    /// # Errors
    /// If the answer is not `yes`, or if there is nobody to ask.
    pub fn confirm(self, what: &str) -> Result<(), CommandError> {
        if self.yes {
            return Ok(());
        }
        let refused = |message: &str| CommandError::new(Exit::Usage, message).state("nothing was changed");
        if !stdin().is_terminal() || !stderr().is_terminal() {
            return Err(refused("this needs a confirmation, and there is no terminal to ask on")
                .because(what)
                .hint("give `--yes` to confirm on the command line"));
        }
        let _ = write!(stderr(), "{what}\n{} ", self.paint().bold("Type `yes` to go on:"));
        let _ = stderr().flush();
        let mut answer = String::new();
        match stdin().read_line(&mut answer) {
            Ok(_) if answer.trim().eq_ignore_ascii_case("yes") => Ok(()),
            _ => Err(refused("not confirmed")),
        }
    }
}
