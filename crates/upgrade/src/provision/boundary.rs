//! The boundary's proof: the copy shares the source's transaction ids, so it can be asked what it holds.
//!
//! Each transaction that the slot would deliver around the boundary has an id and a commit position. The copy must know
//! those that commit before the boundary as committed, and none of the others. Ids that the copy may have handed
//! out itself, after its recovery, prove nothing and count as unknown to it.

use serde::{Deserialize, Serialize};

use crate::pg::Lsn;

/// A transaction of the source near the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Its id, with epoch.
    pub xid: u64,
    /// Where its commit record starts, on the source.
    pub commit: Lsn,
}

/// What the witnesses say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every transaction before the boundary is on the copy, none after it.
    Exact {
        /// Witnesses before the boundary.
        before: usize,
        /// Witnesses at or after it.
        after: usize,
    },
    /// The copy and the boundary disagree.
    Wrong {
        /// Commit before the boundary, and are not on the copy: the stream would not bring them either.
        lost: Vec<Witness>,
        /// Commit at or after the boundary, and are on the copy: the stream would bring them again.
        twice: Vec<Witness>,
    },
    /// There is no witness on one of the two sides.
    Unproven {
        /// Witnesses before the boundary.
        before: usize,
        /// Witnesses at or after it.
        after: usize,
    },
}

/// Judges `witnesses` with the copy's answers: whether it holds each of them as committed.
pub fn judge(boundary: Lsn, first_own_xid: u64, witnesses: &[Witness], committed_on_copy: &[bool]) -> Verdict {
    let (mut before, mut after) = (0, 0);
    let (mut lost, mut twice) = (Vec::new(), Vec::new());
    for (witness, committed) in witnesses.iter().zip(committed_on_copy) {
        let held = *committed && witness.xid < first_own_xid;
        if witness.commit < boundary {
            before += 1;
            if !held {
                lost.push(*witness);
            }
        } else {
            after += 1;
            if held {
                twice.push(*witness);
            }
        }
    }
    if !lost.is_empty() || !twice.is_empty() {
        Verdict::Wrong { lost, twice }
    } else if before == 0 || after == 0 {
        Verdict::Unproven { before, after }
    } else {
        Verdict::Exact { before, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: Lsn = Lsn(1000);

    fn at(xid: u64, commit: u64) -> Witness {
        Witness { xid, commit: Lsn(commit) }
    }

    #[test]
    fn boundary_is_exact_when_the_copy_holds_what_commits_before_it_and_nothing_else() {
        let witnesses = [at(7, 900), at(5, 999), at(6, 1000), at(9, 1001)];
        assert_eq!(judge(B, 10, &witnesses, &[true, true, false, false]), Verdict::Exact { before: 2, after: 2 });
    }

    #[test]
    fn boundary_is_refused_when_a_commit_that_starts_at_it_was_replayed() {
        let witnesses = [at(5, 999), at(6, 1000)];
        let verdict = judge(B, 10, &witnesses, &[true, true]);
        assert_eq!(verdict, Verdict::Wrong { lost: vec![], twice: vec![at(6, 1000)] });
    }

    #[test]
    fn boundary_is_refused_when_a_commit_before_it_is_missing() {
        let witnesses = [at(5, 999), at(6, 1000)];
        let verdict = judge(B, 10, &witnesses, &[false, false]);
        assert_eq!(verdict, Verdict::Wrong { lost: vec![at(5, 999)], twice: vec![] });
    }

    #[test]
    fn ids_that_the_copy_may_have_handed_out_itself_count_as_unknown_to_it() {
        let witnesses = [at(5, 999), at(6, 1000)];
        assert_eq!(judge(B, 6, &witnesses, &[true, true]), Verdict::Exact { before: 1, after: 1 });
        assert_eq!(judge(B, 5, &witnesses, &[true, false]), Verdict::Wrong { lost: vec![at(5, 999)], twice: vec![] });
    }

    #[test]
    fn boundary_without_witnesses_on_both_sides_is_unproven() {
        assert_eq!(judge(B, 10, &[at(5, 999)], &[true]), Verdict::Unproven { before: 1, after: 0 });
        assert_eq!(judge(B, 10, &[], &[]), Verdict::Unproven { before: 0, after: 0 });
    }
}
