//! `pgleap switchover`: moves writes to the target.

use super::{
    drive::{Verb, drive_begun},
    rehearse,
};
use crate::{display::text, errors::CommandError, exit::Exit, out::Out, site::Site};

pub(super) async fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    let foretold =
        rehearse::quote(&site.read_begun()?).unwrap_or_else(|| "not rehearsed: `pgleap rehearse`".to_owned());
    let budget = text::seconds(site.config.budgets.write_pause.as_secs_f64());
    out.confirm(&format!(
        "This moves writes from the source to the target. Clients wait at the pooler for at most {budget}; if the target\n\
         cannot be opened by then, they go on at the source. Afterwards the source follows, and `pgleap rollback` goes back.\n\
         Foretold: {foretold}"
    ))?;
    drive_begun(site, out, Verb::Switchover).await
}
