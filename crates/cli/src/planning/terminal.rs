//! A plan in a terminal: what is recommended and why first, the steps last.

use pgleap_saga::Reversal;
use pgleap_upgrade::plan::{Choice, Decision, Facts, Interval, methods::Storage};

use super::dossier::Dossier;
use crate::{display::text, out::Paint};

/// How wide a line may get before its basis goes below.
const WIDE: usize = 118;

/// Returns an interval in words.
pub fn interval(interval: Interval) -> String {
    match (interval.low_s, interval.high_s) {
        (low, None) => format!("{} or more, no end in sight", text::seconds(low)),
        (low, Some(high)) if text::seconds(low) == text::seconds(high) => text::seconds(high),
        (low, Some(high)) => format!("{} to {}", text::seconds(low), text::seconds(high)),
    }
}

/// Returns an amount of money, or of nothing that has a price.
pub(super) fn money(choice: &Choice) -> String {
    match (choice.cost.low, choice.cost.high, &choice.cost.currency) {
        (Some(low), Some(high), Some(currency)) if format!("{low:.0}") == format!("{high:.0}") => {
            format!("{high:.0} {currency}")
        }
        (Some(low), Some(high), Some(currency)) => format!("{low:.0} to {high:.0} {currency}"),
        // without a price, what is taken
        _ => match choice.storage {
            Storage::None => "no second cluster".to_owned(),
            Storage::CopyOnWrite => "a clone".to_owned(),
            Storage::Full => "a full copy".to_owned(),
        },
    }
}

/// Returns what a cluster is, in a line.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
pub(super) fn cluster(facts: &Facts) -> String {
    let wal = match facts.wal.range() {
        Some((low, high)) => format!("WAL {} to {}/s", text::bytes(low as u64), text::bytes(high as u64)),
        None => "WAL unknown".to_owned(),
    };
    let objects = facts.sum(|database| database.objects());
    format!(
        "{} {}, {} in {}, {} objects; {wal}, {:.0} transactions/s",
        facts.engine.words(),
        facts.version.split_whitespace().next().unwrap_or_default(),
        text::bytes(facts.cluster_bytes),
        text::plural(facts.databases.len(), "database"),
        text::count(objects),
        facts.commits_per_s
    )
}

/// Returns the whole plan.
pub fn render(dossier: &Dossier, paint: Paint) -> String {
    let mut lines = vec![headline(dossier, paint)];
    if let (Some(facts), Some(decision)) = (&dossier.facts, &dossier.decision) {
        lines.push(format!(
            "{}\n{}",
            cluster(facts),
            paint.dim(&format!("as it was {} UTC", facts.taken_at.strftime("%Y-%m-%d %H:%M")))
        ));
        lines.extend(decided(decision, paint));
        if let Some(choice) = decision.chosen() {
            lines.extend(of_chosen(dossier, choice, paint));
        }
    }
    let chosen = dossier.decision.as_ref().and_then(Decision::chosen);
    if chosen.is_none_or(|choice| choice.run_by_pgleap) {
        lines.push(switch(dossier, paint));
        lines.push(steps(dossier, paint));
    } else {
        lines.push(format!(
            "\n{}  this is advice: of these methods pgleap runs clone + logical replication of self-managed clusters only",
            paint.bold("steps")
        ));
    }
    lines.join("\n")
}

fn headline(dossier: &Dossier, paint: Paint) -> String {
    format!("{} → {}  PostgreSQL {}", paint.bold(&dossier.source), paint.bold(&dossier.target), dossier.target_version)
}

fn decided(decision: &Decision, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    let by = |choice: &Choice| if choice.run_by_pgleap { "pgleap runs it" } else { "advice: not run by pgleap" };
    let named = |method| decision.choices.iter().find(|choice| Some(choice.method) == method);
    match named(decision.recommended) {
        Some(best) => {
            lines.push(format!(
                "\n{}  {}  {}",
                paint.bold("recommended"),
                paint.green(&best.words),
                paint.dim(by(best))
            ));
        }
        None => lines.push(format!("\n{}", paint.red("no method can be used here"))),
    }
    lines.extend(decision.why.iter().map(|why| format!("  {why}")));
    if let Some(pinned) = named(decision.pinned) {
        lines.push(format!(
            "{}       {}  {}",
            paint.bold("planned"),
            paint.yellow(&pinned.words),
            paint.dim(by(pinned))
        ));
    }
    lines.push(format!("\n{}", paint.bold("methods")));
    let width = decision.choices.iter().map(|choice| choice.words.len()).max().unwrap_or(0);
    for choice in &decision.choices {
        let word = match (choice.possible, choice.first.is_empty()) {
            (false, _) => paint.red("no   "),
            (true, true) => paint.green("yes  "),
            (true, false) => paint.yellow("after"),
        };
        if !choice.possible {
            lines.push(format!("  {word}  {:width$}  {}", choice.words, choice.barred_by.join("; ")));
            continue;
        }
        let effort = serde_json::json!(choice.effort);
        lines.push(format!(
            "  {word}  {:width$}  clients wait {}; work {}; {}; effort {}",
            choice.words,
            interval(choice.pause.takes),
            interval(choice.work),
            money(choice),
            effort.as_str().unwrap_or_default()
        ));
        lines.push(paint.dim(&format!("         {:width$}  back after it: {}", "", choice.back_after)));
    }
    lines
}

fn of_chosen(dossier: &Dossier, choice: &Choice, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    let list = |lines: &mut Vec<String>, title: &str, what: &str, items: &[String]| {
        if !items.is_empty() {
            lines.push(format!("\n{}  {}", paint.bold(title), paint.dim(what)));
            lines.extend(items.iter().map(|item| format!("  {item}")));
        }
    };
    let first: Vec<String> = choice.first.iter().map(|item| paint.red(item)).collect();
    list(&mut lines, "first", "what must be done before it can begin", &first);
    let settings: Vec<String> = dossier
        .settings
        .iter()
        .map(|setting| {
            let effect = if setting.change.restart { paint.yellow("restart") } else { "reload ".to_owned() };
            format!(
                "{effect}  {}  {}",
                setting.how,
                paint.dim(&format!("is {}: {}", setting.change.now, setting.change.why))
            )
        })
        .collect();
    if choice.follows() {
        list(&mut lines, "settings", "to change on the source", &settings);
    }
    list(&mut lines, "mind", "what no method carries by itself", &choice.mind);

    lines.push(format!("\n{}  {}", paint.bold("time"), paint.dim("each with its basis")));
    let shown: Vec<String> = choice.stages.iter().map(|stage| interval(stage.takes)).collect();
    let name = choice.stages.iter().map(|stage| stage.name.len()).max().unwrap_or(0);
    let takes = shown.iter().map(|text| text.chars().count()).max().unwrap_or(0);
    for (stage, shown) in choice.stages.iter().zip(&shown) {
        let line = format!("  {:name$}  {shown:takes$}  ", stage.name);
        let room = WIDE.saturating_sub(line.chars().count()).max(40);
        let indent = " ".repeat(line.chars().count());
        let basis = wrapped(&stage.basis, room).join(&format!("\n{indent}"));
        lines.push(format!("{line}{}", paint.dim(&basis)));
    }
    lines.push(format!("  {:name$}  {}  without following and soaking", "work", paint.bold(&interval(choice.work))));
    lines.push(format!("  {:name$}  {}", "in all", paint.bold(&interval(choice.total))));

    let cost = &choice.cost;
    let table = cost.table.as_ref().map_or("no prices for this engine: `prices` under [plan]".to_owned(), Clone::clone);
    lines.push(format!("\n{}  {}", paint.bold("cost"), paint.dim(&format!("beside what is paid anyway; {table}"))));
    let what = cost.lines.iter().map(|line| line.what.len()).max().unwrap_or(0);
    for line in &cost.lines {
        let amount = match (line.low, line.high) {
            (Some(low), Some(high)) => format!("{low:.2} to {high:.2}  "),
            _ => String::new(),
        };
        lines.push(format!("  {:what$}  {amount}{}", line.what, paint.dim(&line.quantity)));
    }
    if cost.low.is_some() {
        lines.push(format!("  {:what$}  {}", "in all", paint.bold(&money(choice))));
    }
    lines.extend(cost.needs.iter().map(|need| format!("  {}  {need}", paint.bold("room"))));
    lines
}

/// Breaks a text at spaces.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut();
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn switch(dossier: &Dossier, paint: Paint) -> String {
    let mut lines =
        vec![format!("\n{}  {}", paint.bold("gates"), paint.dim("a switchover is held until all of them are open"))];
    lines.extend(dossier.gates.iter().map(|gate| format!("  {gate}")));
    for approval in &dossier.approvals {
        let by = if approval.by.is_empty() { String::new() } else { format!(" of {}", approval.by.join(", ")) };
        lines.push(format!(
            "  {}: `{}` waits for {}{by}: `pgleap approve {}`",
            paint.yellow("approval"),
            approval.before,
            text::plural(approval.count, "person").replace("persons", "people"),
            approval.before
        ));
    }
    lines.push(format!("\n{}", paint.bold("way back")));
    let width = dossier.plans.iter().map(|part| part.command.len()).max().unwrap_or(0);
    lines.extend(dossier.plans.iter().map(|part| format!("  {:width$}  {}", part.command, part.back)));
    lines.join("\n")
}

/// Returns every step that would be taken, and nothing else.
pub fn steps_only(dossier: &Dossier, paint: Paint) -> String {
    format!("{}\n{}", headline(dossier, paint), steps(dossier, paint))
}

/// Returns every step that would be taken.
fn steps(dossier: &Dossier, paint: Paint) -> String {
    let mut lines = Vec::new();
    let names = dossier.plans.iter().flat_map(|part| &part.steps).map(|step| step.name.len());
    let width = names.max().unwrap_or(0);
    for part in &dossier.plans {
        lines.push(format!("\n{}  {}", paint.bold(part.command), paint.dim(part.what)));
        let (mut phase, mut section) = ("", None);
        for step in &part.steps {
            if step.phase != phase {
                phase = &step.phase;
                lines.push(format!("  {}", paint.bold(phase)));
            }
            if step.section != section
                && let Some(name) = &step.section
            {
                let seen = format!("┌ {name}: {}, {}", dossier.route.told(), dossier.lasts);
                lines.push(format!("       {}", paint.yellow(&seen)));
            }
            section.clone_from(&step.section);
            let rail = if section.is_some() { paint.yellow("│") } else { " ".to_owned() };
            lines.push(format!("  {:>3}  {rail} {:width$}  {}", step.number, step.name, step.summary));
            if step.reversal == Reversal::PointOfNoReturn {
                let back = match part.command {
                    "pgleap switchover" => "point of no return: from here back is `pgleap rollback`",
                    _ => "point of no return",
                };
                lines.push(format!("       {rail} {:width$}  {}", "", paint.red(back)));
            }
        }
    }
    lines.extend(dossier.foretold.iter().map(|foretold| format!("\n{}  {foretold}", paint.bold("foretold"))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_said_in_as_few_words_as_they_need() {
        assert_eq!(interval(Interval::new(0.02, 2.0)), "20 ms to 2.0 s");
        assert_eq!(interval(Interval::exactly(86_400.0)), "1 d 00 h");
        assert_eq!(interval(Interval::new(60.0, f64::INFINITY)), "1 min 00 s or more, no end in sight");
    }

    #[test]
    fn long_texts_are_broken_at_spaces() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("", 7), [""]);
    }
}
