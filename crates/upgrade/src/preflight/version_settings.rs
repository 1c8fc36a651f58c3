//! Settings that the next major refuses, does not have, or gives another default.

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, blocker, note},
    finding::{counted, has, listed},
    rules::{self, Rule},
    source::{Given, Source, in_files},
};
use crate::world::World;

/// Settings in force, and whether somebody gave them a value.
const IN_FORCE: &str = "SELECT name, setting, source::text FROM pg_catalog.pg_settings ORDER BY name";

pub(super) const ABOUT: About = About {
    check: "version_settings",
    topic: Topic::Versions,
    reads: "settings in files, of roles and of databases against the rules between the two majors",
    why: "A setting of a role or a database that the new major does not know fails the restore, in the middle of pg_upgrade. \
          One in a file is left out of the target's. Defaults that change are carried by nobody. The rules are data, each with \
          the release notes that say so: the last chapter of `docs/checks.md`.",
    findings: &[
        blocker("setting.refused", Applied::ByHand("what it was set for is not known here.")),
        note("setting.not_carried", Applied::ByHand("nothing has to be done.")),
        note("setting.default_changes", Applied::ByHand("which default is better is the operator's to say.")),
    ],
};

/// A setting in force.
struct InForce {
    name: String,
    value: String,
    is_default: bool,
}

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let target = world.config.target.version;
    let in_force = source.session.query(IN_FORCE, &[]).await?;
    // what pgleap's own session is given hides what everybody else has
    let own = in_force.iter().filter(|row| row.get::<_, &str>(2) == "client").map(|row| row.get(0)).collect();
    let own = in_files(&source.session, own).await;
    let read = |row: &tokio_postgres::Row| {
        let (name, value, given): (String, Option<String>, &str) = (row.get(0), row.get(1), row.get(2));
        let value = own.get(&name).cloned().unwrap_or(value);
        let is_default = given == "default" || own.get(&name).is_some_and(Option::is_none);
        InForce { name, value: value.unwrap_or_default(), is_default }
    };
    let in_force: Vec<_> = in_force.iter().map(read).collect();
    let rules: Vec<_> = rules::between(source.major(), target).collect();
    let mut findings = Vec::new();
    for rule in &rules {
        findings.extend(refused(rule, &source.given, &in_force, target));
    }
    findings.extend(left_out(&rules, &in_force, target));
    // what the operator gave the target has no default
    let given = |name: &str| world.config.target.settings.iter().any(|(given, _)| given == name);
    findings.extend(defaults(&rules, &in_force, target, given));
    Ok(findings)
}

/// Settings that stop the upgrade: of roles and databases, which pg_upgrade restores by statements that must be understood, and
/// values in a file that the target would not start with.
fn refused(rule: &Rule, own: &[Given], in_force: &[InForce], target: u16) -> Option<Finding> {
    let bad_value = |name: &str, value: &str| {
        rule.values.get(name).is_some_and(|values| values.iter().any(|bad| bad.eq_ignore_ascii_case(value)))
    };
    let mut names = Vec::new();
    let mut remedy = Vec::new();
    for own in own.iter().filter(|own| rule.settings.contains(&own.name) || bad_value(&own.name, &own.value)) {
        let owner = own.owner();
        names.push(format!("{} = {} of {owner}", own.name, own.value));
        remedy.push(format!("ALTER {owner} RESET {};", own.name));
    }
    for setting in in_force.iter().filter(|setting| !setting.is_default && bad_value(&setting.name, &setting.value)) {
        names.push(format!("{} = {}", setting.name, setting.value));
        remedy.push(format!(
            "ALTER SYSTEM RESET {0}; SELECT pg_reload_conf();  -- and out of postgresql.conf",
            setting.name
        ));
    }
    if names.is_empty() {
        return None;
    }
    let message = format!("PostgreSQL {target} refuses {}: {}", counted(names.len(), "setting"), listed(&names));
    let finding = Finding::blocker("setting.refused", message).because(format!("{} ({})", rule.why, rule.source));
    Some(finding.number("rule", rule.id.as_str()).objects(names).fix(remedy.join("\n")))
}

/// Settings in a file that the target is not given.
fn left_out(rules: &[&Rule], in_force: &[InForce], target: u16) -> Option<Finding> {
    let gone = |name: &String| rules.iter().find(|rule| rule.settings.contains(name));
    let set = in_force.iter().filter(|setting| !setting.is_default);
    let found: Vec<_> = set.filter_map(|setting| Some((&setting.name, gone(&setting.name)?))).collect();
    let (names, rules): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    if names.is_empty() {
        return None;
    }
    let message = format!(
        "{} of the source's files are not in PostgreSQL {target}: {}",
        counted(names.len(), "setting"),
        listed(&names)
    );
    let mut why: Vec<&str> = rules.iter().map(|rule: &&&Rule| rule.why.as_str()).collect();
    why.dedup();
    let ids: Vec<_> = rules.iter().map(|rule| rule.id.clone()).collect();
    let finding = Finding::note("setting.not_carried", message).because(why.join("; ")).number("rules", ids);
    Some(finding.objects(names.into_iter().cloned()))
}

/// Settings that nobody gave a value, whose default changes.
fn defaults(rules: &[&Rule], in_force: &[InForce], target: u16, given: impl Fn(&str) -> bool) -> Option<Finding> {
    let alone = |name: &str| in_force.iter().any(|setting| setting.is_default && setting.name == name) && !given(name);
    let of_defaults = rules.iter().filter_map(|rule| Some((rule, rule.default.as_ref()?)));
    let (rules, found): (Vec<_>, Vec<_>) = of_defaults.filter(|(_, default)| alone(&default.setting)).unzip();
    if found.is_empty() {
        return None;
    }
    let changes: Vec<_> = found.iter().map(|d| format!("{} {} → {}", d.setting, d.was, d.is)).collect();
    let (count, have) = (counted(found.len(), "setting"), has(found.len()));
    let message = format!(
        "{count} that the source leaves alone {have} another default in PostgreSQL {target}: {}",
        listed(&changes)
    );
    let keep: Vec<_> = found.iter().map(|d| format!("{} = \"{}\"", d.setting, d.was)).collect();
    Some(
        Finding::note("setting.default_changes", message)
            .because("what the source sets by itself is carried to the target, a default is not")
            .number("rules", rules.iter().map(|rule: &&&Rule| rule.id.clone()).collect::<Vec<_>>())
            .objects(found.iter().map(|d| d.setting.clone()))
            .fix(format!("settings = {{ {} }}  # under [target]: to keep some, or all", keep.join(", "))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(name: &str, value: &str, is_default: bool) -> InForce {
        InForce { name: name.into(), value: value.into(), is_default }
    }

    fn rule(id: &str) -> &'static Rule {
        rules::all().iter().find(|rule| rule.id == id).unwrap()
    }

    #[test]
    fn setting_of_a_role_or_a_database_that_is_gone_stops_the_upgrade() {
        let own = |role: Option<&str>, database: Option<&str>| Given {
            name: "force_parallel_mode".into(),
            value: "on".into(),
            role: role.map(str::to_owned),
            database: database.map(str::to_owned),
        };
        let all = [own(Some("a"), None), own(None, Some("B")), own(Some("a"), Some("B")), own(None, None)];
        let finding = refused(rule("settings_renamed_16"), &all, &[], 18).unwrap();
        assert_eq!(
            finding.remedy.unwrap(),
            "ALTER ROLE \"a\" RESET force_parallel_mode;\nALTER DATABASE \"B\" RESET force_parallel_mode;\n\
             ALTER ROLE \"a\" IN DATABASE \"B\" RESET force_parallel_mode;\nALTER ROLE ALL RESET force_parallel_mode;"
        );
        assert!(refused(rule("settings_gone_17"), &all, &[], 18).is_none());
    }

    #[test]
    fn value_that_is_refused_stops_the_upgrade_wherever_it_is_given() {
        let off = [in_force("standard_conforming_strings", "off", false)];
        let on = [in_force("standard_conforming_strings", "on", false)];
        let rule = rule("standard_conforming_strings_off");
        assert!(refused(rule, &[], &off, 19).is_some());
        assert!(refused(rule, &[], &on, 19).is_none());
    }

    #[test]
    fn setting_in_a_file_that_is_gone_is_only_left_out() {
        let rules = [rule("settings_gone_17")];
        let given = [in_force("old_snapshot_threshold", "60", false)];
        assert_eq!(left_out(&rules, &given, 17).unwrap().objects, ["old_snapshot_threshold"]);
        let alone = [in_force("old_snapshot_threshold", "-1", true)];
        assert_eq!(left_out(&rules, &alone, 17), None);
    }

    #[test]
    fn defaults_are_told_where_nobody_gave_a_value() {
        let rules = [rule("default_jit"), rule("default_toast_compression")];
        let settings = [in_force("jit", "on", true), in_force("default_toast_compression", "pglz", false)];
        let finding = defaults(&rules, &settings, 19, |_| false).unwrap();
        assert_eq!(
            finding.message,
            "1 setting that the source leaves alone has another default in PostgreSQL 19: `jit on → off`"
        );
        assert_eq!(defaults(&rules, &settings, 19, |name| name == "jit"), None, "the operator gave one");
    }
}
