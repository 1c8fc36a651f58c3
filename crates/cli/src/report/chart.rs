//! Charts as inline SVG without text: labels are HTML beside them, so that they stay readable on a phone.

use jiff::Timestamp;
use maud::{Markup, html};

use super::model::{Phase, Report, Switchover};
use crate::display::text;

/// Width of a chart's own coordinates; stretched to the page's.
const WIDTH: f64 = 1000.0;
/// A bar that would be narrower is drawn this wide: short is not nothing.
const NARROWEST: f64 = 3.0;

/// A stretch of time, laid out over the chart's width.
struct Axis {
    from_ms: f64,
    span_ms: f64,
}

impl Axis {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
    fn of(from: Timestamp, to: Timestamp) -> Self {
        let (from, to) = (from.as_millisecond() as f64, to.as_millisecond() as f64);
        Self { from_ms: from, span_ms: (to - from).max(1.0) }
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
    fn x(&self, at: Timestamp) -> f64 {
        ((at.as_millisecond() as f64 - self.from_ms) / self.span_ms * WIDTH).clamp(0.0, WIDTH)
    }
}

/// A bar of that place and length, kept inside the chart.
fn place(from: f64, to: f64) -> (f64, f64) {
    let width = (to - from).max(NARROWEST);
    (from.min(WIDTH - width), width)
}

/// Returns a row for each phase, on one axis; pauses of switchovers are marked.
pub(super) fn timeline(report: &Report) -> Markup {
    let (Some(first), Some(last)) = (report.phases.first(), report.phases.last()) else { return html! {} };
    let axis = Axis::of(first.started_at, last.ended_at);
    let pause = |phase: &Phase| -> Option<&Switchover> {
        let plan = phase.plan.as_ref()?;
        report.switchovers.iter().find(|switchover| switchover.plan == *plan)
    };
    html! {
        div class="gantt phases" role="img" aria-label="timeline of phases" {
            @for phase in &report.phases {
                @let (x, width) = place(axis.x(phase.started_at), axis.x(phase.ended_at));
                @let kind = phase.name.split([',', ' ']).next().unwrap_or_default();
                div.label { (phase.name) }
                svg.bar viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true" {
                    line.rail x1="0" y1="10" x2="1000" y2="10" {}
                    rect class={ "fill " (kind) } x=(fixed(x)) y="4" width=(fixed(width)) height="12" {}
                    @if let Some(at) = pause(phase).and_then(|switchover| switchover.paused_at) {
                        @let x = fixed(axis.x(at));
                        line.tick x1=(x) y1="0" x2=(x) y2="20" {}
                    }
                }
                div.value { (text::seconds(phase.seconds)) }
                div.mark {
                    @if let Some(ms) = pause(phase).and_then(|switchover| switchover.write_pause_ms) {
                        "pause " (text::millis(ms))
                    }
                }
            }
            div.label {}
            div.axis {
                span { (clock(first.started_at)) }
                span { (clock(last.ended_at)) }
            }
        }
    }
}

/// Returns what was done inside one write pause, to the millisecond.
pub(super) fn pause(switchover: &Switchover) -> Markup {
    let end = switchover.pause_steps.iter().map(|step| step.from_ms + step.ms).fold(0.0, f64::max).max(1.0);
    html! {
        div.gantt role="img" aria-label="what was done in the write pause" {
            @for step in &switchover.pause_steps {
                @let (x, width) = place(step.from_ms / end * WIDTH, (step.from_ms + step.ms) / end * WIDTH);
                div.label { code { (step.name.split_once('.').map_or(step.name.as_str(), |(_, verb)| verb)) } }
                svg.bar viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true" {
                    line.rail x1="0" y1="10" x2="1000" y2="10" {}
                    rect class="fill switchover" x=(fixed(x)) y="4" width=(fixed(width)) height="12" {}
                }
                div.value { (text::millis(step.ms)) }
            }
            div.label {}
            div.axis { span { "0" } span { (text::millis(end)) } }
            div.value {}
        }
    }
}

/// Returns how far the target was behind, over time.
pub(super) fn lag(report: &Report) -> Markup {
    let (Some(first), Some(last)) = (report.lag.first(), report.lag.last()) else { return html! {} };
    if first.at == last.at {
        return html! {
            p.note { "One sample only: " (bytes(first.lag_bytes)) " behind, at " (clock(first.at)) "." }
        };
    }
    let axis = Axis::of(first.at, last.at);
    let highest = report.lag.iter().map(|lag| lag.lag_bytes).fold(0.0, f64::max);
    let scale = if highest > 0.0 { highest } else { 1.0 };
    let points: Vec<String> = report
        .lag
        .iter()
        .map(|lag| format!("{},{}", fixed(axis.x(lag.at)), fixed(100.0 - lag.lag_bytes / scale * 96.0)))
        .collect();
    let line = points.join(" ");
    html! {
        div.chart role="img" aria-label={ "lag over time, at most " (bytes(highest)) } {
            div.scale { span { (bytes(highest)) } span { "0" } }
            svg viewBox="0 0 1000 101" preserveAspectRatio="none" aria-hidden="true" {
                line.rail x1="0" y1="100" x2="1000" y2="100" {}
                polygon.area points={ "0,100 " (line) " 1000,100" } {}
                polyline.line points=(line) {}
            }
            div {}
            div.axis { span { (clock(first.at)) } span { (clock(last.at)) } }
        }
    }
}

fn fixed(value: f64) -> String {
    format!("{value:.1}")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a lag is a whole number of bytes")]
fn bytes(value: f64) -> String {
    text::bytes(value.max(0.0) as u64)
}

/// Returns the time of day; a report says its zone once.
pub(super) fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}
