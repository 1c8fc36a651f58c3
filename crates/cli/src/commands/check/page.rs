//! What a check found, as one page that needs nothing else, in the look of the report.

use jiff::Timestamp;
use maud::{Markup, html};
use pgleap_upgrade::preflight::{Finding, Severity};

use super::Checked;
use crate::{
    display::text,
    page::{self, inline},
};

/// What the report has no need of.
const OWN: &str = "
article { padding: 1.1rem 0; border-top: 1px solid var(--rule); } article:first-of-type { border-top: 0; padding-top: 0; }
article h3 { margin: 0 0 .2rem; } article p { margin: .15rem 0; } article .cause { color: var(--soft); }
article details { margin-top: .5rem; } article summary { font-weight: 400; color: var(--soft); font-size: .9rem; }
.place { margin-left: .6rem; color: var(--soft); font-weight: 400; } .numbers { color: var(--soft); font-size: .9rem; }
.objects { columns: 18rem; font-size: .88rem; }
@media print { details { display: block; } }
";

/// Names that are shown without being asked for.
const SHOWN: usize = 5;

/// Returns the page.
pub(super) fn page(checked: &Checked<'_>) -> Markup {
    let clear = checked.report.is_clear();
    let title = format!("{} → {}", checked.source_version.unwrap_or("?"), checked.target_version);
    let fixable = checked.fixable();
    let figure = |n: usize, what: &str, note: &str, class: &str| {
        html! { div.figure { div class={ "number " (class) } { (n) } div.what { (what) } div.note { (note) } } }
    };
    let grade = |n: usize, class: &'static str| if n == 0 { "good" } else { class };
    let (blockers, warnings) = (checked.count(Severity::Blocker), checked.count(Severity::Warning));
    let main = html! {
        header {
            p.kicker { "PostgreSQL upgrade preflight" }
            h1 {
                (title) " "
                span class={ "verdict " (if clear { "good" } else { "bad" }) } {
                    (if clear { "clear" } else { "not clear" })
                }
            }
            p.facts { (checked.source) " · looked at on " (moment(checked.at)) " · nothing was changed" }
        }
        section {
            div.figures {
                (figure(blockers, "Blockers", "the upgrade does not begin", grade(blockers, "bad")))
                (figure(warnings, "Warnings", "to be decided by somebody", grade(warnings, "open")))
                (figure(checked.count(Severity::Note), "Notes", "worth knowing", ""))
                (figure(fixable.len(), "Remedies", "that pgleap can apply", ""))
            }
        }
        @for (severity, heading) in super::GROUPS {
            @if checked.count(severity) > 0 {
                section {
                    h2 { (heading) }
                    @for finding in checked.of(severity) { (article(finding)) }
                }
            }
        }
        @if !fixable.is_empty() {
            section {
                h2 { "What pgleap can do" }
                p.note { "It shows every statement, asks, writes down what is there before, and puts it back on request." }
                pre { "pgleap check --fix " (fixable.join(" ")) }
            }
        }
    };
    let footer =
        html! { "pgleap " (env!("CARGO_PKG_VERSION")) " · what each check reads, and why: pgleap check --explain" };
    page::page(&format!("Preflight: PostgreSQL {title}, {}", checked.source), OWN, &main, &footer)
}

fn moment(at: Timestamp) -> String {
    at.strftime("%-d %B %Y, %H:%M UTC").to_string()
}

fn article(finding: &Finding) -> Markup {
    let class = match finding.severity {
        Severity::Blocker => "bad",
        Severity::Warning => "open",
        Severity::Note => "",
    };
    let numbers: Vec<String> = finding.numbers.iter().map(|(name, value)| format!("{name} {value}")).collect();
    html! {
        article id=(finding.id) {
            h3 {
                code class=(class) { (finding.id) }
                @if let Some(database) = &finding.database { span.place { "in " (database) } }
            }
            p { (inline(&finding.message)) }
            @if let Some(cause) = &finding.cause { p.cause { (inline(cause)) } }
            @if !numbers.is_empty() { p.numbers { (numbers.join(" · ")) } }
            @if finding.objects.len() > SHOWN {
                details {
                    summary { "all " (text::plural(finding.objects.len(), "name")) }
                    ul.objects { @for name in &finding.objects { li { code { (name) } } } }
                }
            }
            @if let Some(remedy) = &finding.remedy { pre { (remedy) } }
            @if !finding.fixes.is_empty() {
                p.cause { "pgleap can apply this: " code { "pgleap check --fix " (finding.id) } }
            } @else if let Some(why) = finding.by_hand {
                p.cause { "For the operator: " (inline(why)) }
            }
        }
    }
}
