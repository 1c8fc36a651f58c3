//! `pgleap resume`: finishes what was interrupted, or takes it back, as the journal says.
//!
//! Asks nothing: what it ends was confirmed when it began, and clients may be waiting.

use super::drive::{Verb, drive_begun};
use crate::{args::Resume, errors::CommandError, exit::Exit, out::Out, second, site::Site};

pub(super) async fn run(args: &Resume, site: &Site, out: Out) -> Result<Exit, CommandError> {
    match args.when_orphaned {
        true => second::stand_by(site, out).await,
        false => drive_begun(site, out, Verb::Resume).await,
    }
}
