//! `pgleap resume`: finishes what was interrupted, or takes it back, as the journal says.
//!
//! Asks nothing: what it ends was confirmed when it began, and clients may be waiting.

use super::drive::{Verb, drive_begun};
use crate::{errors::CommandError, exit::Exit, out::Out, site::Site};

pub(super) async fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    drive_begun(site, out, Verb::Resume).await
}
