//! The checklists of a change: every point that the founding runbook lists, and what proves it or who signs it.

use pgleap_saga::{PlanState, StepStatus};
use pgleap_upgrade::{
    plan::{Choice, Engine, Facts, Method},
    route::Clients,
};

use super::{
    document::{Item, Proof},
    dossier::{Dossier, Lead},
};
use crate::display::text;

/// What says that a point holds.
enum By {
    /// Steps of a plan of that kind, those of them that are in it; all done in the newest.
    Steps(&'static str, &'static [&'static str]),
    /// A command, where pgleap runs the upgrade.
    Command(&'static str),
    /// A command that makes a copy on this host, whoever runs the upgrade.
    Copy(&'static str),
    /// A person.
    Person(&'static str),
}

/// Which upgrades a point is of.
enum Of {
    /// All.
    Any,
    /// Those by these methods.
    Methods(&'static [Method]),
    /// Those by these methods, if pgleap does not run them.
    ByHand(&'static [Method]),
    /// Those that pgleap runs.
    Pgleap,
    /// Those that pgleap runs, where clients fare so.
    Clients(Clients),
    /// Those that pgleap runs, where clients are led so.
    Lead(Lead),
}

/// A chapter of the checklist: its title, what it is called where nothing follows anything, and its points.
type Chapter = (&'static str, &'static str, &'static [(&'static str, Of, By)]);

const OWNER: &str = "the application's owner";
const ENGINEER: &str = "the engineer";
const LEAD: &str = "the lead of the change";

const BY_STREAM: &[Method] = &[Method::CloneLogical, Method::BlueGreen, Method::SnapshotLogical, Method::LogicalCopy];
const BY_OWN_STREAM: &[Method] = &[Method::CloneLogical, Method::SnapshotLogical, Method::LogicalCopy];
const BY_COPY: &[Method] = &[Method::CloneLogical, Method::SnapshotLogical];
const BY_ROWS: &[Method] = &[Method::LogicalCopy];
const BY_AWS: &[Method] = &[Method::BlueGreen];
const IN_PLACE: &[Method] = &[Method::InPlace];

/// What cannot be known before: filled in from facts in front of these.
const CHAPTERS: [Chapter; 6] = [
    (
        "The week before",
        "The week before",
        &[
            ("nothing blocks the upgrade", Of::Any, By::Command("`pgleap check` ends with 0")),
            (
                "the upgrade was tried on a copy: pg_upgrade, extensions, indexes, a dump and its restore",
                Of::Any,
                By::Copy("`pgleap rehearse --twin` ends with 0"),
            ),
            (
                "the heaviest queries have their plans on the new major, and those that changed were read",
                Of::Any,
                By::Copy("`pgleap rehearse --twin`, under \"plans\""),
            ),
            (
                "a switchover was rehearsed on this very cluster",
                Of::Pgleap,
                By::Command("`pgleap rehearse`, after `pgleap run`"),
            ),
            ("dashboards and alarms know both clusters", Of::Methods(BY_STREAM), By::Person(ENGINEER)),
            ("the way back, above, was read by everybody who may need it", Of::Any, By::Person(LEAD)),
            ("the team has seen the whole of it once: `pgleap demo`", Of::Pgleap, By::Person(LEAD)),
            (
                "migrations are frozen from the first day until the way back is given up",
                Of::Methods(BY_STREAM),
                By::Person(OWNER),
            ),
        ],
    ),
    (
        "Setting up",
        "Setting up",
        &[
            (
                "publications are created",
                Of::Methods(BY_OWN_STREAM),
                By::Steps("upgrade", &["replicate.create_publications"]),
            ),
            (
                "replication slots are created, before the copy; their positions are kept",
                Of::Methods(BY_COPY),
                By::Steps("upgrade", &["replicate.create_slots"]),
            ),
            (
                "the copy is taken",
                Of::Methods(BY_COPY),
                By::Steps("upgrade", &["provision.base_backup", "provision.adopt_standby"]),
            ),
            (
                "the position up to which the copy holds everything is fixed, and proven transaction by transaction",
                Of::Methods(BY_COPY),
                By::Steps("upgrade", &["provision.fix_boundary", "provision.prove_copy"]),
            ),
            (
                "the copy is upgraded, and the position proven again",
                Of::Methods(BY_COPY),
                By::Steps("upgrade", &["provision.upgrade_copy", "provision.prove_target"]),
            ),
            (
                "subscriptions are created, disabled",
                Of::Methods(BY_COPY),
                By::Steps("upgrade", &["replicate.create_subscriptions"]),
            ),
            (
                "origins are found and advanced to that position",
                Of::Methods(BY_COPY),
                By::Steps("upgrade", &["replicate.advance_origins"]),
            ),
            (
                "subscriptions are enabled",
                Of::Methods(BY_COPY),
                By::Steps("upgrade", &["replicate.enable_subscriptions"]),
            ),
            ("the target has the schema, and roles with their rights", Of::Methods(BY_ROWS), By::Person(ENGINEER)),
            (
                "subscriptions are created, and every table's rows are copied",
                Of::Methods(BY_ROWS),
                By::Person(ENGINEER),
            ),
            ("the deployment is created, and green runs the new major", Of::Methods(BY_AWS), By::Person(ENGINEER)),
            ("the planner has its statistics", Of::Methods(BY_STREAM), By::Steps("upgrade", &["replicate.analyze"])),
            ("pg_upgrade's own check passes", Of::Methods(IN_PLACE), By::Person(ENGINEER)),
            ("how long a restore of the backup takes was measured", Of::Methods(IN_PLACE), By::Person(ENGINEER)),
        ],
    ),
    (
        "While it replicates",
        "Before the day",
        &[
            ("the target has caught up", Of::Methods(BY_STREAM), By::Steps("upgrade", &["replicate.catch_up"])),
            (
                "the lag is looked at every six hours, and keeps shrinking or stays small",
                Of::Methods(BY_STREAM),
                By::Person(ENGINEER),
            ),
            ("replication moves and has no errors", Of::Methods(BY_STREAM), By::Command("`pgleap watch --once`")),
            (
                "WAL kept on the source stays below its budget; after `run` nobody watches it but you",
                Of::Pgleap,
                By::Person(ENGINEER),
            ),
            ("WAL kept on the source by slots is watched", Of::ByHand(BY_STREAM), By::Person(ENGINEER)),
            (
                "every table holds the same rows on both sides",
                Of::Methods(BY_STREAM),
                By::Steps("upgrade", &["verify.compare_tables"]),
            ),
            ("the important queries are as fast on the target", Of::Methods(BY_STREAM), By::Person(OWNER)),
            ("the application works with the new version", Of::Any, By::Person(OWNER)),
            ("this document was read again", Of::Any, By::Person(LEAD)),
            ("those concerned are told when", Of::Any, By::Person(LEAD)),
        ],
    ),
    (
        "Before the switchover",
        "Before the outage",
        &[
            (
                "the target is in sync: a row written on the source arrives within two seconds",
                Of::Methods(BY_STREAM),
                By::Steps("switchover", &["switchover.check_gates"]),
            ),
            ("rows were compared again", Of::Methods(BY_STREAM), By::Command("`pgleap verify` ends with 0")),
            ("what clients will feel is known", Of::Pgleap, By::Command("`pgleap rehearse`")),
            (
                "batch jobs are paused; a long transaction would hold the switchover",
                Of::Methods(BY_STREAM),
                By::Person(OWNER),
            ),
            ("batch jobs are paused", Of::Methods(IN_PLACE), By::Person(OWNER)),
            ("clients that pass the pooler by are known, and told", Of::Lead(Lead::Poolers), By::Person(OWNER)),
            ("clients that the program does not lead are known, and told", Of::Lead(Lead::Program), By::Person(OWNER)),
            ("clients that do not name both servers are known, and told", Of::Lead(Lead::Nothing), By::Person(OWNER)),
            ("clients try again after an error, and were seen to", Of::Clients(Clients::Errors), By::Person(OWNER)),
            ("the time of it is agreed", Of::Any, By::Person(LEAD)),
            ("those needed are there", Of::Any, By::Person(LEAD)),
            ("the way back was read again", Of::Any, By::Person(ENGINEER)),
        ],
    ),
    (
        "The switchover",
        "The outage",
        &[
            (
                "clients wait, on a lease that ends by itself",
                Of::Clients(Clients::Wait),
                By::Steps("switchover", &["switchover.pause_pools"]),
            ),
            (
                "nobody new is let in: clients wait for a connection, on a lease that ends by itself",
                Of::Clients(Clients::Reconnect),
                By::Steps("switchover", &["switchover.pause_pools"]),
            ),
            ("clients are told that they cannot write", Of::ByHand(BY_STREAM), By::Person(ENGINEER)),
            (
                "the source takes no more writes, and that is proven",
                Of::Methods(BY_STREAM),
                By::Steps("switchover", &["switchover.fence", "switchover.carry_over"]),
            ),
            (
                "the last row has arrived, and the sequences are carried over",
                Of::Methods(BY_STREAM),
                By::Steps("switchover", &["switchover.carry_over"]),
            ),
            (
                "the target is opened, and clients are led there: the point of no return",
                Of::Lead(Lead::Poolers),
                By::Steps("switchover", &["switchover.move_clients"]),
            ),
            (
                "the target is opened, and clients are led there: the point of no return",
                Of::Lead(Lead::Program),
                By::Steps("switchover", &["switchover.move_clients"]),
            ),
            (
                "the target is opened, and clients find it by themselves: the point of no return",
                Of::Lead(Lead::Nothing),
                By::Steps("switchover", &["switchover.move_clients"]),
            ),
            (
                "the target is opened, and clients are led there: the point of no return",
                Of::ByHand(BY_STREAM),
                By::Person(ENGINEER),
            ),
            (
                "the source follows the target: the way back is ready",
                Of::Methods(BY_OWN_STREAM),
                By::Steps("switchover", &["switchover.turn_replication", "switchover.confirm_reverse"]),
            ),
            (
                "every pooler leads to the target",
                Of::Lead(Lead::Poolers),
                By::Steps("switchover", &["switchover.gather_poolers"]),
            ),
            (
                "the program leads to the target",
                Of::Lead(Lead::Program),
                By::Steps("switchover", &["switchover.gather_poolers"]),
            ),
            (
                "clients that try the source first see that it is read-only",
                Of::Lead(Lead::Nothing),
                By::Steps("switchover", &["switchover.put_up_signpost"]),
            ),
            ("clients that do not use the pooler have the new address", Of::Lead(Lead::Poolers), By::Person(OWNER)),
            ("clients that the program does not lead have the new address", Of::Lead(Lead::Program), By::Person(OWNER)),
            ("clients that named one server have the new address", Of::Lead(Lead::Nothing), By::Person(OWNER)),
            ("every client has the new address", Of::ByHand(BY_STREAM), By::Person(OWNER)),
            ("a backup is taken: it is the only way back", Of::Methods(IN_PLACE), By::Person(ENGINEER)),
            ("clients are gone, and kept out", Of::Methods(IN_PLACE), By::Person(ENGINEER)),
            ("pg_upgrade ran to its end", Of::Methods(IN_PLACE), By::Person(ENGINEER)),
            ("the planner has its statistics", Of::Methods(IN_PLACE), By::Person(ENGINEER)),
            ("the application is well: errors, latency, throughput", Of::Any, By::Person(OWNER)),
            ("the business's critical flows were tried", Of::Any, By::Person(OWNER)),
        ],
    ),
    (
        "The week after",
        "The week after",
        &[
            (
                "every table was equal at the moment of the switchover",
                Of::Methods(BY_STREAM),
                By::Steps("switchover", &["switchover.prove_equal"]),
            ),
            (
                "no acknowledged write is lost",
                Of::Methods(BY_STREAM),
                By::Command("`pgleap canary --audit` of a ledger kept meanwhile ends with 0"),
            ),
            ("the new cluster is watched: processors, memory, disk, latency", Of::Any, By::Person(ENGINEER)),
            ("the application is watched: errors, latency, throughput", Of::Any, By::Person(OWNER)),
            ("the new cluster has backups, and one was restored", Of::Any, By::Person(ENGINEER)),
            (
                "materialized views are refreshed, and jobs run where they should",
                Of::Methods(BY_STREAM),
                By::Person(OWNER),
            ),
            (
                "the old cluster is kept, following, until nobody wants to go back",
                Of::Methods(BY_OWN_STREAM),
                By::Person(LEAD),
            ),
            ("the way back is given up", Of::Methods(BY_OWN_STREAM), By::Steps("finalize", &[])),
            ("the old cluster is deleted, once nobody looks at it", Of::Methods(BY_AWS), By::Person(LEAD)),
            ("the report is filed", Of::Pgleap, By::Command("`pgleap report`")),
            ("what was learned is written down, and taught", Of::Any, By::Person(LEAD)),
        ],
    ),
];

/// The upgrade that a checklist is of.
struct Case<'a> {
    dossier: &'a Dossier,
    method: Method,
    by_pgleap: bool,
}

/// Returns every chapter with its points. What the journal shows to be done is ticked.
pub(super) fn chapters(dossier: &Dossier, choice: Option<&Choice>) -> Vec<(String, Vec<Item>)> {
    let case = Case {
        dossier,
        method: choice.map_or(Method::CloneLogical, |choice| choice.method),
        by_pgleap: choice.is_none_or(|choice| choice.run_by_pgleap),
    };
    let chapters = CHAPTERS.iter().enumerate().map(|(nth, (title, otherwise, points))| {
        let mut items = match (nth, &dossier.facts) {
            (0, Some(facts)) => known(facts, dossier, choice),
            _ => Vec::new(),
        };
        items.extend(points.iter().filter(|(_, of, _)| case.is(of)).filter_map(|(what, _, by)| case.item(what, by)));
        if nth == 0 {
            items.extend(dossier.about("warning", choice).map(|finding| Item {
                done: false,
                what: format!("looked at, and decided about: {} (`{}`)", finding.message, finding.id),
                proof: Proof::Person(ENGINEER.to_owned()),
            }));
        }
        let title = if case.method.profile().follows { title } else { otherwise };
        ((*title).to_owned(), items)
    });
    chapters.collect()
}

impl Case<'_> {
    fn is(&self, of: &Of) -> bool {
        match of {
            Of::Any => true,
            Of::Methods(methods) => methods.contains(&self.method),
            Of::ByHand(methods) => !self.by_pgleap && methods.contains(&self.method),
            Of::Pgleap => self.by_pgleap,
            Of::Clients(clients) => self.by_pgleap && self.dossier.route.clients == *clients,
            Of::Lead(lead) => self.by_pgleap && self.dossier.lead == *lead,
        }
    }

    /// Returns a point with its proof; none if that is a step which the plan does not have.
    fn item(&self, what: &str, by: &By) -> Option<Item> {
        let own_host = self.dossier.facts.as_ref().is_none_or(|facts| facts.engine == Engine::SelfManaged);
        let (done, proof) = match by {
            By::Person(who) => (false, Proof::Person((*who).to_owned())),
            By::Copy(command) if own_host => (false, Proof::Program((*command).to_owned())),
            // what pgleap does not run, it does not prove
            _ if !self.by_pgleap => (false, Proof::Person(format!("{ENGINEER}, by hand"))),
            By::Command(command) | By::Copy(command) => (false, Proof::Program((*command).to_owned())),
            By::Steps(kind, []) => {
                (is_done(&self.dossier.journal, kind, &[]), Proof::Program(format!("`pgleap {kind}`, in the journal")))
            }
            By::Steps(kind, steps) => {
                let planned = |step: &&str| self.dossier.plans.iter().flat_map(|p| &p.steps).any(|s| s.name == **step);
                let steps: Vec<_> = steps.iter().copied().filter(|step| planned(step)).collect();
                let named: Vec<_> = steps.iter().map(|step| format!("`{step}`")).collect();
                if named.is_empty() {
                    return None;
                }
                let how = format!("{}, in the journal", named.join(", "));
                (is_done(&self.dossier.journal, kind, &steps), Proof::Program(how))
            }
        };
        Some(Item { done, what: what.to_owned(), proof })
    }
}

fn is_done(journal: &[PlanState], kind: &str, steps: &[&str]) -> bool {
    let Some(plan) = journal.iter().rfind(|plan| plan.kind == kind) else { return false };
    if steps.is_empty() {
        return plan.outcome == Some(pgleap_saga::Outcome::Done);
    }
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
    let address = item(true, format!("the address of production is written down: {}", facts.source), "this document");
    if choice.is_some_and(|choice| !choice.follows()) {
        return vec![address];
    }
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
        address,
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
        let alone = text.split("[route]").next().unwrap().to_owned() + "[route]\nkind = \"multi_host\"\n";
        let alone = Config::parse(&alone, Path::new("/")).unwrap();
        let known = [
            ("upgrade", upgrade_plan("u".into(), &config).describe()),
            ("upgrade", upgrade_plan("u".into(), &by_standby).describe()),
            ("switchover", switchover::plan("s".into(), Side::Source, &config).describe()),
            ("switchover", switchover::plan("s".into(), Side::Source, &alone).describe()),
            ("finalize", finalize::plan("f".into()).describe()),
        ];
        for (_, _, points) in &CHAPTERS {
            for (what, _, by) in *points {
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
        let titles: Vec<_> = CHAPTERS.iter().map(|(title, _, _)| *title).collect();
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
        let points: usize = CHAPTERS.iter().map(|(_, _, points)| points.len()).sum();
        assert!(points >= 49, "the founding document has 57, eight of them are answered by facts: {points}");
    }
}
