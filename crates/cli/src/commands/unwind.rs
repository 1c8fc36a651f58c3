//! `pgleap unwind`: takes the upgrade back before the switchover.

use super::drive::{Verb, drive_begun};
use crate::{errors::CommandError, exit::Exit, out::Out, site::Site};

pub(super) async fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    site.read_begun()?;
    out.confirm(&format!(
        "This removes the target (`{}`) and everything that pgleap made in the source. The source serves throughout.",
        site.config.target.data_dir.display()
    ))?;
    drive_begun(site, out, Verb::Unwind).await
}
