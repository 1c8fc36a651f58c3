//! `pgleap verify`: compares every table's rows on both sides, while writes go on.

use comfy_table::{CellAlignment, Table, presets};
use pgleap_saga::{Cx, EventSink};
use pgleap_upgrade::{
    Standing,
    pg::Side,
    verify::{
        compare::{Status, TableResult},
        converge::{Comparison, compare_all},
    },
};

use crate::{
    display::{Display, text},
    errors::CommandError,
    exit::Exit,
    interrupt,
    out::{Out, Paint, SCHEMA},
    site::{self, Site},
};

pub(super) async fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    let journal = site.read_begun()?;
    let standing = site::standing(&journal)?;
    let from = match &standing {
        Standing::InSync => Side::Source,
        Standing::SwitchedOver => Side::Target,
        other => {
            return Err(CommandError::new(Exit::Usage, "cannot verify now: one side must follow the other")
                .state(other.traffic())
                .hint("`pgleap status` says where the upgrade stands"));
        }
    };
    let id = site::known_id(&journal)?.unwrap_or_default();
    let world = site.world(id).await?;
    let databases = site::source_facts(&world, &journal)?.map(|facts| facts.databases).unwrap_or_default();
    let events = EventSink::new();
    let cx = Cx::standalone(&world, &journal).with_sink(events.clone());
    // Its progress is a story for people; as JSON there is the result alone.
    let display = (!out.is_json()).then(|| Display::start(&events, out));
    let compared = interrupt::unless_interrupted(compare_all(&cx, from, &databases)).await;
    if let Some(display) = display {
        display.finish().await;
    }
    let Some(compared) = compared else {
        return Err(CommandError::new(Exit::Stopped, "stopped on request; nothing is known of the rest")
            .state(standing.traffic())
            .hint("`pgleap verify` begins anew"));
    };
    let comparison = compared.map_err(|error| CommandError::from(error).state(standing.traffic()))?;
    let differs = !comparison.different().is_empty();
    match out.is_json() {
        true => out.json(&serde_json::json!({
            "schema": SCHEMA, "equal": !differs, "rows": comparison.rows(), "tables": comparison.tables
        })),
        false => out.data(&render(&comparison, out.data_paint())),
    }
    Ok(if differs { Exit::Differs } else { Exit::Done })
}

fn render(comparison: &Comparison, paint: Paint) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["database", "table", "rows", "result"]);
    for result in &comparison.tables {
        let rows = text::count(u64::try_from(result.rows).unwrap_or(0));
        table.add_row([result.database.clone(), result.table.clone(), rows, describe(result)]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let (equal, moving) = comparison.counts();
    let different = comparison.different().len();
    let rows = text::count(u64::try_from(comparison.rows()).unwrap_or(0));
    let mut summary = format!("{}, {rows} rows: {equal} equal", text::plural(comparison.tables.len(), "table"));
    if moving > 0 {
        summary.push_str(&format!(", {moving} written to faster than they can be compared"));
    }
    summary.push_str(&match different {
        0 => paint.green(", none different"),
        n => paint.red(&format!(", {n} DIFFERENT")),
    });
    format!("{}\n{summary}", table.trim_fmt())
}

fn describe(result: &TableResult) -> String {
    match &result.status {
        Status::Equal => "equal".to_owned(),
        Status::Moving { parts, of } => format!("moving: {parts} of {of} parts changed meanwhile, the rest is equal"),
        Status::Different { source_rows, target_rows, parts } => {
            format!("DIFFERENT in {parts} parts: {source_rows} rows against {target_rows} there")
        }
    }
}
