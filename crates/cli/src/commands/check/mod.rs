//! `pgleap check`: everything that is in the way, found before anything is touched.

mod fix;
mod markdown;
mod page;
mod terminal;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::join;
use jiff::Timestamp;
use pgleap_upgrade::{
    World,
    plan::{self, Facts},
    preflight::{self, Finding, Report, Severity},
};

use crate::{
    args::Check,
    display::text,
    errors::CommandError,
    exit::Exit,
    out::{Out, SCHEMA},
    site::{self, Site},
};

/// How long rates are measured for `pgleap plan --facts`: as long as the checks take anyway.
const FACTS_WINDOW: Duration = Duration::from_secs(2);

/// Findings by what they mean for the upgrade, the gravest first.
const GROUPS: [(Severity, &str); 3] =
    [(Severity::Blocker, "In the way"), (Severity::Warning, "To be decided"), (Severity::Note, "Worth knowing")];

/// What was found, of what, and when.
struct Checked<'a> {
    report: &'a Report,
    source: String,
    source_version: Option<&'a str>,
    target_version: u16,
    at: Timestamp,
}

impl<'a> Checked<'a> {
    fn of(&self, severity: Severity) -> impl Iterator<Item = &'a Finding> {
        self.report.findings.iter().filter(move |finding| finding.severity == severity)
    }

    fn new(report: &'a Report, world: &World) -> Self {
        let endpoint = &world.source.endpoint;
        Self {
            report,
            source: format!("{}:{}", endpoint.host, endpoint.port),
            source_version: report.source_version.as_deref(),
            target_version: world.config.target.version,
            at: Timestamp::now(),
        }
    }

    #[cfg(test)]
    fn of_report(report: &'a Report) -> Self {
        Self {
            report,
            source: "db:5432".into(),
            source_version: Some("15.18"),
            target_version: 18,
            at: Timestamp::UNIX_EPOCH,
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.of(severity).count()
    }

    /// Returns `2 blockers, 1 note`.
    fn counts(&self) -> String {
        let word = |(severity, _): (Severity, &str)| (self.count(severity), severity.word());
        let counts = GROUPS.into_iter().map(word).filter(|(n, _)| *n > 0);
        counts.map(|(n, word)| text::plural(n, word)).collect::<Vec<_>>().join(", ")
    }

    /// Returns the ids of findings whose remedies pgleap can apply, each once.
    fn fixable(&self) -> Vec<&'static str> {
        let mut ids: Vec<_> = self.report.findings.iter().filter(|f| !f.fixes.is_empty()).map(|f| f.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Returns all of it as JSON; `pgleap plan --facts` decides from it offline.
    fn json(&self, facts: Option<&Facts>) -> serde_json::Value {
        serde_json::json!({
            "schema": SCHEMA, "checked_at": self.at, "source": self.source, "source_version": self.source_version,
            "target_version": self.target_version, "clear": self.report.is_clear(),
            "blockers": self.count(Severity::Blocker), "warnings": self.count(Severity::Warning),
            "notes": self.count(Severity::Note), "fixable": self.fixable(),
            "findings": self.report.findings, "facts": facts,
        })
    }
}

/// What a file is written as, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Markdown,
    Html,
}

fn form(path: &Path) -> Result<Form, CommandError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Ok(Form::Json),
        Some("md") => Ok(Form::Markdown),
        Some("html") => Ok(Form::Html),
        _ => Err(CommandError::new(Exit::Usage, format!("what should `{}` be written as?", path.display()))
            .state("nothing was contacted")
            .hint("end its name in .html, .md or .json")),
    }
}

pub(super) async fn run(args: &Check, site: &Site, out: Out) -> Result<Exit, CommandError> {
    if !args.fix.is_empty() {
        return fix::apply(&args.fix, site, out).await;
    }
    if !args.undo.is_empty() {
        return fix::undo(&args.undo, site, out).await;
    }
    if args.watch {
        return watch::run(Duration::from_secs(args.every.into()), site, out).await;
    }
    let output = args.output.as_ref().map(|path| form(path).map(|form| (path, form))).transpose()?;
    let id = match site.read()? {
        Some(journal) => site::known_id(&journal)?,
        None => None,
    };
    let world = site.world(id.unwrap_or_else(site::new_id)).await?;
    let as_json = out.is_json() || output.is_some_and(|(_, form)| form == Form::Json);
    let facts = async { if as_json { plan::collect(&world, FACTS_WINDOW).await.ok() } else { None } };
    // a source that cannot be asked is a finding already
    let (report, facts) = join(preflight::check(&world), facts).await;
    let checked = Checked::new(&report, &world);
    if let Some((path, form)) = output {
        write(path, form, &checked, facts.as_ref())?;
        out.say(&format!("written to {}", path.display()));
    }
    match out.is_json() {
        true => out.json(&checked.json(facts.as_ref())),
        false => out.data(&terminal::render(&checked, out.data_paint())),
    }
    Ok(if report.is_clear() { Exit::Done } else { Exit::Blocker })
}

fn write(path: &PathBuf, form: Form, checked: &Checked<'_>, facts: Option<&Facts>) -> Result<(), CommandError> {
    let text = match form {
        Form::Json => format!("{}\n", checked.json(facts)),
        Form::Markdown => markdown::document(checked),
        Form::Html => page::page(checked).into_string(),
    };
    std::fs::write(path, text).map_err(|error| {
        CommandError::new(Exit::Unexpected, format!("cannot write `{}`", path.display())).because(error.to_string())
    })
}

/// Says what checks read, why it matters and what they can find.
///
/// # Errors
/// If nothing has that name.
pub(super) fn explain(id: Option<&str>, out: Out) -> Result<Exit, CommandError> {
    let abouts = preflight::abouts();
    let Some(id) = id else {
        out.data(preflight::about::explain_all(&abouts).trim_end());
        return Ok(Exit::Done);
    };
    let asked: Vec<String> =
        abouts.into_iter().filter(|about| about.answers_to(id)).map(preflight::About::explain).collect();
    if asked.is_empty() {
        let error = CommandError::new(Exit::Usage, format!("no check and no finding is called `{id}`"));
        return Err(error.state("nothing was contacted").hint("`pgleap check --explain` lists them all"));
    }
    out.data(asked.join("\n").trim_end());
    Ok(Exit::Done)
}

/// Looks before the first step of a run, and refuses to begin if something is in the way.
///
/// # Errors
/// If there is a blocker; every finding was printed then.
pub(super) async fn before_run(world: &World, out: Out) -> Result<(), CommandError> {
    let report = preflight::check(world).await;
    if report.is_clear() {
        if !report.findings.is_empty() {
            out.say(&terminal::render(&Checked::new(&report, world), out.paint()));
        }
        return Ok(());
    }
    Err(in_the_way(&report, world, out))
}

/// Prints every finding, and returns the error that says that nothing begins.
pub(super) fn in_the_way(report: &Report, world: &World, out: Out) -> CommandError {
    let checked = Checked::new(report, world);
    out.say(&terminal::render(&checked, out.paint()));
    let blockers = checked.count(Severity::Blocker);
    CommandError::new(Exit::Blocker, format!("{} in the way", text::plural(blockers, "blocker")))
        .because("the findings above say what, why, and what to do")
        .state("nothing was touched; the source serves reads and writes")
        .hint("`pgleap check` looks again, as often as you like")
}

#[cfg(test)]
mod tests {
    use pgleap_upgrade::preflight::Fix;

    use super::*;

    fn report() -> Report {
        let identity = |n: usize| format!("public.\"<b>{n}\"");
        let missing = Finding::blocker("replica_identity.missing", "7 tables have none: `public.a`, <b>")
            .because("UPDATE fails & stops")
            .in_database("app")
            .objects((0..7).map(identity))
            .number("tables", 7)
            .fixes([Fix::ReplicaIdentity { database: "app".into(), table: "public.a".into(), index: None }]);
        Report::new(vec![missing, Finding::note("large_object.not_replicated", "3 large objects")])
    }

    #[test]
    fn page_and_document_hold_every_name_and_the_remedy_and_nothing_of_them_is_markup() {
        let report = report();
        let checked = Checked::of_report(&report);
        let page = page::page(&checked).into_string();
        assert!(page.contains("public.&quot;&lt;b&gt;6&quot;") && !page.contains("<b>"), "{page}");
        assert!(page.contains("not clear") && page.contains("15.18 → 18"));
        assert!(page.contains("pgleap check --fix replica_identity.missing"));
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"), "self-contained");
        let document = markdown::document(&checked);
        assert!(document.starts_with("# Preflight: PostgreSQL 15.18 → 18: not clear\n"), "{document}");
        assert!(document.contains("`public.\"<b>6\"`") && document.contains("REPLICA IDENTITY FULL;"), "{document}");
        let json = checked.json(None);
        assert_eq!((&json["blockers"], &json["fixable"][0]), (&1.into(), &"replica_identity.missing".into()));
        assert_eq!(json["findings"][0]["objects"].as_array().map(Vec::len), Some(7));
    }

    #[test]
    fn a_file_is_written_as_its_name_says() {
        assert_eq!(form(Path::new("a/check.html")).unwrap(), Form::Html);
        assert_eq!(form(Path::new("check.md")).unwrap(), Form::Markdown);
        assert!(form(Path::new("check")).is_err());
    }
}
