//! Proves that both sides held the same rows at the moment of the switchover.

use pgleap_saga::{Observed, Progress, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::{
    gather_poolers::gathering,
    hot::{Hot, HotDatabase, databases as hot_databases},
};
use crate::{
    pg::Side,
    verify::{
        compare::{TableResult, exact},
        converge::{Comparison, compare_all, refuse_differences},
        fingerprint::tables,
    },
    world::{Cx, World},
};

/// Compares every table in the two snapshots that were taken in the pause, while clients write.
pub struct ProveEqual {
    /// The side that served.
    pub from: Side,
}

/// What the proof found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Every table, compared exactly; none if the process that held the snapshots has ended.
    pub comparison: Option<Comparison>,
}

/// Refuses differences that are found when clients have moved already.
fn refuse(comparison: &Comparison, serving: Side) -> Result<(), StepError> {
    refuse_differences(comparison).map_err(|error| StepError {
        hint: Some(format!(
            "clients are served by the {serving}; both clusters keep what they hold, so compare the named tables by hand now: \
             nothing is removed before `pgleap resume` finds them equal"
        )),
        ..error
    })
}

async fn prove(cx: &Cx<'_>, hot: &HotDatabase) -> Result<Vec<TableResult>, StepError> {
    let all = tables(&hot.proof_from, &hot.proof_to, &cx.world.publication()).await?;
    let total = all.len() as u64;
    let mut results = Vec::new();
    for table in &all {
        results.push(exact(&hot.database.name, &hot.proof_from, &hot.proof_to, table).await?);
        cx.progress(Progress {
            text: format!("proving database `{}` equal", hot.database.name),
            done: Some(results.len() as u64),
            total: Some(total),
            unit: "tables",
            ..Progress::default()
        });
    }
    Ok(results)
}

impl Step<World> for ProveEqual {
    type Output = Proven;
    const NAME: StepName = StepName("switchover.prove_equal");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "prove every table equal on both sides, as of the switchover".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Proven>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Proven, StepError> {
        gathering(cx, self.from, self.compare(cx)).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

impl ProveEqual {
    async fn compare(&self, cx: &Cx<'_>) -> Result<Proven, StepError> {
        let Some(Hot { databases, snapshots: true, .. }) = cx.world.hot.lock().await.take() else {
            cx.warn(
                "the switchover's snapshots ended with the process or the server that held them: equality is not proven for that moment; \
                 both sides are compared as they are now",
            );
            let to = self.from.other();
            let comparison = compare_all(cx, to, &hot_databases(cx)?.0).await?;
            refuse(&comparison, to)?;
            return Ok(Proven { comparison: None });
        };
        let mut tables = Vec::new();
        for hot in &databases {
            tables.extend(prove(cx, hot).await?);
        }
        let mut comparison = Comparison { tables };
        comparison.tables.sort_by(|a, b| (&a.database, &a.table).cmp(&(&b.database, &b.table)));
        refuse(&comparison, self.from.other())?;
        cx.note(format!(
            "{} tables, {} rows: equal on both sides at the moment of the switchover",
            comparison.tables.len(),
            comparison.rows()
        ));
        Ok(Proven { comparison: Some(comparison) })
    }
}
