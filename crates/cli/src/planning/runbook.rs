//! The document of a change request, filled in and dated: what is done, why so, how long, at what cost, and every point to tick.

use std::path::Path;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use pgleap_upgrade::plan::{Choice, Decision, Method};

use super::{
    checklist,
    document::{Block, Document, Section},
    dossier::Dossier,
    terminal::{cluster, interval, money},
};
use crate::{errors::CommandError, exit::Exit};

/// How the document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As Markdown.
    Markdown,
    /// As a page.
    Html,
}

/// Returns what the end of its name says.
///
/// # Errors
/// If it says neither.
pub fn form(path: &Path) -> Result<Form, CommandError> {
    match path.extension().and_then(|end| end.to_str()) {
        Some("md") => Ok(Form::Markdown),
        Some("html") => Ok(Form::Html),
        _ => Err(CommandError::new(Exit::Usage, format!("`{}` ends neither in .md nor in .html", path.display()))
            .state("nothing was contacted")
            .hint("name the runbook `runbook.md` or `runbook.html`")),
    }
}

/// Writes the document.
///
/// # Errors
/// If the file cannot be written.
pub fn write(dossier: &Dossier, begin: Option<Date>, form: Form, path: &Path) -> Result<(), CommandError> {
    let document = document(dossier, begin);
    let text = match form {
        Form::Markdown => document.markdown(),
        Form::Html => document.html(),
    };
    std::fs::write(path, text).map_err(|error| {
        CommandError::new(Exit::Unexpected, format!("cannot write the runbook `{}`", path.display()))
            .because(error.to_string())
            .hint("name another file by `--runbook`")
    })
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn said(date: Date) -> String {
    date.strftime("%A, %-d %B %Y").to_string()
}

fn document(dossier: &Dossier, begin: Option<Date>) -> Document {
    let choice = dossier.decision.as_ref().and_then(Decision::chosen);
    let from = dossier
        .facts
        .as_ref()
        .map_or("?".to_owned(), |facts| facts.version.split_whitespace().next().unwrap_or_default().to_owned());
    let begin = begin.unwrap_or_else(|| day(dossier.made_at));
    let mut facts = vec![format!("{} → {}", dossier.source, dossier.target)];
    facts.extend(
        dossier
            .facts
            .as_ref()
            .map(|facts| format!("{} (as it was {} UTC)", cluster(facts), facts.taken_at.strftime("%-d %B %Y, %H:%M"))),
    );
    let mut sections = vec![summary(dossier, choice)];
    sections.push(calendar(dossier, choice, begin));
    if let Some(decision) = &dossier.decision {
        sections.push(methods(decision));
    }
    if let Some(choice) = choice {
        sections.push(times(choice));
        sections.push(costs(choice));
    }
    sections.push(before(dossier, choice));
    let by_pgleap = choice.is_none_or(|choice| choice.run_by_pgleap);
    if by_pgleap {
        sections.push(gates(dossier));
    }
    sections.push(way_back(dossier, choice));
    let lists = checklist::chapters(dossier, choice);
    for (title, items) in lists {
        sections.push(Section::new(&title, "").with(Block::Checklist(items)));
    }
    if by_pgleap {
        sections.push(steps(dossier));
    }
    Document {
        kicker: format!("Change request, {}", said(day(dossier.made_at))),
        title: format!("PostgreSQL {from} → {}", dossier.target_version),
        facts,
        sections,
        footer: format!(
            "pgleap {} · made on {} UTC from {}",
            env!("CARGO_PKG_VERSION"),
            dossier.made_at.strftime("%-d %B %Y, %H:%M"),
            if dossier.facts.is_some() { "what the cluster said" } else { "the configuration alone" }
        ),
    }
}

fn summary(dossier: &Dossier, choice: Option<&Choice>) -> Section {
    let mut section = Section::new("What is asked for", "");
    let Some(choice) = choice else {
        return section
            .with(Block::Text("The cluster could not be asked, so there is no decision here: only steps.".into()));
    };
    let mut rows = vec![
        vec![
            "Method".to_owned(),
            format!(
                "{}{}",
                choice.words,
                if choice.run_by_pgleap { ", run by pgleap" } else { ", by hand: pgleap advises" }
            ),
        ],
        vec![
            "Clients cannot write for".to_owned(),
            format!("{} ({})", interval(choice.pause.takes), choice.pause.basis),
        ],
        vec!["Work of the machine".to_owned(), interval(choice.work)],
        vec!["From beginning to end".to_owned(), interval(choice.total)],
        vec!["Extra cost".to_owned(), money(choice)],
        vec!["Way back before it".to_owned(), choice.back_before.clone()],
        vec!["Way back after it".to_owned(), choice.back_after.clone()],
    ];
    rows.extend(dossier.foretold.iter().map(|line| vec!["Rehearsed".to_owned(), line.clone()]));
    section = section.with(Block::Table(vec!["".into(), "".into()], rows));
    let why = dossier.decision.as_ref().map(|decision| decision.why.clone()).unwrap_or_default();
    section.with(Block::List(why))
}

fn calendar(dossier: &Dossier, choice: Option<&Choice>, begin: Date) -> Section {
    let section =
        Section::new("When", "Dates follow from `plan.follow` and `plan.soak`; the latest of each interval is taken.");
    let Some(switch_at) = choice.and_then(|choice| {
        let before = choice.stages.iter().take_while(|stage| stage.name != "switch over");
        before.map(|stage| stage.takes.high_s).sum::<Option<f64>>()
    }) else {
        return section.with(Block::Text(format!("Begins on {}; no end can be foretold.", said(begin))));
    };
    let after = |seconds: f64| {
        #[expect(clippy::cast_possible_truncation, reason = "days, after a limit")]
        let days = (seconds / 86_400.0).ceil().clamp(0.0, 36_500.0) as i64;
        begin.saturating_add(jiff::Span::new().days(days))
    };
    let row = |date: Date, what: &str| vec![said(date), what.to_owned()];
    let soak = dossier.waits_s[1];
    #[expect(clippy::cast_precision_loss, reason = "days")]
    let end = switch_at + soak as f64;
    let rows = match choice {
        Some(choice) if choice.method == Method::InPlace => {
            vec![row(begin, "a backup, then pg_upgrade: nobody is served while it runs")]
        }
        Some(choice) if !choice.run_by_pgleap => vec![
            row(begin, "the target is made and follows; the source serves"),
            row(after(switch_at), "writes are moved, in a quiet hour"),
            row(after(end), "the old cluster is given up"),
        ],
        _ => vec![
            row(begin, "`pgleap run`: the target is made and follows; the source serves"),
            row(after(switch_at), "`pgleap switchover`, in a quiet hour"),
            row(after(end), "`pgleap finalize`: the way back is given up"),
        ],
    };
    section.with(Block::Table(vec!["Date".into(), "What".into()], rows))
}

fn methods(decision: &Decision) -> Section {
    let row = |choice: &Choice| {
        if !choice.possible {
            return vec![
                choice.words.clone(),
                "no".into(),
                String::new(),
                String::new(),
                String::new(),
                choice.barred_by.join("; "),
            ];
        }
        let able = if choice.first.is_empty() { "yes" } else { "after what is below" };
        vec![
            choice.words.clone(),
            format!("{able}{}", if choice.run_by_pgleap { ", by pgleap" } else { "" }),
            interval(choice.pause.takes),
            interval(choice.work),
            money(choice),
            choice.back_after.clone(),
        ]
    };
    let head =
        ["Method", "Possible here", "Clients cannot write", "Work", "Extra cost", "Way back after it, or why not"];
    Section::new("Methods", "What was weighed. What pgleap does not run it only advises on.")
        .with(Block::Table(head.map(str::to_owned).to_vec(), decision.choices.iter().map(row).collect()))
}

fn times(choice: &Choice) -> Section {
    let row =
        |stage: &pgleap_upgrade::plan::Stage| vec![stage.name.clone(), interval(stage.takes), stage.basis.clone()];
    let mut rows: Vec<_> = choice.stages.iter().map(row).collect();
    rows.push(vec!["in all".into(), interval(choice.total), format!("of it {} of work", interval(choice.work))]);
    let head = ["Stage", "Takes", "From what that follows"];
    Section::new("Time", "From the soonest to the latest.").with(Block::Table(head.map(str::to_owned).to_vec(), rows))
}

fn costs(choice: &Choice) -> Section {
    let cost = &choice.cost;
    let amount = |low: Option<f64>, high: Option<f64>| match low.zip(high) {
        Some((low, high)) => format!("{low:.2} to {high:.2}"),
        None => "no price".to_owned(),
    };
    let mut rows: Vec<_> = cost
        .lines
        .iter()
        .map(|line| vec![line.what.clone(), line.quantity.clone(), amount(line.low, line.high)])
        .collect();
    rows.push(vec!["in all".into(), String::new(), money(choice)]);
    let note = match &cost.table {
        Some(table) => format!("Beside what is paid anyway. Prices: {table}; nobody's bill was asked."),
        None => "Beside what is paid anyway. There are no prices for this engine: `prices` under [plan] names a table."
            .into(),
    };
    let head = ["For", "How much", "Amount"];
    let section = Section::new("Cost", &note).with(Block::Table(head.map(str::to_owned).to_vec(), rows));
    if cost.needs.is_empty() { section } else { section.with(Block::List(cost.needs.clone())) }
}

fn before(dossier: &Dossier, choice: Option<&Choice>) -> Section {
    let mut section = Section::new("Before it can begin", "");
    let first = choice.map(|choice| choice.first.clone()).unwrap_or_default();
    section = section.with(match first.is_empty() {
        true => Block::Text("Nothing is in the way.".into()),
        false => Block::List(first),
    });
    if !dossier.settings.is_empty() && choice.is_none_or(Choice::follows) {
        let lines: Vec<_> = dossier
            .settings
            .iter()
            .map(|s| {
                format!(
                    "{}  -- is {}; takes effect with a {}",
                    s.how,
                    s.change.now,
                    if s.change.restart { "restart" } else { "reload" }
                )
            })
            .collect();
        section = section.with(Block::Heading("Settings of the source".into())).with(Block::Code(lines.join("\n")));
    }
    let remedies: Vec<_> = dossier.about("blocker", choice).filter_map(|finding| finding.remedy.clone()).collect();
    if !remedies.is_empty() {
        section = section
            .with(Block::Heading("What `pgleap check` would have you do".into()))
            .with(Block::Code(remedies.join("\n")));
    }
    if let Some(choice) = choice.filter(|choice| !choice.mind.is_empty()) {
        section = section.with(Block::Heading("To know".into())).with(Block::List(choice.mind.clone()));
    }
    section
}

fn gates(dossier: &Dossier) -> Section {
    let note = format!(
        "A switchover is held until all of them are open. Then {}, {}; past that they go on where they were.",
        dossier.route.told(),
        dossier.lasts
    );
    let section = Section::new("Gates", &note).with(Block::List(dossier.gates.clone()));
    let approvals: Vec<_> = dossier
        .approvals
        .iter()
        .map(|approval| {
            let by = if approval.by.is_empty() { "anybody".to_owned() } else { approval.by.join(", ") };
            format!(
                "`pgleap {}` waits for {} of {by}: `pgleap approve {}`",
                approval.before, approval.count, approval.before
            )
        })
        .collect();
    if approvals.is_empty() {
        section
    } else {
        section.with(Block::Heading("Approvals".into())).with(Block::List(approvals))
    }
}

fn way_back(dossier: &Dossier, choice: Option<&Choice>) -> Section {
    let section = Section::new("The way back", "At each point.");
    match choice.filter(|choice| !choice.run_by_pgleap) {
        Some(choice) => section.with(Block::List(vec![
            format!("before writes are moved: {}", choice.back_before),
            format!("after it: {}", choice.back_after),
        ])),
        None => {
            let row = |part: &super::dossier::Part| vec![format!("`{}`", part.command), part.back.to_owned()];
            let head = ["While, and after", "Way back"];
            section.with(Block::Table(head.map(str::to_owned).to_vec(), dossier.plans.iter().map(row).collect()))
        }
    }
}

fn steps(dossier: &Dossier) -> Section {
    let mut section = Section::new("Every step", "What the engine would do, in its own words.");
    for part in &dossier.plans {
        let row = |step: &pgleap_saga::StepDescription| {
            let mark = match (step.reversal, &step.section) {
                (pgleap_saga::Reversal::PointOfNoReturn, _) => "point of no return",
                (_, Some(_)) => "clients wait",
                _ => "",
            };
            vec![step.number.to_string(), format!("`{}`", step.name), step.summary.clone(), mark.to_owned()]
        };
        let head = ["", "Step", "What it does", ""];
        section = section
            .with(Block::Heading(format!("{}: {}", part.command, part.what)))
            .with(Block::Table(head.map(str::to_owned).to_vec(), part.steps.iter().map(row).collect()));
    }
    section
}
