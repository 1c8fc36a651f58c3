//! `pgleap run`: makes the target and brings it in sync.

use pgleap_upgrade::Standing;

use super::{
    check,
    drive::{Verb, drive},
};
use crate::{
    errors::CommandError,
    exit::Exit,
    out::Out,
    site::{self, Site},
};

pub(super) async fn run(site: &Site, out: Out) -> Result<Exit, CommandError> {
    // An earlier run's journal is locked before anything is looked at; a first run leaves no trace until the preflight
    // is clear.
    let earlier = match site.read()? {
        Some(_) => Some(site.write()?),
        None => None,
    };
    let (known, standing) = match &earlier {
        Some(journal) => (site::known_id(journal)?, site::standing(journal)?),
        None => (None, Standing::Nothing),
    };
    let id = known.clone().unwrap_or_else(site::new_id);
    let world = site.world(id.clone()).await?;
    if standing == Standing::Nothing {
        check::before_run(&world, out).await?;
    }
    let journal = match earlier {
        Some(journal) => journal,
        None => site.write()?,
    };
    match site::known_id(&journal)? {
        None => site::keep_id(&journal, &id)?,
        Some(kept) if kept == id => {}
        Some(_) => {
            return Err(CommandError::new(Exit::Usage, "another run began here at the same moment")
                .hint("`pgleap status` says where it stands"));
        }
    }
    drive(&world, &journal, out, Verb::Run).await
}
