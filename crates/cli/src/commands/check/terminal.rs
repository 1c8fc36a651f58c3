//! What a check found, for a terminal: the gravest first, and at the end what to do about all of it.

use std::collections::BTreeMap;

use pgleap_upgrade::preflight::{Finding, Severity};

use super::{Checked, GROUPS};
use crate::out::Paint;

/// How many findings are shown in full; with more, notes take a line each and remedies are cut shorter.
const IN_FULL: usize = 15;
/// How many lines of a remedy are shown, with few findings and with many; JSON and the page have them all.
const REMEDY_LINES: (usize, usize) = (12, 4);

/// Returns every finding, and the summary.
pub(super) fn render(checked: &Checked<'_>, paint: Paint) -> String {
    let many = checked.report.findings.len() > IN_FULL;
    let mut blocks = Vec::new();
    for (severity, heading) in GROUPS {
        let of_severity: Vec<_> = checked.of(severity).collect();
        if of_severity.is_empty() {
            continue;
        }
        if many {
            blocks.push(format!("{} ({})", paint.bold(heading), of_severity.len()));
        }
        blocks.extend(of_severity.into_iter().map(|finding| match severity {
            Severity::Note if many => line(finding, paint),
            _ => block(finding, many, paint),
        }));
        if many {
            blocks.push(String::new());
        }
    }
    blocks.push(summary(checked, many, paint));
    blocks.join("\n")
}

/// Returns a finding with all that is known of it.
pub(super) fn block(finding: &Finding, many: bool, paint: Paint) -> String {
    let indented = |text: &str| text.replace('\n', "\n                  ");
    let mut block = format!("{}\n         {}", head(finding, paint), finding.message);
    if let Some(cause) = &finding.cause {
        block.push_str(&format!("\n         cause:   {}", indented(cause)));
    }
    if let Some(remedy) = &finding.remedy {
        let most = if many { REMEDY_LINES.1 } else { REMEDY_LINES.0 };
        block.push_str(&format!("\n         remedy:  {}", indented(&cut(remedy, most))));
    }
    if !finding.fixes.is_empty() {
        block.push_str(&format!("\n         fix:     pgleap check --fix {}", finding.id));
    }
    block
}

fn line(finding: &Finding, paint: Paint) -> String {
    format!("{}\n         {}", head(finding, paint), finding.message)
}

fn head(finding: &Finding, paint: Paint) -> String {
    format!("{}  {}", label(finding.severity, paint), paint.bold(finding.id))
}

/// Returns the word for a severity, as wide as each of the others.
pub(super) fn label(severity: Severity, paint: Paint) -> String {
    match severity {
        Severity::Blocker => paint.red("blocker"),
        Severity::Warning => paint.yellow("warning"),
        Severity::Note => paint.dim("note   "),
    }
}

fn cut(remedy: &str, most: usize) -> String {
    let lines: Vec<_> = remedy.lines().collect();
    if lines.len() <= most {
        return remedy.to_owned();
    }
    let more = lines.len() - (most - 1);
    format!("{}\n… and {more} more lines: `--output FILE.html` has them all", lines[..most - 1].join("\n"))
}

fn summary(checked: &Checked<'_>, many: bool, paint: Paint) -> String {
    let counts = checked.counts();
    let mut lines = vec![match (checked.report.is_clear(), checked.report.findings.is_empty()) {
        (true, true) => paint.green("clear: nothing is in the way"),
        (true, false) => format!("{}: {counts}", paint.green("clear")),
        (false, _) => format!("{}: {counts}", paint.red("not clear")),
    }];
    if many {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        checked.of(Severity::Blocker).for_each(|finding| *times.entry(finding.id).or_default() += 1);
        let names: Vec<_> =
            times.into_iter().map(|(id, n)| if n > 1 { format!("{id} ({n} times)") } else { id.to_owned() }).collect();
        lines.extend((!names.is_empty()).then(|| format!("  in the way:  {}", names.join(", "))));
        let fixable = checked.fixable();
        lines.extend((!fixable.is_empty()).then(|| format!("  pgleap can:  pgleap check --fix {}", fixable.join(" "))));
        lines.push("  all of it:   pgleap check --output check.html".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use pgleap_upgrade::preflight::{Fix, Report};

    use super::*;

    fn report(count: usize) -> Report {
        let mut findings: Vec<_> =
            (0..count).map(|n| Finding::note("a.note", format!("note {n}")).because("why")).collect();
        let remedy: Vec<_> = (0..30).map(|n| format!("ALTER TABLE t{n};")).collect();
        findings.push(Finding::blocker("b.blocker", "first").fix(remedy.join("\n")));
        findings.push(Finding::blocker("b.blocker", "second").fixes([Fix::restart("wal_level", "logical")]));
        Report::new(findings)
    }

    #[test]
    fn few_findings_are_shown_in_full() {
        let report = report(1);
        let text = render(&Checked::of_report(&report), Paint::plain());
        assert!(text.starts_with("blocker  b.blocker\n         first\n         remedy:  ALTER TABLE t0;"), "{text}");
        assert!(text.contains("… and 19 more lines"), "{text}");
        assert!(text.contains("cause:   why") && text.ends_with("not clear: 2 blockers, 1 note"), "{text}");
    }

    #[test]
    fn many_findings_end_with_what_is_in_the_way_and_what_to_type() {
        let report = report(60);
        let text = render(&Checked::of_report(&report), Paint::plain());
        assert!(text.starts_with("In the way (2)\nblocker"), "{text}");
        assert!(text.contains("Worth knowing (60)") && !text.contains("cause:   why"), "{text}");
        assert!(
            text.ends_with(
                "not clear: 2 blockers, 60 notes\n  in the way:  b.blocker (2 times)\n  pgleap can:  pgleap check --fix \
                 b.blocker\n  all of it:   pgleap check --output check.html"
            ),
            "{text}"
        );
        assert!(text.lines().count() < 150, "it can be read");
    }
}
