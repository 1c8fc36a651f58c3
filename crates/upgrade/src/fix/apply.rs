//! Changes the source as a finding's remedy says.

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName, fault_point};

use super::{Present, SavePresent, Sessions, save_present::read, setting, trigger::Firing};
use crate::{
    pg::{PgError, Session},
    preflight::Fix,
    world::{Cx, World},
};

/// Applies every change of a remedy, one by one; each is looked at before, so that a second attempt goes on with the rest.
pub struct Apply {
    /// The finding.
    pub finding: String,
    /// The changes.
    pub fixes: Vec<Fix>,
}

impl Step<World> for Apply {
    type Output = ();
    const NAME: StepName = StepName("fix.apply");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Undo;

    fn summary(&self) -> String {
        let count = match self.fixes.len() {
            1 => "1 change".to_owned(),
            n => format!("{n} changes"),
        };
        format!("apply the remedy of `{}` to the source: {count}", self.finding)
    }

    async fn probe(&self, cx: &Cx<'_>) -> Result<Observed<()>, StepError> {
        let mut sessions = Sessions::new(cx);
        let mut done = 0;
        for fix in &self.fixes {
            let session = sessions.of(fix).await?;
            done += usize::from(holds(session, fix, &read(session, fix).await?).await?);
        }
        Ok(match done {
            0 => Observed::Absent,
            n if n == self.fixes.len() => Observed::Done(()),
            n => Observed::Partial(format!("{n} of {} changes are made", self.fixes.len())),
        })
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let mut sessions = Sessions::new(cx);
        for (done, fix) in self.fixes.iter().enumerate() {
            let session = sessions.of(fix).await?;
            let present = read(session, fix).await?;
            if holds(session, fix, &present).await? {
                continue;
            }
            match (fix, present) {
                (_, Present::Gone) => cx.note(format!("what was to be changed is gone: {}", fix.sql())),
                (Fix::Setting { name, value, restart, .. }, _) => {
                    setting::change(session, name, value, *restart).await?
                }
                (Fix::ReplicaIdentity { .. } | Fix::Trigger { .. }, _) => session.batch(&fix.sql()).await?,
            }
            fault_point!("fix.apply.between");
            if self.fixes.len() > 1 {
                cx.progress(Progress {
                    text: fix.sql(),
                    done: u64::try_from(done + 1).ok(),
                    total: u64::try_from(self.fixes.len()).ok(),
                    unit: "changes",
                    ..Progress::default()
                });
            }
        }
        Ok(())
    }

    async fn undo(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let Some(before) = cx.try_output::<SavePresent>()? else { return Ok(()) };
        let mut sessions = Sessions::new(cx);
        for (fix, before) in self.fixes.iter().zip(before).rev() {
            let session = sessions.of(fix).await?;
            let mut words = Vec::new();
            match (fix, before) {
                (Fix::ReplicaIdentity { index, .. }, Present::Identity(identity)) => {
                    words.extend(identity.put_back(session, index.as_deref()).await?);
                }
                (Fix::Trigger { mode, .. }, Present::Triggers { firing }) => {
                    let made_since = Firing::made_since(session, &firing).await?;
                    for trigger in firing.into_iter().chain(made_since) {
                        words.extend(trigger.put_back(session, *mode).await?);
                    }
                }
                (Fix::Setting { name, value, .. }, Present::Setting { value: before }) => {
                    words.extend(setting::put_back(session, name, value, before.as_deref()).await?);
                }
                // there was nothing to change
                _ => {}
            }
            words.into_iter().for_each(|word| cx.warn(word));
        }
        Ok(())
    }
}

/// Whether the source has what the fix makes.
async fn holds(session: &Session, fix: &Fix, present: &Present) -> Result<bool, PgError> {
    Ok(match (fix, present) {
        (Fix::ReplicaIdentity { index, .. }, Present::Identity(identity)) => identity.is(index.as_deref()),
        (Fix::Trigger { mode, .. }, Present::Triggers { firing }) => {
            firing.first().is_some_and(|trigger| trigger.is(*mode))
        }
        (Fix::Setting { name, value, restart, .. }, _) => setting::holds(session, name, value, *restart).await?,
        (_, Present::Gone) => true,
        _ => false,
    })
}
