//! Who would not wait for as long as a pause may last.

use std::time::Duration;

use pgleap_saga::StepError;

use crate::{
    guard::Ward,
    pg::Side,
    pgbouncer::inspect::{PATIENCE, Unseen},
    readers::address,
    world::World,
};

/// Somebody who gives up before a pause is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impatient {
    /// Who, and after how long.
    pub who: String,
    /// What says so: a setting of the pooler, or of pgleap's configuration.
    pub setting: String,
}

/// Returns who of those that wait in a pause would give up within `longest`: clients that a PgBouncer sends away, and the
/// application as a whole.
///
/// # Errors
/// If a pooler cannot be asked.
pub async fn impatient(world: &World, from: Side, longest: Duration) -> Result<Vec<Impatient>, StepError> {
    let mut found = Vec::new();
    let poolers = world.route.members().iter().filter(|member| matches!(member.ward, Ward::PgBouncer(..)));
    for member in poolers {
        let seen = member.inspect(&address(world.cluster(from))).await.map_err(|unseen| match unseen {
            Unseen::Unreachable(error) | Unseen::Silent(error) => error,
        })?;
        found.extend(PATIENCE.iter().filter_map(|setting| {
            let patience = seen.gives_up(setting, longest)?;
            let who = format!("{} sends waiting clients away after {patience} s (`{setting}`)", member.ward);
            Some(Impatient { who, setting: (*setting).to_owned() })
        }));
    }
    if let Some(timeout) = world.config.budgets.application_timeout.filter(|timeout| *timeout <= longest) {
        let who = format!("the application gives up after {} s", timeout.as_secs_f64());
        found.push(Impatient { who, setting: "budgets.application_timeout".to_owned() });
    }
    Ok(found)
}
