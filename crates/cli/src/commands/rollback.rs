//! `pgleap rollback`: moves writes back to the source, by the same switchover the other way.

use super::{
    drive::{Verb, drive_begun},
    switchover::{timing, when},
};
use crate::{args, display::text, errors::CommandError, exit::Exit, out::Out, site::Site};

pub(super) async fn run(args: &args::Timing, site: &Site, out: Out) -> Result<Exit, CommandError> {
    site.read_begun()?;
    let seen = site.config.route.capabilities().told();
    let budget = text::seconds(site.config.budgets.write_pause.as_secs_f64());
    let timing = timing(args)?;
    out.confirm(&format!(
        "This moves writes from the target back to the source, which has followed it. For at most {budget} {seen};\n\
         if the source cannot be opened by then, they go on at the target.{}",
        when(&timing)
    ))?;
    drive_begun(site, out, Verb::Rollback(timing)).await
}
