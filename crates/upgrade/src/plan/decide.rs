//! Which method: what bars each, what must be done first, what it gives; then one is recommended. Data and a pure function.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::{
    cost::{Cost, Prices, cost},
    facts::{Engine, Facts, SavedFinding},
    methods::{BLUE_GREEN_FROM, BOUNDARY_FROM, Effort, Method, Storage, at_least},
    settings,
    time::{Basis, Interval, Pause, Stage, pause, stages, total, work},
};
use crate::config::Planning;

/// What a rule does to a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// It cannot be done so here.
    Bars,
    /// It can, once something is done.
    First,
    /// It can, and somebody should know.
    Mind,
}

/// A rule: for these methods, if it has something to say.
struct Rule {
    of: &'static [Method],
    weight: Weight,
    says: fn(&Facts, &Planning) -> Option<String>,
}

use Method::{BlueGreen, CloneLogical, InPlace, LogicalCopy, SnapshotLogical};

const BY_STREAM: &[Method] = &[CloneLogical, BlueGreen, SnapshotLogical, LogicalCopy];
const BY_OWN_STREAM: &[Method] = &[CloneLogical, SnapshotLogical, LogicalCopy];

fn counted(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// Every rule. Facts about AWS are from its manuals; docs/plan.md names the pages.
const RULES: &[Rule] = &[
    Rule {
        of: &Method::ALL,
        weight: Weight::Bars,
        says: |f, _| f.in_recovery.then(|| "the source follows another server: plan from its primary".into()),
    },
    Rule {
        of: &Method::ALL,
        weight: Weight::Bars,
        says: |f, _| {
            (f.target_major <= f.major()).then(|| format!("{} is not newer than {}", f.target_major, f.major()))
        },
    },
    Rule {
        of: BY_STREAM,
        weight: Weight::Bars,
        says: |f, _| (f.major() < 10).then(|| "logical replication begins with PostgreSQL 10".into()),
    },
    Rule {
        of: &[CloneLogical, SnapshotLogical],
        weight: Weight::Bars,
        says: |f, _| (f.engine == Engine::OtherManaged).then(|| "no copy at a known position can be had there".into()),
    },
    Rule {
        of: &[CloneLogical],
        weight: Weight::Bars,
        says: |f, _| (f.engine == Engine::Rds).then(|| "RDS has no clones: its copies are restored snapshots".into()),
    },
    Rule {
        of: &[CloneLogical, SnapshotLogical],
        weight: Weight::Bars,
        says: |f, _| {
            let known = f.has_boundary_function || at_least(&BOUNDARY_FROM, f.major(), f.minor());
            (f.engine == Engine::Aurora && !known).then(|| {
                format!("Aurora {}.{} has no aurora_volume_logical_start_lsn(), so the copy's position is not known: take a newer minor first", f.major(), f.minor())
            })
        },
    },
    Rule {
        of: &[BlueGreen],
        weight: Weight::Bars,
        says: |f, _| (!f.engine.is_aws()).then(|| "it is Amazon's, for RDS and Aurora only".into()),
    },
    Rule {
        of: &[BlueGreen],
        weight: Weight::Bars,
        says: |f, _| {
            let first = BLUE_GREEN_FROM.iter().find(|(major, _)| *major == f.major());
            (!at_least(&BLUE_GREEN_FROM, f.major(), f.minor())).then(|| match first {
                Some((major, minor)) => {
                    format!("it goes to a higher major from {major}.{minor} on, this is {}.{}", f.major(), f.minor())
                }
                None => "it begins with PostgreSQL 11.21".into(),
            })
        },
    },
    Rule {
        of: &[BlueGreen],
        weight: Weight::Bars,
        says: |_, w| w.change_encryption.then(|| "it cannot change whether storage is encrypted".into()),
    },
    Rule {
        of: &[CloneLogical],
        weight: Weight::Bars,
        says: |f, w| {
            (f.engine == Engine::Aurora && w.change_encryption)
                .then(|| "encryption is changed by copying a snapshot: restore that one".into())
        },
    },
    Rule {
        of: &[InPlace],
        weight: Weight::Bars,
        says: |f, w| (f.engine.is_aws() && w.change_encryption).then(|| "it leaves storage as it is".into()),
    },
    Rule {
        of: &[BlueGreen, InPlace],
        weight: Weight::Bars,
        says: |_, w| {
            w.control.then(|| "its steps cannot be held, looked at or repeated one by one (`plan.control`)".into())
        },
    },
    Rule {
        of: &[BlueGreen, InPlace],
        weight: Weight::Bars,
        says: |_, w| {
            (w.way_back == Some(true))
                .then(|| "there is no way back that keeps the writes made after it (`plan.way_back`)".into())
        },
    },
    Rule {
        of: BY_STREAM,
        weight: Weight::First,
        says: |f, _| {
            let how = match f.engine {
                Engine::SelfManaged | Engine::OtherManaged => "`ALTER SYSTEM SET wal_level = logical`, and a restart",
                Engine::Aurora | Engine::Rds => "`rds.logical_replication = 1` in the parameter group, and a reboot",
            };
            (!f.is_logical()).then(|| format!("changes cannot be decoded yet: {how} of the source"))
        },
    },
    Rule {
        of: BY_STREAM,
        weight: Weight::First,
        says: |f, _| {
            let n = f.sum(|d| d.without_identity);
            (n > 0).then(|| {
                format!("{} without replica identity: UPDATE and DELETE on them would fail", counted(n, "table"))
            })
        },
    },
    Rule {
        of: &[BlueGreen],
        weight: Weight::First,
        says: |f, _| {
            let n = f.sum(|d| d.publications + d.subscriptions);
            (n > 0).then(|| {
                format!(
                    "blue may be neither publisher nor subscriber: drop {}",
                    counted(n, "publication or subscription")
                )
            })
        },
    },
    Rule {
        of: BY_OWN_STREAM,
        weight: Weight::First,
        says: |f, _| {
            let changes =
                settings::changes(f).into_iter().filter(|change| change.restart && change.name != "wal_level");
            let changes: Vec<_> = changes.map(|c| format!("{} = {} (is {})", c.name, c.wanted, c.now)).collect();
            (!changes.is_empty()).then(|| format!("{}, and a restart of the source", changes.join(", ")))
        },
    },
    Rule {
        of: &[InPlace],
        weight: Weight::First,
        says: |f, _| {
            let aurora = f.engine.is_aws() && f.slots > 0 && f.major() < 17;
            aurora.then(|| format!("{} must be dropped, idle ones too", counted(f.slots.into(), "slot")))
        },
    },
    Rule {
        of: BY_STREAM,
        weight: Weight::Mind,
        says: |f, _| {
            let n = f.sum(|d| d.large_objects);
            (n > 0).then(|| format!("{}: none that changes after the copy is carried", counted(n, "large object")))
        },
    },
    Rule {
        of: BY_STREAM,
        weight: Weight::Mind,
        says: |f, _| {
            let n = f.sum(|d| d.unlogged_tables);
            (n > 0).then(|| format!("{}: their rows stay behind", counted(n, "unlogged table")))
        },
    },
    Rule {
        of: BY_STREAM,
        weight: Weight::Mind,
        says: |f, _| {
            let n = f.sum(|d| d.materialized_views);
            (n > 0).then(|| format!("{}: to be refreshed on the target", counted(n, "materialized view")))
        },
    },
    Rule {
        of: BY_STREAM,
        weight: Weight::Mind,
        says: |f, _| {
            let n = f.sum(|d| d.partitioned_tables);
            (n > 0).then(|| format!("{}: no partition may be made meanwhile", counted(n, "partitioned table")))
        },
    },
    Rule {
        of: BY_STREAM,
        weight: Weight::Mind,
        says: |f, _| {
            let n = f.sum(|d| d.identity_full);
            (n > 0).then(|| {
                format!(
                    "{} with REPLICA IDENTITY FULL: each change searches the whole table before 16",
                    counted(n, "table")
                )
            })
        },
    },
    Rule { of: BY_STREAM, weight: Weight::Mind, says: |_, _| Some("no DDL until it is over".into()) },
    Rule {
        of: &[LogicalCopy],
        weight: Weight::Mind,
        says: |f, _| {
            (f.cluster_bytes > 200 << 30)
                .then(|| "every row is read and written again, and the slot keeps all WAL meanwhile".into())
        },
    },
    Rule {
        of: &[CloneLogical, SnapshotLogical, LogicalCopy],
        weight: Weight::Mind,
        says: |_, w| w.global_database.then(|| "secondary Regions have to be added to the target by hand".into()),
    },
    Rule {
        of: &[SnapshotLogical],
        weight: Weight::Mind,
        says: |f, _| {
            (f.engine == Engine::SelfManaged).then(|| "the snapshot must hold data and WAL of one moment".into())
        },
    },
    Rule {
        of: &[BlueGreen],
        weight: Weight::Mind,
        says: |f, _| {
            f.engine.is_aws().then(|| "sequences and plans are Amazon's care, proof of every row is yours".into())
        },
    },
    Rule {
        of: &[InPlace],
        weight: Weight::Mind,
        says: |_, _| Some("clients meet a closed door for all of it, and the only way back is a backup".into()),
    },
];

/// Findings of `pgleap check` that concern others than pgleap.
struct Shared {
    /// Whom.
    of: &'static [Method],
    /// They were read from this host's programs: a managed service has its own.
    of_host: bool,
    /// Which.
    ids: &'static [&'static str],
}

/// Every blocker and warning that is not pgleap's alone. The other blockers are of the stream, for which there are rules above,
/// of the poolers, or of the place and the way in which pgleap works. docs/checks.md says of each what it comes from.
const SHARED: &[Shared] = &[
    Shared {
        of: &[CloneLogical, BlueGreen, SnapshotLogical, InPlace],
        of_host: false,
        // blockers: pg_upgrade refuses them, or fails in the middle, whoever runs it
        ids: &[
            "database.closed",
            "prepared_transaction.open",
            "setting.refused",
            "version.cluster_refused",
            "version.expression_fails",
            "version.grant_fails",
            "version.object_refused",
            "collation.changed",
            "collation.moves_rows",
            "version.known_bug",
        ],
    },
    Shared {
        of: &[CloneLogical, SnapshotLogical, InPlace],
        of_host: true,
        ids: &[
            "binaries.incomplete",
            "binaries.missing",
            "collation.no_icu",
            "library.missing",
            "library.preload_missing",
            "extension.no_update_path",
            "extension.not_on_target",
        ],
    },
    Shared {
        of: BY_STREAM,
        of_host: false,
        ids: &[
            "ddl.table_changed",
            "ddl.table_dropped",
            "ddl.table_made",
            "function.needs_search_path",
            "large_object.not_replicated",
            "partition.ends_soon",
            "partition.made_by_job",
            "replica_identity.full_scans",
            "retained_wal.budget_spent_early",
            "retained_wal.exceeds_disk",
            "slot_retention.limited",
            "slot_retention.times_out",
            "trigger.fires_on_apply",
            "unlogged_table.emptied",
        ],
    },
    Shared {
        of: &Method::ALL,
        of_host: false,
        ids: &["version.body_fails", "version.cluster_changes", "version.object_changes", "wraparound.near"],
    },
];

/// Whether a finding is about a method there: all are about what pgleap runs, some about others too.
pub fn concerns(finding: &SavedFinding, method: Method, engine: Engine) -> bool {
    let shared = |shared: &Shared| {
        shared.of.contains(&method)
            && (!shared.of_host || engine == Engine::SelfManaged)
            && shared.ids.contains(&finding.id.as_str())
    };
    method.is_run_by_pgleap(engine) || SHARED.iter().any(shared)
}

/// A method, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Which.
    pub method: Method,
    /// In words.
    pub words: String,
    /// Whether it can be done here, perhaps after something else.
    pub possible: bool,
    /// Why not.
    pub barred_by: Vec<String>,
    /// What must be done before.
    pub first: Vec<String>,
    /// What somebody should know.
    pub mind: Vec<String>,
    /// This pgleap does it; otherwise it is advice.
    pub run_by_pgleap: bool,
    /// How long clients cannot write.
    pub pause: Pause,
    /// Whether that is tolerated.
    pub tolerated: bool,
    /// All stages.
    pub stages: Vec<Stage>,
    /// The work of them, without following and soaking.
    pub work: Interval,
    /// From beginning to end.
    pub total: Interval,
    /// What it costs and needs.
    pub cost: Cost,
    /// What the second cluster takes.
    pub storage: Storage,
    /// How much work it is for a person.
    pub effort: Effort,
    /// The way back before writes are moved.
    pub back_before: String,
    /// The way back after it.
    pub back_after: String,
    /// Whether that keeps the writes.
    pub keeps_writes_on_return: bool,
}

impl Choice {
    /// Whether a target follows the source by it, for which the source's settings have to be right.
    pub fn follows(&self) -> bool {
        self.method.profile().follows
    }
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Every method, the best first; those that cannot be done at the end.
    pub choices: Vec<Choice>,
    /// The best that is possible.
    pub recommended: Option<Method>,
    /// The one that was asked for.
    pub pinned: Option<Method>,
    /// Why the recommended one, and what speaks against the pinned one.
    pub why: Vec<String>,
}

impl Decision {
    /// Returns the one to plan for: the pinned, or else the recommended.
    pub fn chosen(&self) -> Option<&Choice> {
        let method = self.pinned.or(self.recommended)?;
        self.choices.iter().find(|choice| choice.method == method)
    }
}

/// What a decision is made from, beside the facts.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    /// Facts, wishes, speeds.
    pub basis: Basis<'a>,
    /// What is in the way of pgleap.
    pub findings: &'a [SavedFinding],
    /// What things cost.
    pub prices: &'a Prices,
    /// The write budget, in seconds.
    pub write_pause_s: f64,
    /// What a rehearsal foretold: p50 and p99 in milliseconds.
    pub rehearsed: Option<(f64, f64)>,
    /// The method that was asked for.
    pub pinned: Option<Method>,
}

/// Judges every method and recommends one.
pub fn decide(grounds: Grounds<'_>) -> Decision {
    let wishes = grounds.basis.wishes;
    let mut choices: Vec<Choice> = Method::ALL.into_iter().map(|method| judge(method, grounds)).collect();
    choices.sort_by(|a, b| better(a, b, wishes));
    let recommended = choices.first().filter(|choice| choice.possible).map(|choice| choice.method);
    let mut decision = Decision { choices, recommended, pinned: grounds.pinned, why: Vec::new() };
    decision.why = why(&decision, wishes);
    decision
}

fn judge(method: Method, grounds: Grounds<'_>) -> Choice {
    let Basis { facts, wishes, .. } = grounds.basis;
    let said = |weight: Weight| -> Vec<String> {
        let rules = RULES.iter().filter(|rule| rule.weight == weight && rule.of.contains(&method));
        rules.filter_map(|rule| (rule.says)(facts, wishes)).collect()
    };
    let barred_by = said(Weight::Bars);
    let run_by_pgleap = method.is_run_by_pgleap(facts.engine);
    let mut first = said(Weight::First);
    let blockers = grounds.findings.iter().filter(|f| f.is_blocker() && concerns(f, method, facts.engine));
    let blockers: Vec<_> = blockers.map(|finding| format!("{} ({})", finding.message, finding.id)).collect();
    if run_by_pgleap && !blockers.is_empty() {
        // what the preflight found is more exact than the rules about the same
        first.clear();
    }
    first.extend(blockers);
    let pause = pause(method, grounds.basis, grounds.write_pause_s, grounds.rehearsed);
    let stages = stages(method, grounds.basis);
    let profile = method.profile();
    let by_hand = profile.keeps_writes_on_return && !run_by_pgleap;
    Choice {
        method,
        words: method.to_string(),
        possible: barred_by.is_empty(),
        barred_by,
        first,
        mind: said(Weight::Mind),
        run_by_pgleap,
        tolerated: pause.takes.fits(wishes.tolerates.as_secs_f64()),
        pause,
        work: work(&stages),
        total: total(&stages),
        cost: cost(method, facts, wishes, &stages, grounds.prices),
        stages,
        storage: method.storage(facts.engine),
        effort: method.effort(facts.engine, wishes.global_database),
        back_before: profile.back_before.to_owned(),
        back_after: match by_hand {
            true => "reverse replication, if it was set up by hand before the first write".to_owned(),
            false => profile.back_after.to_owned(),
        },
        keeps_writes_on_return: profile.keeps_writes_on_return,
    }
}

/// Orders methods, the better first: possible, tolerated, little work, a way back, little extra, a short pause.
///
/// What is beyond the tolerated pause is told apart by tens: ten minutes too long are not two hours too long.
fn better(a: &Choice, b: &Choice, wishes: &Planning) -> Ordering {
    let pause = |choice: &Choice| choice.pause.takes.high_s.unwrap_or(f64::INFINITY);
    let tolerates = wishes.tolerates.as_secs_f64().max(0.001);
    let beyond =
        |choice: &Choice| if choice.tolerated { 0.0 } else { (pause(choice) / tolerates).log10().ceil().max(1.0) };
    let returns = |choice: &Choice| wishes.way_back != Some(false) && choice.keeps_writes_on_return;
    b.possible
        .cmp(&a.possible)
        .then(beyond(a).total_cmp(&beyond(b)))
        .then(a.effort.cmp(&b.effort))
        .then(returns(b).cmp(&returns(a)))
        .then(a.storage.cmp(&b.storage))
        .then(pause(a).total_cmp(&pause(b)))
        .then(a.total.low_s.total_cmp(&b.total.low_s))
}

fn why(decision: &Decision, wishes: &Planning) -> Vec<String> {
    let mut lines = Vec::new();
    let find = |method| decision.choices.iter().find(|choice| Some(choice.method) == method);
    let Some(best) = find(decision.recommended) else {
        lines.push("none of the methods can be used here; what bars each is below".to_owned());
        return lines;
    };
    if best.run_by_pgleap {
        lines.push("pgleap runs it: each step is journaled, proven and can be taken back".to_owned());
    }
    if best.tolerated {
        lines.push(format!("clients wait for no longer than is tolerated ({:.0} s)", wishes.tolerates.as_secs_f64()));
    } else {
        lines.push(format!(
            "no method is sure to stay within the {:.0} s that are tolerated; it is the nearest",
            wishes.tolerates.as_secs_f64()
        ));
    }
    lines.push(match best.keeps_writes_on_return {
        true => format!("after it the way back is: {}", best.back_after),
        false => format!("mind the way back after it: {}", best.back_after),
    });
    if let Some(next) = decision.choices.get(1).filter(|next| next.possible) {
        lines.push(format!("next best: {}, {}", next.words, against(next, best)));
    }
    if let Some(pinned) = find(decision.pinned).filter(|pinned| pinned.method != best.method) {
        lines.push(match pinned.possible {
            true => format!("{} was asked for: {}", pinned.words, against(pinned, best)),
            false => {
                format!("{} was asked for, and cannot be done here: {}", pinned.words, pinned.barred_by.join("; "))
            }
        });
    }
    lines
}

/// Says in what a method is behind another.
fn against(behind: &Choice, best: &Choice) -> String {
    let mut points = Vec::new();
    if best.tolerated && !behind.tolerated {
        points.push("its pause may be longer than is tolerated");
    }
    if behind.effort > best.effort {
        points.push("it is more work by hand");
    }
    if best.keeps_writes_on_return && !behind.keeps_writes_on_return {
        points.push("it has no way back that keeps writes");
    }
    if behind.storage > best.storage {
        points.push("it takes more storage");
    }
    if points.is_empty() { "with a longer pause".to_owned() } else { points.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::Transfer,
        plan::{facts::tests::ordinary, rates::Rates},
        preflight::Severity,
    };

    fn aurora(version_num: u32) -> Facts {
        let mut facts = Facts { engine: Engine::Aurora, version_num, host: None, target_major: 16, ..ordinary() };
        facts.has_boundary_function = at_least(&BOUNDARY_FROM, facts.major(), facts.minor());
        facts
    }

    fn decided(facts: &Facts, wishes: &Planning, findings: &[SavedFinding]) -> Decision {
        let basis = Basis {
            facts,
            wishes,
            rates: &Rates::default(),
            transfer: Transfer::Auto,
            has_standby: false,
            verify_jobs: 1,
        };
        let prices = Prices::bundled();
        let pinned = wishes.method;
        decide(Grounds { basis, findings, prices: &prices, write_pause_s: 2.0, rehearsed: None, pinned })
    }

    fn choice(decision: &Decision, method: Method) -> &Choice {
        decision.choices.iter().find(|choice| choice.method == method).unwrap()
    }

    /// "Standard upgrade, v11.21+: Blue/Green, under 1 min, low." Holds, with a word on the way back.
    #[test]
    fn matrix_row_standard_upgrade_on_aurora_is_blue_green() {
        for version in [110_021, 140_009, 150_004] {
            let decision = decided(&aurora(version), &Planning::default(), &[]);
            assert_eq!(decision.recommended, Some(BlueGreen), "{version}: {decision:#?}");
            let best = choice(&decision, BlueGreen);
            assert_eq!((best.effort, best.run_by_pgleap), (Effort::Low, false), "advice: pgleap does not run it");
            assert!(best.pause.takes.fits(60.0));
            assert!(decision.why.iter().any(|line| line.contains("mind the way back")), "{:?}", decision.why);
        }
    }

    /// "Need granular control: manual logical replication, under 5 min, high." Its own cutover takes 5 to 10.
    #[test]
    fn matrix_row_granular_control_is_clone_and_logical_replication() {
        let wishes = Planning { control: true, ..Planning::default() };
        let decision = decided(&aurora(150_004), &wishes, &[]);
        assert_eq!(decision.recommended, Some(CloneLogical));
        let best = choice(&decision, CloneLogical);
        assert_eq!(best.effort, Effort::High);
        assert!(best.pause.takes.holds(300.0) && best.pause.takes.fits(600.0), "{:?}", best.pause);
        assert!(!choice(&decision, BlueGreen).possible);
    }

    /// "Old version (below 11.21): manual logical + clone, 5 to 15 min, high." Below 11.15 not even that.
    #[test]
    fn matrix_row_old_version_is_a_clone_while_it_can_tell_its_position() {
        let decision = decided(&aurora(110_020), &Planning::default(), &[]);
        assert_eq!(decision.recommended, Some(CloneLogical));
        assert!(choice(&decision, BlueGreen).barred_by[0].contains("from 11.21 on, this is 11.20"));
        let older = decided(&aurora(110_014), &Planning::default(), &[]);
        assert!(choice(&older, CloneLogical).barred_by[0].contains("aurora_volume_logical_start_lsn"));
        assert_eq!(older.recommended, Some(LogicalCopy), "{older:#?}");
    }

    /// "Can tolerate longer downtime: in place, 30 to 120 min, low."
    #[test]
    fn matrix_row_longer_downtime_is_in_place_if_no_way_back_is_wanted() {
        let tolerates = Duration::from_secs(3 * 3600);
        let wishes = Planning { tolerates, way_back: Some(false), ..Planning::default() };
        let decision = decided(&aurora(150_004), &wishes, &[]);
        assert_eq!(decision.recommended, Some(InPlace), "{:#?}", decision.why);
        let best = choice(&decision, InPlace);
        assert_eq!((best.effort, best.storage), (Effort::Low, Storage::None));
        assert!(best.pause.takes.holds(1800.0), "30 min and more: {:?}", best.pause);
        let ordinary = decided(&aurora(150_004), &Planning::default(), &[]);
        assert!(!choice(&ordinary, InPlace).tolerated);
    }

    /// "Global Database: Blue/Green for Global Database, under 1 min, medium." Supported since late 2025.
    #[test]
    fn matrix_row_global_database_is_blue_green_with_more_work() {
        let wishes = Planning { global_database: true, ..Planning::default() };
        let decision = decided(&aurora(150_004), &wishes, &[]);
        assert_eq!(decision.recommended, Some(BlueGreen));
        assert_eq!(choice(&decision, BlueGreen).effort, Effort::Medium);
        let clone = choice(&decision, CloneLogical);
        assert!(clone.mind.iter().any(|line| line.contains("Regions")), "{:?}", clone.mind);
    }

    /// "Custom requirements (encryption)": neither Blue/Green nor a clone changes it; a copied snapshot does.
    #[test]
    fn change_of_encryption_takes_a_snapshot() {
        let wishes = Planning { change_encryption: true, ..Planning::default() };
        assert_eq!(decided(&aurora(150_004), &wishes, &[]).recommended, Some(SnapshotLogical));
    }

    #[test]
    fn self_managed_cluster_is_cloned_and_pgleap_runs_it() {
        let decision = decided(&ordinary(), &Planning::default(), &[]);
        assert_eq!(decision.recommended, Some(CloneLogical));
        let best = &decision.choices[0];
        assert!(
            best.run_by_pgleap && best.tolerated && best.first.is_empty() && best.effort == Effort::Low,
            "{best:#?}"
        );
        assert!(choice(&decision, BlueGreen).barred_by[0].contains("Amazon"));
        let runs: Vec<_> = decision.choices.iter().filter(|choice| choice.run_by_pgleap).collect();
        assert_eq!(runs.len(), 1, "everything else is advice");
    }

    #[test]
    fn wish_for_a_way_back_bars_what_loses_writes_on_return() {
        let wishes = Planning { way_back: Some(true), ..Planning::default() };
        let decision = decided(&aurora(150_004), &wishes, &[]);
        assert_eq!(decision.recommended, Some(CloneLogical));
        assert!(!choice(&decision, BlueGreen).possible && !choice(&decision, InPlace).possible);
    }

    #[test]
    fn rds_is_restored_from_a_snapshot_where_blue_green_cannot_be_had() {
        let facts = Facts { engine: Engine::Rds, ..aurora(150_003) };
        let decision = decided(&facts, &Planning::default(), &[]);
        assert_eq!(decision.recommended, Some(SnapshotLogical), "{:#?}", decision.why);
        assert!(choice(&decision, CloneLogical).barred_by[0].contains("no clones"));
    }

    #[test]
    fn what_must_be_done_first_is_named_with_its_numbers() {
        let mut facts = aurora(150_004);
        facts.settings.insert("wal_level".into(), "replica".into());
        facts.settings.insert("max_replication_slots".into(), "1".into());
        facts.databases[0].without_identity = 3;
        facts.databases[0].publications = 1;
        facts.databases[0].large_objects = 1;
        let decision = decided(&facts, &Planning::default(), &[]);
        let first = choice(&decision, BlueGreen).first.join("\n");
        for words in ["rds.logical_replication", "3 tables without", "drop 1 publication"] {
            assert!(first.contains(words), "`{words}` is not in {first}");
        }
        assert!(choice(&decision, CloneLogical).first.join("\n").contains("max_replication_slots = 3 (is 1)"));
        assert!(choice(&decision, BlueGreen).mind.iter().any(|line| line.starts_with("1 large object:")));
        assert!(choice(&decision, InPlace).first.is_empty(), "no stream, no conditions of a stream");
    }

    fn blocker(id: &str, message: &str) -> SavedFinding {
        SavedFinding { id: id.into(), severity: "blocker".into(), message: message.into(), remedy: None }
    }

    #[test]
    fn blockers_of_pgleaps_own_way_stand_before_what_pgleap_runs_and_nothing_else() {
        let finding = blocker("disk.too_small", "the copy needs 110 GiB");
        let decision = decided(&ordinary(), &Planning::default(), &[finding]);
        assert_eq!(choice(&decision, CloneLogical).first, ["the copy needs 110 GiB (disk.too_small)"]);
        assert!(choice(&decision, LogicalCopy).first.is_empty() && choice(&decision, InPlace).first.is_empty());
        assert_eq!(decision.recommended, Some(CloneLogical), "it can be done, once that is cured");
    }

    #[test]
    fn what_pg_upgrade_refuses_stands_before_every_method_that_runs_it() {
        let findings =
            [blocker("version.object_refused", "`t.f` is regproc"), blocker("library.missing", "no `$libdir/x`")];
        let [refused, library] = ["`t.f` is regproc (version.object_refused)", "no `$libdir/x` (library.missing)"];
        let decision = decided(&ordinary(), &Planning::default(), &findings);
        for method in [CloneLogical, SnapshotLogical, InPlace] {
            assert_eq!(choice(&decision, method).first, [refused, library], "{method}");
        }
        assert!(choice(&decision, LogicalCopy).first.is_empty(), "rows are sent to a new cluster");
        let decision = decided(&aurora(150_004), &Planning::default(), &findings);
        for method in [CloneLogical, BlueGreen, InPlace] {
            assert_eq!(choice(&decision, method).first, [refused], "{method}: this host's programs are not Amazon's");
        }
        let warning = SavedFinding { severity: "warning".into(), ..findings[0].clone() };
        assert!(choice(&decided(&ordinary(), &Planning::default(), &[warning]), InPlace).first.is_empty());
    }

    #[test]
    fn every_shared_finding_is_one_that_a_check_answers_with_and_not_as_a_note() {
        let abouts = crate::preflight::abouts();
        let known = |id: &str| {
            let kind = abouts.iter().find_map(|about| about.kind(id));
            kind.is_some_and(|kind| kind.severity != Severity::Note)
        };
        for id in SHARED.iter().flat_map(|shared| shared.ids) {
            assert!(known(id), "`{id}` is no blocker or warning of any check");
        }
    }

    #[test]
    fn pinned_method_is_planned_for_and_what_speaks_against_it_is_said() {
        let wishes = Planning { method: Some(InPlace), ..Planning::default() };
        let decision = decided(&ordinary(), &wishes, &[]);
        assert_eq!((decision.recommended, decision.chosen().map(|c| c.method)), (Some(CloneLogical), Some(InPlace)));
        assert!(
            decision.why.iter().any(|line| line.contains("was asked for: ") && line.contains("way back")),
            "{:?}",
            decision.why
        );
        let wishes = Planning { method: Some(BlueGreen), ..Planning::default() };
        assert!(decided(&ordinary(), &wishes, &[]).why.iter().any(|line| line.contains("cannot be done here")));
    }

    #[test]
    fn standby_or_the_same_major_can_be_upgraded_in_no_way() {
        for facts in [Facts { in_recovery: true, ..ordinary() }, Facts { target_major: 15, ..ordinary() }] {
            let decision = decided(&facts, &Planning::default(), &[]);
            assert_eq!(decision.recommended, None);
            assert!(decision.choices.iter().all(|choice| !choice.barred_by.is_empty()));
        }
    }
}
