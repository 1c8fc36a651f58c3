//! Asks the copy, before and after pg_upgrade, whether the boundary is where it was meant to be.

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use super::{
    FixBoundary, PrepareDatabases, RecoverCopy,
    boundary::{Verdict, Witness, judge},
    copy::Copy,
};
use crate::{
    pg::{Lsn, Session, Side, decode},
    world::{Cx, World},
};

/// Proves the boundary on the recovered copy. On disagreement the chain ends: the subscription is never enabled.
pub struct ProveCopy;

/// Proves it again on the upgraded target, as pg_upgrade carries the commit log along.
pub struct ProveTarget;

/// What the proof rests on, per database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The database.
    pub database: String,
    /// Transactions around the boundary.
    pub witnesses: Vec<Witness>,
    /// How many of them commit before it.
    pub before: usize,
    /// How many commit at or after it.
    pub after: usize,
}

/// The nearest transactions on each side that are kept: enough for a proof, little enough for a journal.
const NEAREST: usize = 500;

/// The source's next transaction id, with epoch.
const NEXT_XID: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";

/// An id in the copy's future is one that it does not hold; asking for its status would be an error.
const COMMITTED: &str = "
    SELECT CASE WHEN x < pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                THEN coalesce(pg_xact_status(x::text::xid8) = 'committed', false) ELSE false END
      FROM unnest($1::bigint[]) WITH ORDINALITY AS given (x, n) ORDER BY n";

/// Keeps the witnesses nearest to the boundary.
fn nearest(boundary: Lsn, witnesses: Vec<Witness>) -> Vec<Witness> {
    let split = witnesses.iter().position(|witness| witness.commit >= boundary).unwrap_or(witnesses.len());
    let (from, to) = (split.saturating_sub(NEAREST), (split + NEAREST).min(witnesses.len()));
    witnesses[from..to].to_vec()
}

async fn ask(session: &Session, witnesses: &[Witness]) -> Result<Vec<bool>, StepError> {
    let xids: Vec<i64> = witnesses.iter().map(|w| i64::try_from(w.xid).unwrap_or(i64::MAX)).collect();
    Ok(session.query(COMMITTED, &[&xids]).await?.iter().map(|row| row.get(0)).collect())
}

fn refuse(database: &str, boundary: Lsn, where_: &str, verdict: Verdict) -> Result<(usize, usize), StepError> {
    let list = |witnesses: &[Witness]| {
        let some: Vec<_> = witnesses.iter().take(5).map(|w| format!("xid {} at {}", w.xid, w.commit)).collect();
        format!("{} ({})", witnesses.len(), some.join(", "))
    };
    match verdict {
        Verdict::Exact { before, after } => Ok((before, after)),
        Verdict::Wrong { lost, twice } => {
            let mut parts = Vec::new();
            if !lost.is_empty() {
                parts.push(format!("transactions that would be lost: {}", list(&lost)));
            }
            if !twice.is_empty() {
                parts.push(format!("transactions that would be applied twice: {}", list(&twice)));
            }
            Err(StepError::fatal(
                format!("the {where_} of database `{database}` does not end at the boundary {boundary}"),
                "this copy must not be used: it is removed; `pgleap run` makes another",
            )
            .because(parts.join("; ")))
        }
        Verdict::Unproven { before, after } => Err(StepError::blocked(
            format!("the boundary {boundary} cannot be proven in database `{database}`"),
            "`pgleap unwind`, then `pgleap run` makes another copy",
        )
        .because(format!("{before} transactions seen before it and {after} after it; one each is needed"))),
    }
}

impl Step<World> for ProveCopy {
    type Output = Vec<Proof>;
    const NAME: StepName = StepName("provision.prove_copy");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "prove the boundary: the copy holds every transaction before it, and none after it".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Vec<Proof>>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Vec<Proof>, StepError> {
        let world = cx.world;
        let facts = cx.output::<PrepareDatabases>()?;
        let boundary = cx.output::<FixBoundary>()?;
        let recovered = cx.output::<RecoverCopy>()?;
        let copy = Copy::of(world, facts.major(), &facts.bootstrap_superuser)?;
        let mut proofs = Vec::new();
        for database in &facts.databases {
            let source = world.source.db(&database.name).await?;
            let slot = world.stream(Side::Source, database);
            let decoded = decode::peek(&source, &slot, &world.publication(), boundary.seen_until).await?;
            let next: i64 = source.query_one(NEXT_XID, &[]).await?.get(0);
            let next = u64::try_from(next).unwrap_or_default();
            let witnesses =
                decoded.iter().map(|d| Witness { xid: decode::with_epoch(d.xid, next), commit: d.commit }).collect();
            let witnesses = nearest(boundary.lsn, witnesses);
            let answers = ask(&copy.session(world, &database.name).await?, &witnesses).await?;
            let verdict = judge(boundary.lsn, recovered.first_own_xid, &witnesses, &answers);
            let (before, after) = refuse(&database.name, boundary.lsn, "copy", verdict)?;
            proofs.push(Proof { database: database.name.clone(), witnesses, before, after });
        }
        let (before, after) = proofs.iter().fold((0, 0), |(b, a), proof| (b + proof.before, a + proof.after));
        cx.note(format!(
            "the boundary is exact: {before} transactions before it are on the copy, {after} after it are not"
        ));
        Ok(proofs)
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

impl Step<World> for ProveTarget {
    type Output = ();
    const NAME: StepName = StepName("provision.prove_target");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "prove the boundary again on the upgraded target".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        let boundary = cx.output::<FixBoundary>()?.lsn;
        let first_own_xid = cx.output::<RecoverCopy>()?.first_own_xid;
        for proof in cx.output::<ProveCopy>()? {
            let session = cx.world.target.db(&proof.database).await?;
            let answers = ask(&session, &proof.witnesses).await?;
            let verdict = judge(boundary, first_own_xid, &proof.witnesses, &answers);
            refuse(&proof.database, boundary, "target", verdict)?;
        }
        Ok(())
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
