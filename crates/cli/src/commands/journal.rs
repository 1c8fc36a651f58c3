//! `pgleap journal`: every record, as lines or as JSON lines.

use pgleap_saga::{Record, RecordKind};

use crate::{
    args,
    errors::CommandError,
    exit::Exit,
    out::{Out, Paint},
    site::Site,
};

pub(super) fn run(args: &args::Journal, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let journal = site.read_begun()?;
    let records = journal.records(args.after)?;
    let wanted = records.iter().filter(|record| args.plan.as_ref().is_none_or(|plan| *plan == record.plan));
    for record in wanted {
        match out.is_json() {
            true => out.json(record),
            false => out.data(&line(record, out.data_paint())),
        }
    }
    Ok(Exit::Done)
}

fn line(record: &Record, paint: Paint) -> String {
    let at = record.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
    let kind = format!("{:<18}", record.kind.as_str());
    let kind = match record.kind {
        RecordKind::Failed | RecordKind::UndoFailed => paint.red(&kind),
        RecordKind::Succeeded | RecordKind::PlanClosed => paint.green(&kind),
        RecordKind::Warning | RecordKind::DirectionChanged | RecordKind::Undone => paint.yellow(&kind),
        _ => kind,
    };
    let subject = record.step.as_deref().unwrap_or_default();
    let attempt = if record.attempt > 1 { format!(" attempt {}", record.attempt) } else { String::new() };
    let text = format!("{:>6}  {}  {kind}  {:<14}  {subject}{attempt}", record.n, paint.dim(&at), record.plan);
    format!("{}{}", text.trim_end(), detail(record).map(|d| format!("  {}", paint.dim(&d))).unwrap_or_default())
}

/// Returns what the body says, short enough for a line.
fn detail(record: &Record) -> Option<String> {
    const LONGEST: usize = 160;
    let body = &record.body;
    let text = |name: &str| body.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let message = |name: &str| {
        let error = body.get(name)?;
        let part = |key: &str| error.get(key).and_then(|value| value.as_str());
        Some([part("message")?, part("cause").unwrap_or_default()].join(": ").trim_end_matches(": ").to_owned())
    };
    let found = match record.kind {
        RecordKind::PlanOpened => text("kind"),
        RecordKind::Succeeded => {
            let ms = body.get("ms").map(|ms| format!("{ms} ms")).unwrap_or_default();
            let output = body.get("output").filter(|output| !output.is_null()).map(|output| format!("  {output}"));
            Some(format!("{ms}{}", output.unwrap_or_default()))
        }
        RecordKind::Failed | RecordKind::UndoFailed => message("error"),
        RecordKind::DirectionChanged => message("cause"),
        RecordKind::Stopped => text("reason"),
        RecordKind::Note | RecordKind::Warning => text("text"),
        RecordKind::SectionStarted => Some(format!("{}, {} ms", text("name")?, body.get("budget_ms")?)),
        RecordKind::Approved => {
            let what_for = text("for").map(|what| format!(", {what}")).unwrap_or_default();
            Some(format!("{} by {} (account {}){what_for}", text("gate")?, text("by")?, text("account")?))
        }
        RecordKind::PlanClosed => body.get("outcome")?.get("outcome")?.as_str().map(str::to_owned),
        _ => None,
    };
    found.filter(|text| !text.is_empty()).map(|text| match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    })
}
