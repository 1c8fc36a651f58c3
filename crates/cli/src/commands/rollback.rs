//! `pgleap rollback`: moves writes back to the source, by the same switchover the other way.

use super::drive::{Verb, drive_begun};
use crate::{display::text, errors::CommandError, exit::Exit, out::Out, site::Site};

pub(super) async fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    site.read_begun()?;
    let budget = text::seconds(site.config.budgets.write_pause.as_secs_f64());
    out.confirm(&format!(
        "This moves writes from the target back to the source, which has followed it. Clients wait at the pooler for at\n\
         most {budget}; if the source cannot be opened by then, they go on at the target."
    ))?;
    drive_begun(site, out, Verb::Rollback).await
}
