//! `pgleap unwind`: takes the upgrade back before the switchover.

use pgleap_upgrade::fix;

use super::drive::{Verb, drive_begun};
use crate::{display::text, errors::CommandError, exit::Exit, out::Out, site::Site};

pub(super) async fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    site.read_begun()?;
    let fixes = match fix::applied(&site.read_begun()?.plans()?).len() {
        0 => String::new(),
        n => format!(" {} by `check --fix` {} put back.", text::plural(n, "change"), if n == 1 { "is" } else { "are" }),
    };
    out.confirm(&format!(
        "This removes the target (`{}`) and everything that pgleap made in the source. The source serves throughout.{fixes}",
        site.config.target.data_dir.display()
    ))?;
    drive_begun(site, out, Verb::Unwind).await
}
