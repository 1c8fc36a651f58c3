//! `pgleap finalize`: gives up the way back.

use super::approve;
use super::drive::{Verb, drive_begun};
use pgleap_upgrade::approvals::Gate;

use crate::{errors::CommandError, exit::Exit, out::Out, site::Site};

pub(super) async fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    site.read_begun()?;
    approve::require(site, Gate::Finalize)?;
    out.confirm(
        "This ends replication to the old cluster: from then on there is no way back to it. Everything that pgleap made is\n\
         removed from both sides; the target goes on serving.",
    )?;
    drive_begun(site, out, Verb::Finalize).await
}
