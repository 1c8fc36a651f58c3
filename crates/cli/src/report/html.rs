//! The report as one page that needs nothing else: no scripts, no fonts, no network.

use jiff::Timestamp;
use maud::{Markup, html};
use pgleap_upgrade::{Standing, plan::history::Compared};

use super::{
    chart,
    model::{Boundary, Report, Switchover, Verification},
    table::{COLUMNS, UNKNOWN, count, row, total},
};
use crate::{display::text, planning::interval};

/// Returns the page.
pub(super) fn page(report: &Report) -> Markup {
    let title = format!("{} → {}", report.source_version.as_deref().unwrap_or("?"), report.target_version);
    let main = html! {
        (head(report, &title))
        (figures(report))
        (costs(report))
        section {
            h2 { "Timeline" }
            p.note {
                "Times are UTC. Phases are drawn to scale, the shortest widened to be seen"
                @if report.switchovers.iter().any(|switchover| switchover.paused_at.is_some()) {
                    "; a line marks the moment when clients waited"
                }
                "."
            }
            (chart::timeline(report))
        }
        (switchovers(report))
        (proofs(report))
        @if !report.lag.is_empty() {
            section {
                h2 { "Replication lag" }
                p.note { "How far the target was behind the source while it caught up, in bytes of WAL." }
                (chart::lag(report))
            }
        }
        (foretold(report))
        (left_out(report))
        (steps(report))
    };
    let footer = html! {
        "pgleap " (env!("CARGO_PKG_VERSION"))
        @if let Some(id) = &report.upgrade_id { " · upgrade " (id) }
        " · made from the journal on " (date(report.generated_at)) " " (chart::clock(report.generated_at)) " UTC"
    };
    crate::page::page(&format!("PostgreSQL {title}, {}", report.name), "", &main, &footer)
}

fn date(at: Timestamp) -> String {
    at.strftime("%-d %B %Y").to_string()
}

fn head(report: &Report, title: &str) -> Markup {
    let verdict = match &report.standing {
        Standing::Nothing => ("open", "not under way"),
        Standing::Open { unwinding: true, .. } => ("open", "being taken back"),
        Standing::Open { .. } => ("open", "under way"),
        Standing::InSync => ("good", "in sync"),
        Standing::SwitchedOver => ("good", "switched over"),
        Standing::Finalized => ("good", "finished"),
    };
    html! {
        header {
            p.kicker { "PostgreSQL upgrade report" }
            h1 { (title) " " span class={ "verdict " (verdict.0) } { (verdict.1) } }
            p.facts {
                (report.name)
                @if let (Some(from), Some(to)) = (report.begun_at, report.ended_at) {
                    " · " (date(from)) ", " (chart::clock(from)) " to "
                    @if date(from) != date(to) { (date(to)) ", " }
                    (chart::clock(to)) " UTC · " (text::seconds(to.duration_since(from).as_secs_f64()))
                }
                @if !report.databases.is_empty() {
                    " · " (text::plural(report.databases.len(), "database")) " (" (report.databases.join(", ")) ")"
                }
            }
            p.facts { "Now " (report.traffic) "." }
        }
    }
}

fn figures(report: &Report) -> Markup {
    let figure = |value: String, label: &str, note: String, class: &str| {
        html! { div.figure { div class={ "number " (class) } { (value) } div.what { (label) } div.note { (note) } } }
    };
    let unknown = || UNKNOWN.to_owned();
    let zero = |n: Option<u64>| match n {
        Some(0) => "good",
        Some(_) => "bad",
        None => "",
    };
    let pauses = report.switchovers.iter().filter(|switchover| switchover.write_pause_ms.is_some()).count();
    let floor = match (report.pause_floor_ms, report.longest_client_stall_ms) {
        (Some(floor), _) => format!("a bare pause and resume: {}", text::millis(floor)),
        (None, Some(_)) => "over the whole upgrade".into(),
        (None, None) => "no canary ran".into(),
    };
    let of = report.transactions.map_or("no canary ran".to_owned(), |n| format!("of {} transactions", text::count(n)));
    let twice = match (report.lost_writes, report.duplicated_writes) {
        (None, _) => "no ledger was audited".to_owned(),
        (_, twice) => format!("applied twice: {}", count(twice)),
    };
    let worst = match pauses {
        0 => "no switchover yet".to_owned(),
        1 => "one switchover".to_owned(),
        n => format!("the longest of {n} switchovers"),
    };
    let pause = report.write_pause_ms.map_or_else(unknown, text::millis);
    let stall = report.longest_client_stall_ms.map_or_else(unknown, text::millis);
    let number = |n: Option<u64>| n.map_or_else(unknown, text::count);
    let writes_bad = if report.duplicated_writes.is_some_and(|n| n > 0) { "bad" } else { zero(report.lost_writes) };
    html! {
        section.figures {
            (figure(pause, "write pause", worst, ""))
            (figure(stall, "longest client stall", floor, ""))
            (figure(number(report.failed_transactions), "failed transactions", of, zero(report.failed_transactions)))
            (figure(number(report.lost_writes), "lost writes", twice, writes_bad))
        }
    }
}

fn costs(report: &Report) -> Markup {
    let cells = |cells: [String; 6]| {
        html! {
            @for (nth, cell) in cells.iter().enumerate() {
                td class={ @if nth == 0 { "name" } @else if nth < 5 { "n" } @else { "text" } } data-label=(COLUMNS[nth]) { (cell) }
            }
        }
    };
    html! {
        section {
            h2 { "What it cost the clients" }
            div.scroll {
                table.costs {
                    thead { tr { @for (nth, column) in COLUMNS.iter().enumerate() {
                        th class={ @if (1..5).contains(&nth) { "n" } } { (column) }
                    } } }
                    tbody { @for (nth, phase) in report.phases.iter().enumerate() { tr { (cells(row(nth + 1, phase, report))) } } }
                    tfoot { tr { (cells(total(report))) } }
                }
            }
        }
    }
}

fn switchovers(report: &Report) -> Markup {
    let paused: Vec<&Switchover> = report.switchovers.iter().filter(|s| !s.pause_steps.is_empty()).collect();
    html! {
        @if !paused.is_empty() {
            section {
                h2 { "Inside the write pause" }
                p.note {
                    "Clients wait from PAUSE sent to RESUME answered; the bars hold the journal's own writes too."
                }
                @for switchover in paused {
                    h3 {
                        "From " (switchover.from) " to " (switchover.from.other())
                        @if !switchover.moved { span.verdict.open { "clients stayed" } }
                    }
                    p.note { (sentence(switchover)) }
                    (chart::pause(switchover))
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a budget for people")]
fn sentence(switchover: &Switchover) -> String {
    let budget = switchover.budget_ms.map(|ms| text::millis(ms as f64)).unwrap_or_default();
    let mut text = match switchover.write_pause_ms {
        Some(ms) => format!("Clients waited {} of at most {budget}", text::millis(ms)),
        None => format!("Clients could wait at most {budget}"),
    };
    if let Some(at) = switchover.paused_at {
        text.push_str(&format!(", from {} UTC", chart::clock(at)));
    }
    text.push('.');
    match switchover.fence_proven_by.as_deref() {
        Some("silence") => text.push_str(" The fence held: no transaction id was handed out behind it."),
        Some("decoded") => text.push_str(" The fence held: decoding showed no write behind it."),
        _ => {}
    }
    if let Some(n) = switchover.sequences.and_then(|n| usize::try_from(n).ok()) {
        text.push_str(&format!(" {} carried over.", text::plural(n, "sequence")));
    }
    if let Some((before, after)) = switchover.before.zip(switchover.after) {
        text.push_str(&format!(
            " Transactions took {} (p50) and {} (p99) in the minute before, {} and {} in the minute after.",
            text::millis(before.p50_ms),
            text::millis(before.p99_ms),
            text::millis(after.p50_ms),
            text::millis(after.p99_ms)
        ));
    }
    text
}

fn proofs(report: &Report) -> Markup {
    html! {
        @if report.boundary.is_some() || !report.verifications.is_empty() {
            section {
                h2 { "Proof" }
                dl {
                    @if let Some(proof) = &report.boundary { (boundary(proof)) }
                    @for verification in &report.verifications { (verified(verification)) }
                    @if let (Some(lost), Some(n)) = (report.lost_writes, report.transactions) {
                        dt { "Ledger" }
                        dd {
                            (text::count(n)) " acknowledged transactions, looked for one by one: "
                            (count(Some(lost))) " lost, " (count(report.duplicated_writes)) " applied twice."
                        }
                    }
                }
            }
        }
    }
}

fn boundary(proof: &Boundary) -> Markup {
    html! {
        dt { "Boundary " code { (proof.lsn) } }
        dd {
            "Copy and stream meet exactly: " (text::count(proof.before))
            " transactions that committed before it are on the copy, " (text::count(proof.after))
            " that committed after it are not and came by the stream."
            @if proof.proven_on_target { " Shown again after pg_upgrade." }
        }
    }
}

fn verified(verification: &Verification) -> Markup {
    let rows = text::count(u64::try_from(verification.rows).unwrap_or(0));
    html! {
        dt { "Rows, " (chart::clock(verification.at)) " UTC" }
        dd {
            (text::plural(verification.tables, "table")) ", " (rows) " rows "
            @if verification.exact {
                "compared in two snapshots taken at the moment of " (verification.plan) ": "
            } @else {
                "compared while writes went on: "
            }
            @if verification.different.is_empty() {
                (verification.equal) " equal, none different"
                @if verification.moving > 0 { ", " (verification.moving) " written to faster than they could be compared" }
                "."
            } @else {
                strong.bad { (verification.different.len()) " different: " (verification.different.join(", ")) }
            }
        }
    }
}

fn foretold(report: &Report) -> Markup {
    let took = |compared: &Compared| compared.actual_s.map_or(UNKNOWN.to_owned(), text::seconds);
    let verdict = |compared: &Compared| match compared.held {
        Some(true) => ("good", "as foretold"),
        Some(false) if compared.actual_s < Some(compared.foretold.low_s) => ("open", "sooner"),
        Some(false) => ("bad", "later"),
        None => ("open", "not reached"),
    };
    html! {
        @if !report.foretold.is_empty() {
            section {
                h2 { "Foretold, and as it was" }
                p.note { "What the plan said when the run began, from the soonest to the latest, and what the steps took." }
                div.scroll {
                    table {
                        thead { tr { th { "Stage" } th.n { "Foretold" } th.n { "Took" } th { "" } } }
                        tbody {
                            @for compared in &report.foretold {
                                @let (class, words) = verdict(compared);
                                tr {
                                    td.name { (compared.stage) }
                                    td.n { (interval(compared.foretold)) }
                                    td.n { (took(compared)) }
                                    td { span class={ "verdict " (class) } { (words) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn left_out(report: &Report) -> Markup {
    html! {
        section {
            h2 { "What a person should know" }
            @if report.left_out.is_empty() {
                p.note { "No warnings, and nothing was left out that pgleap carries." }
            } @else {
                ul { @for line in &report.left_out { li { (line) } } }
            }
        }
    }
}

fn steps(report: &Report) -> Markup {
    let status = |status| serde_json::json!(status).as_str().unwrap_or_default().replace('_', " ");
    html! {
        section {
            details {
                summary { "Every step (" (report.steps.len()) ")" }
                div.scroll {
                    table.steps {
                        thead { tr { th { "Plan" } th { "Step" } th.n { "Time" } th { "Status" } th { "What it does" } } }
                        tbody {
                            @for step in &report.steps {
                                tr {
                                    td { (step.plan) }
                                    td { code { (step.name) } }
                                    td.n { (step.seconds.map_or(UNKNOWN.into(), text::seconds)) }
                                    td {
                                        (status(step.status))
                                        @if step.attempts > 1 { ", " (step.attempts) " attempts" }
                                    }
                                    td.text { (step.summary) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
