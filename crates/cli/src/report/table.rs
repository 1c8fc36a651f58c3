//! The report's table for a terminal, a mail, or a decision record: what each step cost the clients.

use comfy_table::{CellAlignment, Table, presets};

use super::model::{Phase, Report};
use crate::display::text;

/// The columns.
pub(super) const COLUMNS: [&str; 6] =
    ["Step", "Time", "Longest client stall", "Failed transactions", "Lost writes", "Other remarks"];
/// Where no canary ran, nobody knows.
pub(super) const UNKNOWN: &str = "—";

/// Returns the table as Markdown.
pub fn render(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(COLUMNS);
    for (nth, phase) in report.phases.iter().enumerate() {
        table.add_row(row(nth + 1, phase, report));
    }
    table.add_row(total(report));
    for column in 1..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// Returns a phase's cells.
pub(super) fn row(number: usize, phase: &Phase, report: &Report) -> [String; 6] {
    [
        format!("{number}. {}", phase.name),
        text::seconds(phase.seconds),
        phase.longest_client_stall_ms.map_or(UNKNOWN.into(), text::millis),
        count(phase.failed_transactions),
        // A ledger is audited as a whole: only "none at all" says something of each step.
        if report.lost_writes == Some(0) { "none".into() } else { UNKNOWN.into() },
        if phase.remarks.is_empty() { "none".into() } else { phase.remarks.join("; ") },
    ]
}

/// Returns the cells of all phases together.
pub(super) fn total(report: &Report) -> [String; 6] {
    let seconds = match (report.begun_at, report.ended_at) {
        (Some(from), Some(to)) => text::seconds(to.duration_since(from).as_secs_f64()),
        _ => UNKNOWN.into(),
    };
    let transactions = match (&report.measured, report.transactions) {
        (Some(measured), Some(n)) => {
            let unknown = match measured.unknown_outcomes {
                0 => String::new(),
                n => format!("; {n} of unknown outcome"),
            };
            format!("{} transactions of {}{unknown}", text::count(n), text::plural(measured.clients, "client"))
        }
        _ => "no canary ran".into(),
    };
    [
        "all".into(),
        seconds,
        report.longest_client_stall_ms.map_or(UNKNOWN.into(), text::millis),
        count(report.failed_transactions),
        count(report.lost_writes),
        transactions,
    ]
}

/// Returns `none` for 0, as a person would say.
pub(super) fn count(count: Option<u64>) -> String {
    match count {
        None => UNKNOWN.into(),
        Some(0) => "none".into(),
        Some(n) => text::count(n),
    }
}
