//! `pgleap check`: everything that is in the way, found before anything is touched.

use std::time::Duration;

use futures::future::join;
mod fix;

use pgleap_upgrade::{
    World, plan,
    preflight::{self, Finding, Report, Severity},
};

use crate::{
    args::Check,
    display::text,
    errors::CommandError,
    exit::Exit,
    out::{Out, Paint, SCHEMA},
    site::{self, Site},
};

/// How long rates are measured for `pgleap plan --facts`: as long as the checks take anyway.
const FACTS_WINDOW: Duration = Duration::from_secs(2);

pub(super) async fn run(args: &Check, site: &Site, out: Out) -> Result<Exit, CommandError> {
    if !args.fix.is_empty() {
        return fix::apply(&args.fix, site, out).await;
    }
    if !args.undo.is_empty() {
        return fix::undo(&args.undo, site, out).await;
    }
    let id = match site.read()? {
        Some(journal) => site::known_id(&journal)?,
        None => None,
    };
    let world = site.world(id.unwrap_or_else(site::new_id)).await?;
    let report = match out.is_json() {
        true => {
            let (report, facts) = join(preflight::check(&world), plan::collect(&world, FACTS_WINDOW)).await;
            // a source that cannot be asked is a finding already
            let facts = facts.ok();
            out.json(&serde_json::json!({
                "schema": SCHEMA, "clear": report.is_clear(), "findings": report.findings, "facts": facts
            }));
            report
        }
        false => preflight::check(&world).await,
    };
    if !out.is_json() {
        out.data(&render(&report, out.data_paint()));
    }
    Ok(if report.is_clear() { Exit::Done } else { Exit::Blocker })
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
            out.say(&render(&report, out.paint()));
        }
        return Ok(());
    }
    Err(in_the_way(&report, out))
}

/// Prints every finding, and returns the error that says that nothing begins.
pub(super) fn in_the_way(report: &Report, out: Out) -> CommandError {
    out.say(&render(report, out.paint()));
    let blockers = count(report, Severity::Blocker);
    CommandError::new(Exit::Blocker, format!("{} in the way", text::plural(blockers, "blocker")))
        .because("the findings above say what, why, and what to do")
        .state("nothing was touched; the source serves reads and writes")
        .hint("`pgleap check` looks again, as often as you like")
}

fn count(report: &Report, severity: Severity) -> usize {
    report.findings.iter().filter(|finding| finding.severity == severity).count()
}

fn render(report: &Report, paint: Paint) -> String {
    let mut blocks: Vec<String> = report.findings.iter().map(|finding| block(finding, paint)).collect();
    let counts = [(Severity::Blocker, "blocker"), (Severity::Warning, "warning"), (Severity::Note, "note")];
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(severity, word)| (count(report, severity), word))
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| text::plural(n, word))
        .collect();
    blocks.push(match (report.is_clear(), counts.is_empty()) {
        (true, true) => paint.green("clear: nothing is in the way"),
        (true, false) => format!("{}: {}", paint.green("clear"), counts.join(", ")),
        (false, _) => format!("{}: {}", paint.red("not clear"), counts.join(", ")),
    });
    blocks.join("\n")
}

fn block(finding: &Finding, paint: Paint) -> String {
    let label = match finding.severity {
        Severity::Blocker => paint.red("blocker"),
        Severity::Warning => paint.yellow("warning"),
        Severity::Note => paint.dim("note   "),
    };
    let indented = |text: &str| text.replace('\n', "\n                  ");
    let mut block = format!("{label}  {}\n         {}", paint.bold(finding.id), finding.message);
    if let Some(cause) = &finding.cause {
        block.push_str(&format!("\n         cause:   {}", indented(cause)));
    }
    if let Some(remedy) = &finding.remedy {
        block.push_str(&format!("\n         remedy:  {}", indented(&cut(remedy))));
    }
    if !finding.fixes.is_empty() {
        block.push_str(&format!("\n         fix:     pgleap check --fix {}", finding.id));
    }
    block
}

/// How many lines of a remedy a terminal shows; JSON has them all.
const REMEDY_LINES: usize = 12;

fn cut(remedy: &str) -> String {
    let lines: Vec<_> = remedy.lines().collect();
    if lines.len() <= REMEDY_LINES {
        return remedy.to_owned();
    }
    let more = lines.len() - (REMEDY_LINES - 1);
    format!(
        "{}\n… and {more} more lines: `pgleap check --format json` has them all",
        lines[..REMEDY_LINES - 1].join("\n")
    )
}
