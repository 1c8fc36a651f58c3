//! What a check says of itself, before it looked at anything: `pgleap check --explain` and `docs/checks.md` are made of it.

use serde::Serialize;

use super::{Severity, rules};

/// What a check is about; chapters of the list of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// This host: programs, directories, disks, ports.
    Host,
    /// What stands between clients and servers.
    Route,
    /// PgBouncer.
    Poolers,
    /// WAL, slots, senders, workers.
    Replication,
    /// Tables and their rows.
    Tables,
    /// Everything else in a database.
    Objects,
    /// What differs between the two majors.
    Versions,
    /// Who is at work now.
    Activity,
    /// Roles and what they may do.
    Privileges,
}

impl Topic {
    /// Every topic, in the order in which they are listed.
    pub const ALL: [Self; 9] = [
        Self::Host,
        Self::Route,
        Self::Poolers,
        Self::Replication,
        Self::Tables,
        Self::Objects,
        Self::Versions,
        Self::Activity,
        Self::Privileges,
    ];

    /// Returns it as a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Host => "This host",
            Self::Route => "Route",
            Self::Poolers => "PgBouncer",
            Self::Replication => "Replication",
            Self::Tables => "Tables",
            Self::Objects => "Objects",
            Self::Versions => "Versions",
            Self::Activity => "Activity",
            Self::Privileges => "Privileges",
        }
    }
}

/// Who applies a finding's remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// `pgleap check --fix` can, and takes it back.
    ByPgleap,
    /// The operator alone, for this reason.
    ByHand(&'static str),
}

/// A finding that a check can answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// `noun.problem`.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// Who applies its remedy.
    pub applied: Applied,
}

/// What a check says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its name, and that of its file.
    pub check: &'static str,
    /// Its chapter.
    pub topic: Topic,
    /// What it reads: ends "It reads …".
    pub reads: &'static str,
    /// Why the answer matters: sentences.
    pub why: &'static str,
    /// Every finding that it can answer with.
    pub findings: &'static [Kind],
}

pub(super) const fn blocker(id: &'static str, applied: Applied) -> Kind {
    Kind { id, severity: Severity::Blocker, applied }
}

pub(super) const fn warning(id: &'static str, applied: Applied) -> Kind {
    Kind { id, severity: Severity::Warning, applied }
}

pub(super) const fn note(id: &'static str, applied: Applied) -> Kind {
    Kind { id, severity: Severity::Note, applied }
}

impl About {
    /// Returns what it says of a finding.
    pub fn kind(&self, id: &str) -> Option<&'static Kind> {
        self.findings.iter().find(|kind| kind.id == id)
    }

    /// Whether `asked` is its name, or the id of one of its findings.
    pub fn answers_to(&self, asked: &str) -> bool {
        self.check == asked || self.kind(asked).is_some()
    }

    /// Returns it as a section of Markdown.
    pub fn explain(&self) -> String {
        let mut text = format!("### `{}`\n\nReads {}.\n\n{}\n\n", self.check, self.reads, self.why);
        for kind in self.findings {
            let severity = kind.severity.word();
            text.push_str(&match kind.applied {
                Applied::ByPgleap => format!(
                    "* `{}`, {severity}. pgleap can apply the remedy: `pgleap check --fix {}`\n",
                    kind.id, kind.id
                ),
                Applied::ByHand(why) => format!("* `{}`, {severity}. For the operator: {why}\n", kind.id),
            });
        }
        text
    }
}

/// Returns the whole list of checks as Markdown: the text of `docs/checks.md`.
pub fn explain_all(abouts: &[&About]) -> String {
    let mut text = String::from(
        "# What is checked\n\n\
         `pgleap check` asks these questions, all at once, and changes nothing. `pgleap check --explain ID` prints one of \
         them; this page is what it prints without an ID.\n\n\
         A **blocker** keeps the upgrade from beginning; a **warning** is for somebody to decide about; a **note** is \
         worth knowing.\n",
    );
    for topic in Topic::ALL {
        let mut of_topic: Vec<_> = abouts.iter().filter(|about| about.topic == topic).collect();
        if of_topic.is_empty() {
            continue;
        }
        of_topic.sort_by_key(|about| about.check);
        text.push_str(&format!("\n## {}\n", topic.title()));
        for about in of_topic {
            text.push('\n');
            text.push_str(&about.explain());
        }
    }
    text.push_str(&rules::explain());
    text
}
