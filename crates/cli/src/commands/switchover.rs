//! `pgleap switchover`: moves writes to the target.

use jiff::{Timestamp, tz::TimeZone};
use pgleap_upgrade::{approvals::Gate, timing::Timing};

use super::{
    approve,
    drive::{Verb, drive_begun},
    rehearse,
};
use crate::{args, display::text, errors::CommandError, exit::Exit, out::Out, site::Site};

pub(super) async fn run(args: &args::Timing, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let journal = site.read_begun()?;
    approve::require(site, Gate::Switchover)?;
    let route = site.config.route.capabilities();
    let foretold = rehearse::quote(&journal, route).unwrap_or_else(|| "not rehearsed: `pgleap rehearse`".to_owned());
    let seen = route.told();
    let budget = text::seconds(site.config.budgets.write_pause.as_secs_f64());
    let timing = timing(args)?;
    out.confirm(&format!(
        "This moves writes from the source to the target. For at most {budget} {seen}; if the target\n\
         cannot be opened by then, they go on at the source. Afterwards the source follows, and `pgleap rollback` goes back.\n\
         Foretold: {foretold}{}",
        when(&timing)
    ))?;
    drive_begun(site, out, Verb::Switchover(timing)).await
}

/// Reads what the command line says about the time of a switchover.
pub(super) fn timing(args: &args::Timing) -> Result<Timing, CommandError> {
    let postpone_file = args.postpone_file.as_ref().map(std::path::absolute).transpose();
    Ok(Timing {
        at: args.at,
        quiet_within: args.when_quiet.then_some(args.within),
        postpone_file: postpone_file.map_err(|error| CommandError::of(Exit::Usage, &error))?,
        attempts: args.attempts,
    })
}

/// Says when it begins, in lines that each begin anew; empty if that is at once.
pub(super) fn when(timing: &Timing) -> String {
    let mut lines = String::new();
    if let Some(at) = timing.at {
        let left = text::seconds(at.duration_since(Timestamp::now()).as_secs_f64());
        let at = at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z");
        lines.push_str(&format!("\nIt begins at {at}, in {left}."));
    }
    if let Some(within) = timing.quiet_within {
        let within = text::seconds(within.as_secs_f64());
        lines.push_str(&format!("\nIt begins in a quiet moment; if none comes within {within}, not at all."));
    }
    if let Some(file) = &timing.postpone_file {
        lines.push_str(&format!("\nThe pause begins when everything is ready and `{}` is removed.", file.display()));
    }
    if let Some(attempts) = timing.attempts.filter(|attempts| *attempts > 1) {
        lines.push_str(&format!("\nIt is tried up to {attempts} times."));
    }
    lines
}
