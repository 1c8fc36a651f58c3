//! `pgleap check --fix` and `--undo`: remedies applied to the source, and taken back.

use pgleap_upgrade::{
    fix::{self, Remedy},
    preflight::{self, About, Applied, Finding, Report},
};

use crate::{
    commands::drive::{Verb, drive_by},
    display::text,
    errors::CommandError,
    exit::Exit,
    out::Out,
    site::{self, Site},
};

/// Stands for every finding.
const ALL: &str = "all";
/// Statements that a confirmation shows.
const SHOWN: usize = 8;

/// Looks, and applies the remedies of these findings.
///
/// # Errors
/// If one of them has none that pgleap can apply, or the source cannot be changed.
pub(super) async fn apply(ids: &[String], site: &Site, out: Out) -> Result<Exit, CommandError> {
    known(ids)?;
    // whoever works on the upgrade now is not disturbed
    let earlier = match site.read()? {
        Some(_) => Some(site.write()?),
        None => None,
    };
    let id = earlier.as_ref().map(site::known_id).transpose()?.flatten();
    let id = id.unwrap_or_else(site::new_id);
    let world = site.world(id.clone()).await?;
    let remedies = chosen(ids, &preflight::check(&world).await)?;
    if remedies.is_empty() {
        out.say("nothing was found that these would remedy\n  state: nothing was changed");
        return Ok(Exit::Done);
    }
    out.confirm(&announcement(&remedies))?;
    let journal = match earlier {
        Some(journal) => journal,
        None => site.write()?,
    };
    if site::known_id(&journal)?.is_none() {
        site::keep_id(&journal, &id)?;
    }
    let ended = drive_by(&world, &journal, out, &Verb::Fix, async |chain| chain.fix(&remedies).await).await?;
    let restart = restarts(&remedies);
    if ended == Exit::Done && !restart.is_empty() {
        out.say(&format!(
            "  {} the source, when it suits: {} took no effect yet. pgleap never restarts a source",
            out.paint().bold("restart"),
            restart.join(", ")
        ));
        let first: Vec<_> =
            remedies.iter().flat_map(|remedy| &remedy.fixes).filter(|fix| fix.needs_standbys_first()).collect();
        if !first.is_empty() {
            let statements: Vec<_> = first.iter().map(|fix| format!("\n    {}", fix.sql())).collect();
            out.say(&format!(
                "  {} on each standby, and restart it: it stops replaying when the source restarts with more than it has{}",
                out.paint().bold("before that"),
                statements.concat()
            ));
        }
    }
    Ok(ended)
}

/// Takes back the remedies of these findings.
///
/// # Errors
/// If none of them was applied, or an upgrade was begun with them.
pub(super) async fn undo(ids: &[String], site: &Site, out: Out) -> Result<Exit, CommandError> {
    known(ids)?;
    let journal = site.write_begun()?;
    let plans = journal.plans()?;
    let wanted = |remedy: &Remedy| ids.iter().any(|id| *id == ALL || *id == remedy.finding);
    let remedies: Vec<_> = fix::applied(&plans).into_iter().filter_map(fix::remedy).filter(wanted).collect();
    if remedies.is_empty() && fix::open(&plans).is_none() {
        return Err(CommandError::new(Exit::Usage, "no such remedy was applied by pgleap, or it was taken back")
            .state("nothing was changed")
            .hint("`pgleap status` lists those that are applied"));
    }
    let names: Vec<_> = remedies.iter().map(|remedy| format!("`{}`", remedy.finding)).collect();
    out.confirm(&format!(
        "This puts back what the source had before the remedies of {}. What was changed since by others is left.",
        names.join(", ")
    ))?;
    let id = site::known_id(&journal)?
        .ok_or_else(|| CommandError::new(Exit::Usage, "nothing was begun here").hint("`pgleap check` looks"))?;
    let world = site.world(id).await?;
    let findings = if ids.iter().any(|id| id == ALL) { Vec::new() } else { ids.to_vec() };
    let ended = drive_by(&world, &journal, out, &Verb::Unfix, async |chain| chain.unfix(&findings).await).await?;
    let restart = restarts(&remedies);
    if ended == Exit::Done && !restart.is_empty() {
        out.say(&format!("  {} goes back with the source's next restart, which is yours", restart.join(", ")));
    }
    Ok(ended)
}

/// Refuses names that no finding has.
fn known(ids: &[String]) -> Result<(), CommandError> {
    let abouts = preflight::abouts();
    let is_known = |id: &&String| *id == ALL || abouts.iter().any(|about: &&About| about.kind(id).is_some());
    match ids.iter().find(|id| !is_known(id)) {
        None => Ok(()),
        Some(id) => Err(CommandError::new(Exit::Usage, format!("no finding is called `{id}`"))
            .state("nothing was contacted")
            .hint("`pgleap check --explain` lists them all")),
    }
}

/// Returns the remedies of what was found, one for each finding's id, in the order of the report.
fn chosen(ids: &[String], report: &Report) -> Result<Vec<Remedy>, CommandError> {
    let all = ids.iter().any(|id| id == ALL);
    let mut remedies: Vec<Remedy> = Vec::new();
    for finding in report.findings.iter().filter(|finding| all || ids.iter().any(|id| id == finding.id)) {
        if finding.fixes.is_empty() {
            if !all {
                return Err(by_hand(finding));
            }
            continue;
        }
        match remedies.iter_mut().find(|remedy| remedy.finding == finding.id) {
            Some(remedy) => remedy.fixes.extend(finding.fixes.iter().cloned()),
            None => remedies.push(Remedy { finding: finding.id.to_owned(), fixes: finding.fixes.clone() }),
        }
    }
    Ok(remedies)
}

fn by_hand(finding: &Finding) -> CommandError {
    let kind = preflight::abouts().into_iter().find_map(|about| about.kind(finding.id));
    let why = match kind.map(|kind| kind.applied) {
        Some(Applied::ByHand(why)) => why,
        _ => "none of what was found has a remedy that is safe to apply.",
    };
    let error = CommandError::new(Exit::Usage, format!("pgleap does not apply the remedy of `{}`", finding.id));
    let error = error.because(why.trim_end_matches('.')).state("nothing was changed");
    match &finding.remedy {
        Some(remedy) => error.hint(format!("do it yourself:\n{remedy}")),
        None => error,
    }
}

/// Returns what is asked before the source is changed: every statement, as far as there are few.
fn announcement(remedies: &[Remedy]) -> String {
    let count: usize = remedies.iter().map(|remedy| remedy.fixes.len()).sum();
    let mut lines =
        vec![format!("This makes {} in the source, which serves throughout:", text::plural(count, "change"))];
    for remedy in remedies {
        lines.push(format!("  {}", remedy.finding));
        for fix in remedy.fixes.iter().take(SHOWN) {
            let place = fix.database().map(|database| format!("  -- in {database}")).unwrap_or_default();
            let restart = match (fix.needs_standbys_first(), fix.needs_restart()) {
                (true, _) => "  -- with your next restart; on each standby first, with its restart",
                (false, true) => "  -- with your next restart",
                (false, false) => "",
            };
            lines.push(format!("    {}{place}{restart}", fix.sql()));
        }
        if remedy.fixes.len() > SHOWN {
            lines.push(format!("    … and {} more", remedy.fixes.len() - SHOWN));
        }
    }
    lines.push("What it has now is written down first; `pgleap check --undo` and `pgleap unwind` put it back.".into());
    lines.join("\n")
}

fn restarts(remedies: &[Remedy]) -> Vec<String> {
    let fixes = remedies.iter().flat_map(|remedy| &remedy.fixes);
    let names = fixes.filter_map(|fix| match fix {
        preflight::Fix::Setting { name, restart: true, .. } => Some(format!("`{name}`")),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use pgleap_upgrade::preflight::Fix;

    use super::*;

    fn identity(table: &str) -> Fix {
        Fix::ReplicaIdentity { database: "app".into(), table: table.into(), index: None }
    }

    #[test]
    fn findings_of_several_databases_are_one_remedy_and_those_by_hand_are_refused_with_the_reason() {
        let missing = |table: &str| Finding::blocker("replica_identity.missing", table).fixes([identity(table)]);
        let paused = Finding::blocker("pooler.paused", "paused").fix("RESUME app;");
        let report = Report::new(vec![missing("public.a"), missing("public.b"), paused]);
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let all = chosen(&ids(&["all"]), &report).unwrap();
        assert_eq!((all.len(), all[0].fixes.len()), (1, 2), "by hand is left out of `all`");
        assert_eq!(chosen(&ids(&["wal_level.not_logical"]), &report).unwrap(), []);
        let refused = chosen(&ids(&["pooler.paused"]), &report).unwrap_err();
        assert_eq!(refused.cause, ["whoever paused it had a reason"]);
        assert!(refused.hint.unwrap().contains("RESUME app;"));
        assert!(known(&ids(&["replica_identity"])).is_err(), "a check is not a finding");
    }

    #[test]
    fn confirmation_shows_statements_where_they_run_and_what_takes_a_restart() {
        let fixes = vec![Fix::restart("wal_level", "logical")];
        let mut remedies = vec![Remedy { finding: "wal_level.not_logical".into(), fixes }];
        let fixes = (0..10).map(|n| identity(&format!("public.t{n}"))).collect();
        remedies.push(Remedy { finding: "replica_identity.missing".into(), fixes });
        let fixes = vec![Fix::restart("max_wal_senders", 9).on_standbys_first()];
        remedies.push(Remedy { finding: "wal_senders.too_few".into(), fixes });
        let said = announcement(&remedies);
        assert!(said.contains("max_wal_senders = 9;  -- with your next restart; on each standby first"), "{said}");
        assert!(said.starts_with("This makes 12 changes in the source"), "{said}");
        assert!(said.contains("ALTER SYSTEM SET wal_level = 'logical';  -- with your next restart"), "{said}");
        assert!(
            said.contains("public.t0 REPLICA IDENTITY FULL;  -- in app") && said.contains("… and 2 more"),
            "{said}"
        );
        assert_eq!(restarts(&remedies), ["`wal_level`", "`max_wal_senders`"]);
    }
}
