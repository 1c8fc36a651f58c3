//! The checklists of a change: every point that the founding runbook lists, and what proves it or who signs it.

use pgleap_saga::{PlanState, StepStatus};
use pgleap_upgrade::plan::{Choice, Facts};

use super::{
    document::{Item, Proof},
    dossier::Dossier,
};
use crate::display::text;

/// What says that a point holds.
enum By {
    /// Steps of a plan of that kind; all of them done in the newest.
    Steps(&'static str, &'static [&'static str]),
    /// A command.
    Command(&'static str),
    /// A person.
    Person(&'static str),
}

/// A chapter of the checklist: its title, and its points.
type Chapter = (&'static str, &'static [(&'static str, By)]);

const OWNER: &str = "the application's owner";
const ENGINEER: &str = "the engineer";
const LEAD: &str = "the lead of the change";

/// What cannot be known before: filled in from facts in front of these.
const CHAPTERS: [Chapter; 6] = [
    (
        "The week before",
        &[
            ("nothing blocks the upgrade", By::Command("`pgleap check` ends with 0")),
            (
                "the copy was tried: a switchover rehearsed on this very cluster",
                By::Command("`pgleap rehearse`, after `pgleap run`"),
            ),
            ("dashboards and alarms know both clusters", By::Person(ENGINEER)),
            ("the way back, below, was read by everybody who may need it", By::Person(LEAD)),
            ("the team has seen the whole of it once: `pgleap demo`", By::Person(LEAD)),
            ("migrations are frozen from the first day until `pgleap finalize`", By::Person(OWNER)),
        ],
    ),
    (
        "Setting up",
        &[
            ("publications are created", By::Steps("upgrade", &["replicate.create_publications"])),
            (
                "replication slots are created, before the copy; their positions are in the journal",
                By::Steps("upgrade", &["replicate.create_slots"]),
            ),
            ("the copy is taken", By::Steps("upgrade", &["provision.base_backup", "provision.adopt_standby"])),
            (
                "the position up to which the copy holds everything is fixed, and proven transaction by transaction",
                By::Steps("upgrade", &["provision.fix_boundary", "provision.prove_copy"]),
            ),
            (
                "the copy is upgraded, and the position proven again",
                By::Steps("upgrade", &["provision.upgrade_copy", "provision.prove_target"]),
            ),
            ("subscriptions are created, disabled", By::Steps("upgrade", &["replicate.create_subscriptions"])),
            ("origins are found and advanced to that position", By::Steps("upgrade", &["replicate.advance_origins"])),
            ("subscriptions are enabled", By::Steps("upgrade", &["replicate.enable_subscriptions"])),
            ("the planner has its statistics", By::Steps("upgrade", &["replicate.analyze"])),
        ],
    ),
    (
        "While it replicates",
        &[
            ("the target has caught up", By::Steps("upgrade", &["replicate.catch_up"])),
            ("the lag is looked at every six hours, and keeps shrinking or stays small", By::Person(ENGINEER)),
            ("replication moves and has no errors", By::Command("`pgleap watch --once`")),
            (
                "WAL kept on the source stays below its budget; after `run` nobody watches it but you",
                By::Person(ENGINEER),
            ),
            ("every table holds the same rows on both sides", By::Steps("upgrade", &["verify.compare_tables"])),
            ("the important queries are as fast on the target", By::Person(OWNER)),
            ("the application works with the new version", By::Person(OWNER)),
            ("this document was read again", By::Person(LEAD)),
            ("those concerned are told when", By::Person(LEAD)),
        ],
    ),
    (
        "Before the switchover",
        &[
            (
                "the target is in sync: a row written on the source arrives within two seconds",
                By::Steps("switchover", &["switchover.check_gates"]),
            ),
            ("rows were compared again", By::Command("`pgleap verify` ends with 0")),
            ("what clients will feel is known", By::Command("`pgleap rehearse`")),
            ("batch jobs are paused; a long transaction would hold the switchover", By::Person(OWNER)),
            ("clients that pass the pooler by are known, and told", By::Person(OWNER)),
            ("the time of it is agreed", By::Person(LEAD)),
            ("those needed are there", By::Person(LEAD)),
            ("the way back was read again: `pgleap rollback`", By::Person(ENGINEER)),
        ],
    ),
    (
        "The switchover",
        &[
            ("clients wait, on a lease that ends by itself", By::Steps("switchover", &["switchover.pause_pools"])),
            (
                "the source takes no more writes, and that is proven",
                By::Steps("switchover", &["switchover.fence", "switchover.carry_over"]),
            ),
            (
                "the last row has arrived, and the sequences are carried over",
                By::Steps("switchover", &["switchover.carry_over"]),
            ),
            (
                "the target is opened, and clients are led there: the point of no return",
                By::Steps("switchover", &["switchover.move_clients"]),
            ),
            (
                "the source follows the target: the way back is ready",
                By::Steps("switchover", &["switchover.turn_replication", "switchover.confirm_reverse"]),
            ),
            ("every pooler leads to the target", By::Steps("switchover", &["switchover.gather_poolers"])),
            ("clients that do not use the pooler have the new address", By::Person(OWNER)),
            ("the application is well: errors, latency, throughput", By::Person(OWNER)),
            ("the business's critical flows were tried", By::Person(OWNER)),
        ],
    ),
    (
        "The week after",
        &[
            (
                "every table was equal at the moment of the switchover",
                By::Steps("switchover", &["switchover.prove_equal"]),
            ),
            (
                "no acknowledged write is lost",
                By::Command("`pgleap canary --audit` of a ledger kept meanwhile ends with 0"),
            ),
            ("the new cluster is watched: processors, memory, disk, latency", By::Person(ENGINEER)),
            ("the application is watched: errors, latency, throughput", By::Person(OWNER)),
            ("the new cluster has backups, and one was restored", By::Person(ENGINEER)),
            ("materialized views are refreshed, and jobs run where they should", By::Person(OWNER)),
            ("the old cluster is kept, following, until nobody wants to go back", By::Person(LEAD)),
            ("the way back is given up", By::Steps("finalize", &[])),
            ("the report is filed", By::Command("`pgleap report`")),
            ("what was learned is written down, and taught", By::Person(LEAD)),
        ],
    ),
];

/// Returns every chapter with its points. What the journal shows to be done is ticked.
pub(super) fn chapters(dossier: &Dossier, choice: Option<&Choice>) -> Vec<(String, Vec<Item>)> {
    let by_hand = choice.is_some_and(|choice| !choice.run_by_pgleap);
    let chapters = CHAPTERS.iter().enumerate().map(|(nth, (title, points))| {
        let mut items = match (nth, &dossier.facts) {
            (0, Some(facts)) => known(facts, dossier, choice),
            _ => Vec::new(),
        };
        items.extend(points.iter().map(|(what, by)| item(what, by, &dossier.journal, by_hand)));
        ((*title).to_owned(), items)
    });
    chapters.collect()
}

fn item(what: &str, by: &By, journal: &[PlanState], by_hand: bool) -> Item {
    let (done, proof) = match by {
        By::Person(who) => (false, Proof::Person((*who).to_owned())),
        // what pgleap does not run, it does not prove
        _ if by_hand => (false, Proof::Person(format!("{ENGINEER}, by hand"))),
        By::Command(command) => (false, Proof::Program((*command).to_owned())),
        By::Steps(kind, steps) => {
            let named: Vec<_> = steps.iter().map(|step| format!("`{step}`")).collect();
            let how = match named.as_slice() {
                [] => format!("`pgleap {kind}`, in the journal"),
                named => format!("{}, in the journal", named.join(", ")),
            };
            (is_done(journal, kind, steps), Proof::Program(how))
        }
    };
    Item { done, what: what.to_owned(), proof }
}

fn is_done(journal: &[PlanState], kind: &str, steps: &[&str]) -> bool {
    let Some(plan) = journal.iter().rfind(|plan| plan.kind == kind) else { return false };
    if steps.is_empty() {
        return plan.outcome == Some(pgleap_saga::Outcome::Done);
    }
    // of two ways to have a copy one is in the plan
    let mut of = plan.steps.iter().filter(|step| steps.contains(&step.name.as_str())).peekable();
    of.peek().is_some() && of.all(|step| step.status == StepStatus::Done)
}

/// Points that the facts answer, ticked or not.
fn known(facts: &Facts, dossier: &Dossier, choice: Option<&Choice>) -> Vec<Item> {
    let item = |done: bool, what: String, how: &str| Item { done, what, proof: Proof::Program(how.to_owned()) };
    let missing = facts.sum(|database| database.without_identity);
    let limit = |names: &[&str]| {
        let of = dossier.settings.iter().filter(|setting| names.contains(&setting.change.name.as_str()));
        of.map(|setting| format!(" (`{}` under Settings)", setting.change.name)).collect::<String>()
    };
    let level = facts.settings.get("wal_level").map_or("unknown", String::as_str);
    let slots = limit(&["max_replication_slots", "max_wal_senders", "max_active_replication_origins"]);
    let workers = limit(&["max_logical_replication_workers", "max_worker_processes"]);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
    let per_hour = |rate: f64| text::bytes((rate * 3600.0) as u64);
    let wal = facts.wal.range();
    let catch_up = choice.and_then(|choice| choice.stages.iter().find(|stage| stage.name == "catch up"));
    vec![
        item(facts.is_logical(), format!("logical replication is enabled: `wal_level` is `{level}`"), "`pgleap check`"),
        item(
            missing == 0,
            match missing {
                0 => "every table has a replica identity".to_owned(),
                n => format!("every table has a replica identity: {n} have none"),
            },
            "`pgleap check`",
        ),
        item(slots.is_empty(), format!("slots, senders and origins suffice{slots}"), "`pgleap check`"),
        item(workers.is_empty(), format!("workers suffice for the way back{workers}"), "`pgleap check`"),
        item(
            !dossier.findings.iter().any(|finding| finding.is_blocker() && finding.id.starts_with("role.")),
            "the role that pgleap uses has its rights".to_owned(),
            "`pgleap check`",
        ),
        item(true, format!("the address of production is written down: {}", facts.source), "this document"),
        item(
            wal.is_some(),
            match wal {
                Some((low, high)) => {
                    format!("the rate of WAL was measured: {} to {} an hour", per_hour(low), per_hour(high))
                }
                None => "the rate of WAL was measured".to_owned(),
            },
            "`pgleap plan`",
        ),
        item(
            catch_up.is_some_and(|stage| stage.takes.high_s.is_some()),
            format!(
                "the time to catch up is known: {}",
                catch_up.map_or("not foretold".to_owned(), |stage| super::terminal::interval(stage.takes))
            ),
            "`pgleap plan`",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pgleap_upgrade::{Config, chain::upgrade_plan, finalize, pg::Side, switchover};

    use super::*;

    #[test]
    fn every_step_that_proves_a_point_is_one_that_the_engine_runs() {
        let text = "[source]\ndsn = \"host=h user=u\"\n[target]\nversion = 18\nport = 5434\ndata_dir = \"/d\"\n\
                    [provider]\nkind = \"self_managed\"\n[route]\nkind = \"pgbouncer\"\n\
                    [[route.pgbouncer]]\nadmin = \"host=h user=u\"\nini = \"/i\"\n";
        let config = Config::parse(text, Path::new("/")).unwrap();
        let by_standby = Config::parse(&text.replace("[route]", "standby = \"/s\"\n[route]"), Path::new("/")).unwrap();
        let known = [
            ("upgrade", upgrade_plan("u".into(), &config).describe()),
            ("upgrade", upgrade_plan("u".into(), &by_standby).describe()),
            ("switchover", switchover::plan("s".into(), Side::Source, &config).describe()),
            ("finalize", finalize::plan("f".into()).describe()),
        ];
        for (_, points) in &CHAPTERS {
            for (what, by) in *points {
                let By::Steps(kind, steps) = by else { continue };
                for step in *steps {
                    let found = known.iter().any(|(of, all)| of == kind && all.iter().any(|known| known.name == *step));
                    assert!(found, "`{step}` of `{what}` is in no {kind}");
                }
            }
        }
    }

    #[test]
    fn founding_checklists_are_all_there() {
        let titles: Vec<_> = CHAPTERS.iter().map(|(title, _)| *title).collect();
        assert_eq!(
            titles,
            [
                "The week before",
                "Setting up",
                "While it replicates",
                "Before the switchover",
                "The switchover",
                "The week after"
            ]
        );
        let points: usize = CHAPTERS.iter().map(|(_, points)| points.len()).sum();
        assert!(points >= 49, "the founding document has 57, eight of them are answered by facts: {points}");
    }
}
