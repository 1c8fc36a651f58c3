//! Writes down what the source has, before anything of it is changed.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::{Sessions, identity::Identity, setting, trigger::Firing};
use crate::{
    preflight::Fix,
    world::{Cx, World},
};

/// What the source had, for one fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "present", rename_all = "snake_case")]
pub enum Present {
    /// Of a table.
    Identity(Identity),
    /// Of a trigger, and of those that partitions have of it.
    Triggers {
        /// The trigger itself first.
        firing: Vec<Firing>,
    },
    /// The line of `postgresql.auto.conf`; none without one.
    Setting {
        /// Its value, as the file has it.
        value: Option<String>,
    },
    /// The table or the trigger is gone.
    Gone,
}

/// Reads what [`super::Apply`] will change.
pub struct SavePresent {
    /// What will be changed.
    pub fixes: Vec<Fix>,
}

impl Step<World> for SavePresent {
    type Output = Vec<Present>;
    const NAME: StepName = StepName("fix.save_present");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "write down what the source has now".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Vec<Present>>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Vec<Present>, StepError> {
        let mut sessions = Sessions::new(cx);
        let mut present = Vec::new();
        for fix in &self.fixes {
            let session = sessions.of(fix).await?;
            present.push(read(session, fix).await?);
        }
        Ok(present)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

/// Reads what the source has now.
pub(super) async fn read(session: &crate::pg::Session, fix: &Fix) -> Result<Present, StepError> {
    Ok(match fix {
        Fix::ReplicaIdentity { table, .. } => {
            Identity::named(session, table).await?.map_or(Present::Gone, Present::Identity)
        }
        Fix::Trigger { table, trigger, .. } => match Firing::tree(session, table, trigger).await? {
            firing if firing.is_empty() => Present::Gone,
            firing => Present::Triggers { firing },
        },
        Fix::Setting { name, .. } => Present::Setting { value: setting::in_auto_conf(session, name).await? },
    })
}
