//! What differs between two majors, as data: `rules/versions.toml`, read once.
//!
//! A rule says how what it is about is found, and the checks `version_…` ask for those between the source's and the target's
//! major. A mistake in the file is found by the tests here, before anybody runs it.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use super::{Finding, Severity, finding::listed};

/// One difference.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// Its name; the same from release to release.
    pub id: String,
    /// The first major with the difference; without one it is between any two.
    pub since: Option<u16>,
    /// The first major of a source that can have what it is about.
    pub from: Option<u16>,
    /// How much it matters, where something is found.
    pub severity: Level,
    /// What is counted.
    #[serde(default)]
    pub noun: String,
    /// What follows the count.
    #[serde(default)]
    pub text: String,
    /// Why it matters, or what to use instead.
    pub why: String,
    /// Where the fact is from.
    pub source: String,
    /// The statement is asked once, not in each database.
    #[serde(default)]
    pub cluster: bool,
    /// Only a superuser may read what the statement does; nobody else is asked.
    #[serde(default)]
    pub superuser: bool,
    /// A statement for what is concerned: columns `name` and `fix`.
    pub sql: Option<String>,
    /// A statement for the object ids of types that no stored column may have.
    pub types: Option<String>,
    /// Only columns of tables whose changes are streamed are concerned.
    #[serde(default)]
    pub streamed: bool,
    /// Settings that are gone.
    #[serde(default)]
    pub settings: Vec<String>,
    /// Values of settings that are refused.
    #[serde(default)]
    pub values: BTreeMap<String, Vec<String>>,
    /// A default that changes.
    pub default: Option<Default>,
    /// Built-in functions that are gone: names, or signatures.
    #[serde(default)]
    pub functions: Vec<String>,
    /// Built-in functions that take other arguments: what calls them goes on, but not privileges on them. `*(…)` is all with these.
    #[serde(default)]
    pub signatures: Vec<String>,
    /// Built-in operators that are gone, with their operands.
    #[serde(default)]
    pub operators: Vec<String>,
    /// Columns of system relations that are gone: `relation.column`.
    #[serde(default)]
    pub columns: Vec<String>,
}

/// A setting's default, before and after; in the setting's own unit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Default {
    pub setting: String,
    pub was: String,
    pub is: String,
}

/// [`Severity`], as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    Blocker,
    Warning,
    Note,
}

#[derive(Deserialize)]
struct File {
    rule: Vec<Rule>,
}

const TEXT: &str = include_str!("rules/versions.toml");

/// Every rule; none if the file cannot be read, which a test keeps from happening.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| read(TEXT).unwrap_or_default());

fn read(text: &str) -> Result<Vec<Rule>, toml::de::Error> {
    toml::from_str::<File>(text).map(|file| file.rule)
}

/// Returns the rules that lie between these majors.
pub(super) fn between(from: u16, to: u16) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| rule.is_between(from, to))
}

impl Rule {
    fn is_between(&self, from: u16, to: u16) -> bool {
        self.since.is_none_or(|since| from < since && since <= to) && self.from.is_none_or(|first| first <= from)
    }

    /// Returns what it is about.
    fn what(&self) -> String {
        if let Some(Default { setting, was, is }) = &self.default {
            return format!("`{setting}` {was} → {is}");
        }
        let values =
            self.values.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name} = {value}")));
        let named = self.settings.iter().chain(&self.functions).chain(&self.signatures);
        let named = named.chain(&self.operators).chain(&self.columns).cloned();
        let named: Vec<_> = named.chain(values).map(|name| format!("`{name}`")).collect();
        if named.is_empty() { format!("{} {}", self.noun, self.text) } else { named.join(", ") }
    }

    /// Makes the finding for what was found; `place` has it: "database `app`", "the source".
    pub fn finding(&self, ids: Ids, place: &str, found: &[Found]) -> Option<Finding> {
        if found.is_empty() {
            return None;
        }
        let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
        let message = format!("{place} has {} {}: {}", plural(&self.noun, found.len()), self.text, listed(&names));
        let finding = ids.make(self.severity, message).because(format!("{} ({})", self.why, self.source));
        let finding = finding.number("rule", self.id.as_str()).objects(names);
        let fixes: Vec<_> = found.iter().map(|found| found.fix.as_str()).filter(|fix| !fix.is_empty()).collect();
        Some(if fixes.is_empty() { finding } else { finding.fix(fixes.join("\n")) })
    }
}

/// Something that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// What it is called.
    pub name: String,
    /// The statement that removes it; may be empty.
    pub fix: String,
}

/// The ids under which a check tells of rules, by severity.
#[derive(Clone, Copy)]
pub(super) struct Ids {
    pub blocker: &'static str,
    pub warning: &'static str,
    pub note: &'static str,
}

impl Ids {
    fn make(self, level: Level, message: String) -> Finding {
        match Severity::from(level) {
            Severity::Blocker => Finding::blocker(self.blocker, message),
            Severity::Warning => Finding::warning(self.warning, message),
            Severity::Note => Finding::note(self.note, message),
        }
    }
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::Blocker => Self::Blocker,
            Level::Warning => Self::Warning,
            Level::Note => Self::Note,
        }
    }
}

/// Returns `1 column`, `2 columns`, `2 databases, roles or tablespaces`.
fn plural(noun: &str, count: usize) -> String {
    if count == 1 {
        return format!("1 {noun}");
    }
    let one = |word: &str| match word {
        "or" => word.to_owned(),
        _ if word.ends_with("ex") => format!("{word}es"),
        _ => match word.strip_suffix(',') {
            Some(word) => format!("{word}s,"),
            None => format!("{word}s"),
        },
    };
    // "encoding conversion" has its plural at the end, "aggregate or operator" in each word
    let many = if noun.contains(" or ") {
        noun.split(' ').map(one).collect::<Vec<_>>().join(" ")
    } else {
        match noun.rsplit_once(' ') {
            Some((first, last)) => format!("{first} {}", one(last)),
            None => one(noun),
        }
    };
    format!("{count} {many}")
}

/// Returns every rule as Markdown: the last chapter of the list of checks.
pub(super) fn explain() -> String {
    let mut text = String::from(
        "\n## Rules between majors\n\n\
         The checks `version_…` go by these. A rule is asked where its major lies between the source's and the target's, and a \
         finding names its rule under `rule` in `--format json`.\n\n\
         | rule | from | if found | what, and what instead | source |\n| --- | --- | --- | --- | --- |\n",
    );
    for rule in RULES.iter() {
        let since = rule.since.map_or_else(|| "any".to_owned(), |since| since.to_string());
        let severity = Severity::from(rule.severity).word();
        let cell = |text: String| text.replace('|', "\\|");
        let (what, source) = (cell(rule.what()), cell(rule.source.clone()));
        text.push_str(&format!("| `{}` | {since} | {severity} | {what}: {} | {source} |\n", rule.id, rule.why));
    }
    text
}

/// Returns every rule.
#[cfg(test)]
pub(super) fn all() -> &'static [Rule] {
    &RULES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_has_an_id_of_its_own_a_source_and_one_way_to_be_found() {
        let rules = read(TEXT).unwrap();
        assert!(rules.len() > 50, "{}", rules.len());
        let mut ids = BTreeSet::new();
        for rule in rules {
            let id = &rule.id;
            assert!(ids.insert(id.clone()), "`{id}` is there twice");
            assert!(!rule.source.is_empty() && !rule.why.is_empty(), "{id}");
            let asked = rule.sql.is_some() || rule.types.is_some();
            let gone = rule.functions.len() + rule.signatures.len() + rule.operators.len() + rule.columns.len();
            let named = [rule.settings.len(), gone];
            let ways = usize::from(rule.sql.is_some())
                + usize::from(rule.types.is_some())
                + usize::from(rule.default.is_some())
                + usize::from(!rule.values.is_empty())
                + named.iter().filter(|count| **count > 0).count();
            assert_eq!(ways, 1, "{id}");
            assert_eq!(asked, !rule.noun.is_empty() && !rule.text.is_empty(), "{id}");
            assert!(!rule.cluster || rule.sql.is_some(), "{id}");
            assert!(!rule.streamed || rule.types.is_some(), "{id}");
            assert!(rule.since.is_none_or(|since| (14..=19).contains(&since)), "{id}: no pair crosses it");
            assert!(!rule.text.ends_with('.') && !rule.why.ends_with('.'), "{id}");
            let by_major = rule.since.is_some_and(|since| !rule.source.contains(&since.to_string()));
            assert!(!by_major, "{id}: the source does not name the major");
        }
    }

    #[test]
    fn only_rules_between_source_and_target_are_asked() {
        let ids = |from, to| between(from, to).map(|rule| rule.id.as_str()).collect::<BTreeSet<_>>();
        assert!(ids(15, 16).contains("aclitem") && ids(13, 18).contains("aclitem"));
        assert!(!ids(16, 18).contains("aclitem") && !ids(13, 15).contains("aclitem"));
        assert!(ids(17, 18).contains("reg_types"), "between any two");
        assert!(!ids(14, 18).contains("text_search_collation") && ids(15, 18).contains("text_search_collation"));
        assert!(!ids(17, 18).iter().any(|id| id.ends_with("_19")));
    }

    #[test]
    fn nouns_are_counted_as_they_are_spoken() {
        assert_eq!(plural("column", 1), "1 column");
        assert_eq!(plural("encoding conversion", 2), "2 encoding conversions");
        assert_eq!(plural("GiST index", 2), "2 GiST indexes");
        assert_eq!(plural("database, role or tablespace", 3), "3 databases, roles or tablespaces");
    }
}
