//! What a twin told.

use std::collections::BTreeSet;

use jiff::Timestamp;
use pgleap_saga::{PlanState, Record, RecordKind, Step, StepError, StepStatus};
use serde::{Deserialize, Serialize};

use super::{
    CheckIndexes, Checked, CollectStatements, CompareStatistics, Difference, ExplainAfter, ExplainBefore, Lacking,
    QueryPlan, RestoreSchema, Statement, explain::Explained,
};
use crate::{
    provision::UpdateExtensions,
    world::{Cx, World},
};

/// What a twin told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When it was.
    pub at: Timestamp,
    /// How long each step took.
    pub stages: Vec<Stage>,
    /// Extensions that were updated, as `database.name old new`.
    pub extensions: Vec<String>,
    /// Extensions that could not be updated, and why.
    #[serde(default)]
    pub stay: Vec<String>,
    /// What a twin cannot tell, as it is not made as the target is.
    #[serde(default)]
    pub untold: Vec<String>,
    /// What amcheck said.
    pub indexes: Checked,
    /// Statistics that the source has and the upgraded copy lacks, by table.
    pub statistics: Vec<Lacking>,
    /// What could not be restored.
    pub restore: Vec<String>,
    /// How many statements have the same plan, within the factor.
    pub same: usize,
    /// Those that have another, the heaviest first.
    pub changed: Vec<Changed>,
    /// Those that could be explained before the upgrade, and not after it.
    pub broken: Vec<Unexplained>,
    /// Those that could not be explained at all.
    pub unexplained: Vec<Unexplained>,
    /// Indexes that some of these statements used, and none uses any more.
    pub unused: Vec<String>,
    /// Why there are no statements.
    pub missing: Option<String>,
}

/// One step's time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The step.
    pub step: String,
    /// How long it took.
    pub seconds: f64,
}

/// A statement whose plan changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The statement.
    pub statement: Statement,
    /// Where it was explained.
    pub database: String,
    /// How.
    pub how: Difference,
    /// The plan before.
    pub before: QueryPlan,
    /// The plan now.
    pub now: QueryPlan,
}

/// A statement without a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unexplained {
    /// The statement.
    pub statement: Statement,
    /// What the server said.
    pub why: String,
}

impl Report {
    /// Whether something is wrong that no tuning mends: a damaged index, a schema that cannot be restored, a statement that
    /// fails.
    pub fn is_wrong(&self) -> bool {
        !(self.indexes.wrong.is_empty() && self.restore.is_empty() && self.broken.is_empty())
    }
}

/// The plans of all statements, compared.
#[derive(Debug, Default)]
struct Compared {
    same: usize,
    changed: Vec<Changed>,
    broken: Vec<Unexplained>,
    unexplained: Vec<Unexplained>,
    unused: Vec<String>,
}

fn compare(statements: &[Statement], before: Vec<Explained>, after: Vec<Explained>, factor: f64) -> Compared {
    let (mut all, mut used, mut uses) = (Compared::default(), BTreeSet::new(), BTreeSet::new());
    for (statement, (before, after)) in statements.iter().zip(before.into_iter().zip(after)) {
        let statement = statement.clone();
        match (before, after) {
            (Ok((database, before)), Ok((_, now))) => {
                used.extend(before.indexes.iter().cloned());
                uses.extend(now.indexes.iter().cloned());
                match before.against(&now, factor) {
                    Some(how) => all.changed.push(Changed { statement, database, how, before, now }),
                    None => all.same += 1,
                }
            }
            (Ok(_), Err(why)) => all.broken.push(Unexplained { statement, why }),
            (Err(why), _) => all.unexplained.push(Unexplained { statement, why }),
        }
    }
    all.unused = used.difference(&uses).cloned().collect();
    all
}

/// Puts together what the steps of a twin wrote down; `factor` is how far cost and rows may differ without being told.
///
/// # Errors
/// If a step has not come that far.
pub fn report(
    cx: &Cx<'_>,
    plan: &PlanState,
    records: &[Record],
    factor: f64,
    untold: Vec<String>,
) -> Result<Report, StepError> {
    let collected = cx.output::<CollectStatements>()?;
    let (before, after) = (cx.output::<ExplainBefore>()?.0, cx.output::<ExplainAfter>()?.0);
    let compared = compare(&collected.statements, before, after, factor);
    let done = plan.steps.iter().filter(|step| step.status == StepStatus::Done);
    let stage = |step: &pgleap_saga::StepState| {
        let took = step.ended_at?.duration_since(step.started_at?);
        Some(Stage { step: step.name.clone(), seconds: took.as_secs_f64() })
    };
    let is_of_extensions = |record: &&Record| {
        let step = <UpdateExtensions as Step<World>>::NAME.0;
        record.kind == RecordKind::Warning && record.plan == plan.id && record.step.as_deref() == Some(step)
    };
    let text = |record: &Record| Some(record.body.get("text")?.as_str()?.to_owned());
    Ok(Report {
        at: Timestamp::now(),
        stages: done.filter_map(stage).collect(),
        extensions: cx.output::<UpdateExtensions>()?,
        stay: records.iter().filter(is_of_extensions).filter_map(text).collect(),
        untold,
        indexes: cx.output::<CheckIndexes>()?,
        statistics: cx.output::<CompareStatistics>()?,
        restore: cx.output::<RestoreSchema>()?.wrong,
        same: compared.same,
        changed: compared.changed,
        broken: compared.broken,
        unexplained: compared.unexplained,
        unused: compared.unused,
        missing: collected.missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(index: Option<&str>, cost: f64) -> Explained {
        let shape = vec![index.map_or("Seq Scan on t".to_owned(), |index| format!("Index Scan on t by {index}"))];
        let indexes = index.map(str::to_owned).into_iter().collect();
        Ok(("shop".to_owned(), QueryPlan { cost, rows: 1.0, shape, indexes }))
    }

    #[test]
    fn statements_are_sorted_by_what_became_of_their_plans() {
        let statement = |text: &str| Statement { database: None, text: text.to_owned(), ran: None };
        let statements = ["a", "b", "c", "d"].map(statement);
        let no = |why: &str| Err(why.to_owned());
        let before = vec![plan(Some("t_a"), 10.0), plan(Some("t_b"), 10.0), plan(None, 1.0), no("no such table")];
        let after = vec![plan(Some("t_a"), 11.0), plan(None, 90.0), no("no such function"), no("no such table")];
        let all = compare(&statements, before, after, 2.0);
        assert_eq!((all.same, all.changed.len(), all.broken.len(), all.unexplained.len()), (1, 1, 1, 1));
        assert_eq!(all.unused, ["t_b"], "`t_a` is still used");
        assert_eq!(all.broken[0].why, "no such function");
    }
}
