//! `pgleap rehearse --twin`: a copy of the source, upgraded, looked at, and destroyed.

use std::{path::PathBuf, time::Duration};

use pgleap_saga::{Cx, EventSink, Executor, Journal, Outcome, RetryPolicy, StopSignal};
use pgleap_upgrade::{
    World, plan, preflight,
    twin::{self, Lacking, Report, Wishes},
};

use super::{check, foretell};
use crate::{
    args,
    display::{Display, text},
    errors::CommandError,
    exit::Exit,
    interrupt,
    out::{Out, Paint, SCHEMA},
    site::{self, Site},
};

/// Rates are not used here; sizes and counts are.
const FACTS_WINDOW: Duration = Duration::from_millis(500);
/// What the newest twin told, beside its journal.
const REPORT: &str = "report.json";
/// What to type when a twin could not be made or looked at.
const AGAIN: &str = "remove the cause, on the source where it is there, then `pgleap rehearse --twin` makes another";
/// How much of a long text is shown.
const SHOWN: usize = 100;
/// How many changed plans are shown in full, and how many tables that lack statistics.
const IN_FULL: usize = 10;

pub(super) async fn run(args: &args::Rehearse, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let wishes = wishes(args)?;
    let of = site;
    let site = of.of_twin(twin::config(&of.config));
    out.confirm(&format!(
        "This copies the source to `{}`, upgrades the copy, looks at it, and removes it. The source is read, and not changed.",
        site.config.provider.work_dir.display()
    ))?;
    let journal = site.write()?;
    let id = site::known_id(&journal)?.unwrap_or_else(site::new_id);
    site::keep_id(&journal, &id)?;
    let events = EventSink::new();
    let plans = journal.plans()?;
    if let Some(left) = plans.last().filter(|plan| !matches!(plan.outcome, Some(Outcome::Unwound { .. }))) {
        out.say("taking away the twin that an interrupted rehearsal left");
        // the configuration may say otherwise by now, and the source need not answer
        let made = site.of_twin(twin::made_by(&site.config, left)).world(id.clone()).await?;
        destroy(&made, &journal, &events, &left.id, &wishes).await?;
    }
    let real = of.world(site::new_id()).await?;
    let config = twin::with_libraries(site.config.clone(), &real.source).await.map_err(|error| {
        CommandError::of(Exit::Usage, &error).state("nothing was begun").hint("`pgleap check` says what is in the way")
    })?;
    let site = site.of_twin(config);
    let world = site.world(id).await?;
    let host = preflight::check_host(&world).await;
    if !host.is_clear() {
        return Err(check::in_the_way(&host, &world, out));
    }
    let id = format!("twin-{}", plans.len() + 1);
    let display = (!out.is_json()).then(|| Display::start(&events, out));
    let facts = plan::collect(&real, FACTS_WINDOW).await.ok();
    let untold = preflight::check_memory(&real).await.findings.into_iter().map(|finding| match finding.cause {
        Some(cause) => format!("{}: {cause}", finding.message),
        None => finding.message,
    });
    let untold = untold.collect();
    let looked = look(&world, &journal, &events, &id, &wishes, args.factor, untold).await;
    // nothing may keep the twin from being taken away
    let looked_at = journal.plans().ok().and_then(|plans| plans.into_iter().find(|plan| plan.id == id));
    let destroyed = destroy(&world, &journal, &events, &id, &wishes).await;
    if let Some(display) = display {
        display.finish().await;
    }
    destroyed?;
    let report = looked?;
    if let Some((facts, plan)) = facts.as_ref().zip(looked_at.as_ref()) {
        foretell::learn_from_twin(of, facts, plan, out);
    }
    let path = site.config.state_dir.join(REPORT);
    let kept = serde_json::to_string_pretty(&report).map_err(std::io::Error::from);
    if let Err(error) = kept.and_then(|text| std::fs::write(&path, text)) {
        out.say(&format!("`{}` cannot be written: {error}", path.display()));
    }
    match out.is_json() {
        true => out.json(&serde_json::json!({ "schema": SCHEMA, "twin": report })),
        false => out.data(&render(&report, out.data_paint())),
    }
    Ok(if report.is_wrong() { Exit::Differs } else { Exit::Done })
}

fn wishes(args: &args::Rehearse) -> Result<Wishes, CommandError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map(|text| twin::split(&text)).map_err(|error| {
            CommandError::new(Exit::Usage, format!("`{}` cannot be read", path.display())).because(error.to_string())
        })
    };
    Ok(Wishes {
        top: args.top,
        statements: args.statements.as_ref().map(read).transpose()?,
        check_indexes: Duration::from_secs(args.amcheck_seconds.into()),
    })
}

/// Makes the twin and looks at it.
async fn look(
    world: &World,
    journal: &Journal,
    events: &EventSink,
    id: &str,
    wishes: &Wishes,
    factor: f64,
    untold: Vec<String>,
) -> Result<Report, CommandError> {
    let stop = StopSignal::new();
    let listening = interrupt::listen(stop.clone(), |_| {});
    let plan = twin::plan(id.to_owned(), &world.config, wishes);
    let executor = Executor::new(journal, events.clone(), RetryPolicy::default(), stop);
    let outcome = tokio::select! {
        biased;
        outcome = executor.execute(&plan, world) => outcome?,
        () = listening => return Err(CommandError::new(Exit::Unexpected, "signals cannot be listened to")),
    };
    let unchanged = "the source was read, and not changed; the twin is removed";
    match outcome {
        Outcome::Done => {
            let plans = journal.plans()?;
            let state = plans.iter().find(|plan| plan.id == id);
            let state =
                state.ok_or_else(|| CommandError::new(Exit::Unexpected, "the twin's plan is not in its journal"))?;
            Ok(twin::report(&Cx::standalone(world, journal), state, &journal.records(0)?, factor, untold)?)
        }
        Outcome::Stopped => Err(CommandError::new(Exit::Stopped, "stopped on request").state(unchanged)),
        // what steps say of the next command is of an upgrade's: of a twin nothing is left to resume
        Outcome::Unwound { cause } => {
            let mut error = CommandError::from(cause).state(unchanged).hint(AGAIN);
            error.exit = Exit::Blocker;
            Err(error)
        }
        Outcome::Blocked(failure) | Outcome::NeedsOperator(failure) => {
            let mut error = CommandError::from(failure.error).state(unchanged).hint(AGAIN);
            error.message = format!("`{}` failed: {}", failure.step, error.message);
            Err(error)
        }
    }
}

/// Takes the twin away, whatever of it there is.
async fn destroy(
    world: &World,
    journal: &Journal,
    events: &EventSink,
    id: &str,
    wishes: &Wishes,
) -> Result<(), CommandError> {
    let undone = |plan: &pgleap_saga::PlanState| plan.id == id && matches!(plan.outcome, Some(Outcome::Unwound { .. }));
    if journal.plans()?.iter().any(undone) {
        return Ok(());
    }
    let plan = twin::plan(id.to_owned(), &world.config, wishes);
    let executor = Executor::new(journal, events.clone(), RetryPolicy::default(), StopSignal::new());
    match executor.unwind(&plan, world, twin::destroyed()).await? {
        Outcome::Unwound { .. } => Ok(()),
        other => Err(CommandError::new(Exit::Stopped, "the twin could not be removed")
            .because(format!("{other:?}"))
            .state("the source was read, and not changed")
            .hint("remove the cause, then `pgleap rehearse --twin` removes it first")),
    }
}

fn render(report: &Report, paint: Paint) -> String {
    let mut lines = Vec::new();
    let mut say = |word: &str, text: String| lines.push(format!("{}  {text}", paint.bold(&format!("{word:10}"))));
    let longest = |stage: &&twin::Stage| stage.seconds >= 0.1;
    let stages: Vec<_> = report
        .stages
        .iter()
        .filter(longest)
        .map(|stage| format!("{} {}", stage.step, text::seconds(stage.seconds)))
        .collect();
    say("took", stages.join(", "));
    let below = |lines: &[String]| lines.join("\n            ");
    say(
        "extensions",
        match (report.extensions.as_slice(), report.stay.as_slice()) {
            ([], []) => "none to update".to_owned(),
            (updated, []) => updated.join(", "),
            (updated, stay) => {
                let failed = paint.yellow(&format!("{} not updated", text::plural(stay.len(), "extension")));
                let updated = std::iter::once(failed).chain(updated.iter().cloned()).collect::<Vec<_>>().join(", ");
                format!("{updated}\n            {}", below(stay))
            }
        },
    );
    let checked = format!(
        "{} of {} checked with amcheck",
        report.indexes.checked,
        text::plural(report.indexes.all, "B-tree index").replace("indexs", "indexes")
    );
    say(
        "indexes",
        match (&report.indexes.missing, report.indexes.wrong.as_slice()) {
            (Some(why), _) => why.clone(),
            (None, []) => format!("{checked}, nothing is wrong"),
            (None, wrong) => format!(
                "{checked}; {}\n            {}",
                paint.red(&text::plural(wrong.len(), "damaged")),
                wrong.join("\n            ")
            ),
        },
    );
    say("statistics", statistics(&report.statistics, paint));
    say(
        "schema",
        match report.restore.as_slice() {
            [] => "dumped and restored".to_owned(),
            wrong => format!("{}\n            {}", paint.red("cannot be restored"), wrong.join("\n            ")),
        },
    );
    say(
        "plans",
        match &report.missing {
            Some(why) => why.clone(),
            None => format!(
                "{} the same, {} changed, {} fail now, {} could not be explained",
                report.same,
                report.changed.len(),
                report.broken.len(),
                report.unexplained.len()
            ),
        },
    );
    if !report.untold.is_empty() {
        say("untold", below(&report.untold));
    }
    if !report.unused.is_empty() {
        say("unused", format!("used before, by none of these now: {}", report.unused.join(", ")));
    }
    for broken in &report.broken {
        lines.push(format!(
            "\n{}  {}\n            {}",
            paint.red("fails     "),
            short(&broken.statement.text),
            broken.why
        ));
    }
    for changed in report.changed.iter().take(IN_FULL) {
        let how = &changed.how;
        let left = if how.left.is_empty() { String::new() } else { format!("; no longer by {}", how.left.join(", ")) };
        lines.push(format!(
            "\n{}  {}{}\n            in `{}`: cost × {:.1}, rows × {:.1}{left}",
            paint.yellow("changed   "),
            short(&changed.statement.text),
            changed.statement.ran.map_or_else(String::new, |(calls, ms)| format!(
                "  ({} calls, {})",
                text::count(u64::try_from(calls).unwrap_or_default()),
                text::millis(ms)
            )),
            changed.database,
            how.cost_factor,
            how.rows_factor
        ));
        if how.shape {
            let width = changed.before.shape.iter().map(|line| line.chars().count()).max().unwrap_or(0).max(6);
            let rows = changed.before.shape.len().max(changed.now.shape.len());
            let of = |shape: &[String], n: usize| shape.get(n).cloned().unwrap_or_default();
            lines.push(format!("            {}", paint.dim(&format!("{:width$}  now", "before"))));
            lines.extend((0..rows).map(|n| {
                format!("            {:width$}  {}", of(&changed.before.shape, n), of(&changed.now.shape, n))
                    .trim_end()
                    .to_owned()
            }));
        }
    }
    if report.changed.len() > IN_FULL {
        lines.push(format!("\nand {} more: `--format json` has them all", report.changed.len() - IN_FULL));
    }
    lines.join("\n")
}

fn statistics(lacking: &[Lacking], paint: Paint) -> String {
    if lacking.is_empty() {
        return "none of the source's is missing".to_owned();
    }
    let missing = format!("missing of {}", text::plural(lacking.len(), "table"));
    let mut lines = vec![format!("{}: `ANALYZE` each on the target, before the switchover", paint.yellow(&missing))];
    lines.extend(lacking.iter().take(IN_FULL).map(|Lacking { database, table, statistics }| {
        format!("`{table}` in `{database}`: {}", short(&statistics.join("; ")))
    }));
    if lacking.len() > IN_FULL {
        lines.push(format!("and {} more: `--format json` has them all", lacking.len() - IN_FULL));
    }
    lines.join("\n            ")
}

/// Returns the beginning of a long text, such as a statement, in one line.
fn short(statement: &str) -> String {
    let line = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
