//! What a check answers: findings, and the report that holds them all.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::fix::{Fix, script};

/// How much a finding matters; the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The upgrade would fail, lose something, or have no way back: it does not begin.
    Blocker,
    /// It can be done, and somebody should decide knowingly.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// Returns `blocker`, `warning` or `note`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Blocker => "blocker",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One answer of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `noun.problem`; the same from release to release.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, with its numbers and names, in one line.
    pub message: String,
    /// Why it matters, or what lies behind it.
    pub cause: Option<String>,
    /// The database that it is about; `None` for the whole cluster, a pooler or this host.
    pub database: Option<String>,
    /// All that it is about, by name; `message` lists the first few.
    pub objects: Vec<String>,
    /// What was counted or measured, by a name with its unit.
    pub numbers: BTreeMap<&'static str, Value>,
    /// Statements or commands, ready to paste.
    pub remedy: Option<String>,
    /// The part of the remedy that `check --fix` applies; empty where it is the operator's alone.
    pub fixes: Vec<Fix>,
    /// Why pgleap does not apply it.
    pub by_hand: Option<&'static str>,
}

impl Finding {
    /// Makes a finding.
    pub(super) fn of(severity: Severity, id: &'static str, message: impl Into<String>) -> Self {
        Self {
            id,
            severity,
            message: message.into(),
            cause: None,
            database: None,
            objects: Vec::new(),
            numbers: BTreeMap::new(),
            remedy: None,
            fixes: Vec::new(),
            by_hand: None,
        }
    }

    /// Makes a finding that keeps the upgrade from beginning.
    pub fn blocker(id: &'static str, message: impl Into<String>) -> Self {
        Self::of(Severity::Blocker, id, message)
    }

    /// Makes a finding that somebody should decide about.
    pub fn warning(id: &'static str, message: impl Into<String>) -> Self {
        Self::of(Severity::Warning, id, message)
    }

    /// Makes a finding that is worth knowing.
    pub fn note(id: &'static str, message: impl Into<String>) -> Self {
        Self::of(Severity::Note, id, message)
    }

    /// Adds why it matters.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what to paste.
    #[must_use]
    pub fn fix(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds what pgleap can apply by itself; it is also what to paste, if nothing else is said.
    #[must_use]
    pub fn fixes(mut self, fixes: impl IntoIterator<Item = Fix>) -> Self {
        self.fixes.extend(fixes);
        if self.remedy.is_none() && !self.fixes.is_empty() {
            self.remedy = Some(script(&self.fixes));
        }
        self
    }

    /// Adds the database that it is about.
    #[must_use]
    pub fn in_database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// Adds all that it is about, by name.
    #[must_use]
    pub fn objects<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.objects.extend(names.into_iter().map(Into::into));
        self
    }

    /// Adds what was counted or measured; the name carries the unit.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.numbers.insert(name, value.into());
        self
    }
}

/// All findings of one pass, the gravest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What the source is, such as `15.18`; unknown if it did not say.
    pub source_version: Option<String>,
    /// By severity, then by id, then by message.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sorts the findings; what was found twice, by several connections, is said once.
    pub fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| (a.severity, a.id, &a.message).cmp(&(b.severity, b.id, &b.message)));
        findings.dedup();
        Self { source_version: None, findings }
    }

    /// Returns what keeps the upgrade from beginning.
    pub fn blockers(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Blocker)
    }

    /// Whether nothing keeps the upgrade from beginning; warnings and notes may be there.
    pub fn is_clear(&self) -> bool {
        self.blockers().next().is_none()
    }
}

/// How many names a message lists before it only counts.
const LISTED: usize = 5;

/// Returns names for a message: the first few in backticks, and how many more there are.
pub(super) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let mut text: Vec<_> = names.iter().take(LISTED).map(|name| format!("`{}`", name.as_ref())).collect();
    if names.len() > LISTED {
        text.push(format!("and {} more", names.len() - LISTED));
    }
    text.join(", ")
}

/// Returns `1 table`, `3 tables`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ if noun.ends_with("ex") => format!("{count} {noun}es"),
        _ => format!("{count} {noun}s"),
    }
}

/// Returns `has` or `have`, for a message that begins with [`counted`].
pub(super) fn has(count: usize) -> &'static str {
    if count == 1 { "has" } else { "have" }
}

/// Returns a size as a person reads it: `48.0 MiB`.
pub(super) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_lists_blockers_first_and_ids_in_order() {
        let report = Report::new(vec![
            Finding::note("a.note", "n"),
            Finding::blocker("z.blocker", "second"),
            Finding::blocker("b.blocker", "first"),
            Finding::warning("a.warning", "w"),
        ]);
        let ids: Vec<_> = report.findings.iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["b.blocker", "z.blocker", "a.warning", "a.note"]);
        assert_eq!(report.blockers().count(), 2);
        assert!(!report.is_clear());
    }

    #[test]
    fn report_without_blockers_is_clear() {
        assert!(Report::new(vec![Finding::warning("a.b", "w")]).is_clear());
    }

    #[test]
    fn finding_is_written_as_the_json_of_its_fields() {
        let finding = Finding::blocker("wal_level.not_logical", "is `replica`").fix("ALTER SYSTEM …");
        let json = serde_json::to_value(Report::new(vec![finding])).unwrap();
        assert_eq!(json["findings"][0]["severity"], "blocker");
        assert_eq!(json["findings"][0]["id"], "wal_level.not_logical");
        assert_eq!(json["findings"][0]["cause"], serde_json::Value::Null);
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        assert_eq!(listed(&["a", "b"]), "`a`, `b`");
        assert_eq!(listed(&["a", "b", "c", "d", "e", "f", "g"]), "`a`, `b`, `c`, `d`, `e`, and 2 more");
        assert_eq!((counted(1, "table").as_str(), counted(2, "index").as_str()), ("1 table", "2 indexes"));
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        let shown = [0, 1023, 1536, 48 << 20, 3 << 40].map(size);
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1.5 KiB", "48.0 MiB", "3.0 TiB"]);
    }
}
