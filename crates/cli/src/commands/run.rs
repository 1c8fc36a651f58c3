//! `pgleap run`: makes the target and brings it in sync.

use std::time::Duration;

use futures::future::join;
use pgleap_upgrade::{Standing, approvals::Gate, plan};

use super::{
    approve, check,
    drive::{Verb, drive},
    foretell,
};
use crate::{
    errors::CommandError,
    exit::Exit,
    out::Out,
    site::{self, Site},
};

/// How long rates are measured for what is foretold: as long as the checks take anyway.
const WINDOW: Duration = Duration::from_secs(1);

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
    let mut facts = None;
    if standing == Standing::Nothing {
        approve::require(site, Gate::Run)?;
        let (clear, asked) = join(check::before_run(&world, out), plan::collect(&world, WINDOW)).await;
        clear?;
        facts = asked.ok();
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
    if let Some(facts) = &facts {
        foretell::keep(site, &journal, facts);
    }
    let ended = drive(&world, &journal, out, Verb::Run).await;
    if matches!(ended, Ok(Exit::Done)) && facts.is_some() {
        foretell::learn(site, &journal, out);
    }
    ended
}
