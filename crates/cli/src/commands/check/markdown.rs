//! What a check found, as Markdown: for a change request, a ticket, a decision record.

use pgleap_upgrade::preflight::{Finding, Severity};

use super::{Checked, GROUPS};
use crate::display::text;

/// Returns the document.
pub(super) fn document(checked: &Checked<'_>) -> String {
    let verdict = if checked.report.is_clear() { "clear" } else { "not clear" };
    let from = checked.source_version.unwrap_or("?");
    let mut text = format!("# Preflight: PostgreSQL {from} → {}: {verdict}\n\n", checked.target_version);
    let at = checked.at.strftime("%Y-%m-%d %H:%M UTC");
    text.push_str(&format!("`{}`, looked at on {at}; nothing was changed. {}.\n", checked.source, checked.counts()));
    for (severity, heading) in GROUPS {
        if checked.count(severity) == 0 {
            continue;
        }
        text.push_str(&format!("\n## {heading}\n"));
        for finding in checked.of(severity) {
            text.push('\n');
            text.push_str(&section(finding));
        }
    }
    let fixable = checked.fixable();
    if !fixable.is_empty() {
        text.push_str(&format!(
            "\n## What pgleap can do\n\n{}",
            fenced(&format!("pgleap check --fix {}", fixable.join(" ")))
        ));
    }
    text
}

fn section(finding: &Finding) -> String {
    let place = finding.database.as_ref().map(|database| format!(", in `{database}`")).unwrap_or_default();
    let mut text = format!("### `{}`{place}\n\n{}\n", finding.id, finding.message);
    if let Some(cause) = &finding.cause {
        text.push_str(&format!("\n{cause}\n"));
    }
    if finding.objects.len() > 5 {
        let names: Vec<_> = finding.objects.iter().map(|name| format!("`{name}`")).collect();
        text.push_str(&format!("\nAll {}: {}\n", text::plural(names.len(), "name"), names.join(", ")));
    }
    if let Some(remedy) = &finding.remedy {
        text.push_str(&format!("\n{}", fenced(remedy)));
    }
    if !finding.fixes.is_empty() {
        text.push_str(&format!("\npgleap can apply this: `pgleap check --fix {}`\n", finding.id));
    } else if let Some(why) = finding.by_hand {
        text.push_str(&format!("\nFor the operator: {why}\n"));
    }
    if finding.severity == Severity::Blocker {
        text.push_str("\n* [ ] done\n");
    }
    text
}

/// Returns a block with a fence longer than any run of backticks in it.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{text}\n{fence}\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn fence_is_longer_than_what_it_holds() {
        assert_eq!(super::fenced("a"), "```\na\n```\n");
        assert!(super::fenced("a ```` b").starts_with("`````\n"));
    }
}
