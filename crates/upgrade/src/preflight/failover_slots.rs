//! Slots that survive a failover, and the standbys that their readers wait for: from 17 on.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, warning},
    finding::{counted, listed},
    source::Source,
};

/// From here on slots can be kept by standbys too.
const SINCE: u16 = 17;

const FAILOVER: &str = "
    SELECT pg_catalog.format('%s in %s', slot_name, database) FROM pg_catalog.pg_replication_slots
     WHERE failover AND NOT synced AND slot_name NOT LIKE 'pgleap\\_%' ORDER BY 1";

/// Each slot that readers wait for, and whether a standby is behind it.
const WAITED_FOR: &str = "
    SELECT pg_catalog.btrim(w.name, ' \"'), coalesce(s.active, false)
      FROM pg_catalog.regexp_split_to_table(pg_catalog.current_setting('synchronized_standby_slots'), ',') AS w(name)
      LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = pg_catalog.btrim(w.name, ' \"')
     WHERE pg_catalog.btrim(w.name) <> ''";

pub(super) const ABOUT: About = About {
    check: "failover_slots",
    topic: Topic::Replication,
    reads: "slots with `failover`, and the standbys in `synchronized_standby_slots`, from 17 on",
    why: "Whoever reads such a slot gets nothing that the named standbys do not have yet: one that is away holds all of them up, \
          and they hold WAL. The target has neither the slots nor the standbys, so the setting is not carried there. pgleap's own \
          slots are none of these: they wait for nobody, and after a failover of the source the upgrade begins again.",
    findings: &[
        warning(
            "failover_slot.held_up",
            Applied::ByHand("which standbys are gone for good is the administrator's to say."),
        ),
        warning("failover_slot.not_carried", Applied::ByHand("consumers are their owners'.")),
    ],
};

pub(super) async fn check(source: &Source) -> Answer {
    if source.major() < SINCE {
        return Ok(Vec::new());
    }
    let slots = source.session.query(FAILOVER, &[]).await?;
    let slots: Vec<String> = slots.iter().map(|row| row.get(0)).collect();
    let waited_for = source.session.query(WAITED_FOR, &[]).await?;
    let waited_for: Vec<(String, bool)> = waited_for.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(judge(&slots, &waited_for))
}

fn judge(slots: &[String], waited_for: &[(String, bool)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (there, away): (Vec<_>, Vec<_>) = waited_for.iter().partition(|(_, active)| *active);
    let names = |slots: &[&(String, bool)]| slots.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (there, away) = (names(&there), names(&away));
    if !away.is_empty() {
        let message = format!(
            "no standby is connected by {} of `synchronized_standby_slots`: {}",
            counted(away.len(), "slot"),
            listed(&away)
        );
        let readers = match slots {
            [] => "a slot with failover would get nothing until it is back".to_owned(),
            slots => format!("until it is back nothing reaches those who read {}, and they keep WAL", listed(slots)),
        };
        findings.push(
            Finding::warning("failover_slot.held_up", message)
                .because(readers)
                .objects(away)
                .fix(Fix::reload("synchronized_standby_slots", there.join(", ")).sql() + " SELECT pg_reload_conf();"),
        );
    }
    if !slots.is_empty() {
        let message = format!("{} that survives a failover: {}", counted(slots.len(), "slot"), listed(slots));
        findings.push(
            Finding::warning("failover_slot.not_carried", message.replace("slots that survives", "slots that survive"))
                .because(
                    "the target has neither these slots nor the standbys that keep them: make both anew there, the slots with \
                     failover, before a failover of the target is counted on",
                )
                .objects(slots.iter().cloned()),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_that_is_away_is_named_with_those_whom_it_holds_up() {
        let waited_for = [("near".to_owned(), true), ("gone".to_owned(), false)];
        let findings = judge(&["cdc in app".into()], &waited_for);
        assert_eq!(findings[0].message, "no standby is connected by 1 slot of `synchronized_standby_slots`: `gone`");
        assert!(findings[0].cause.as_deref().unwrap().contains("`cdc in app`"));
        let remedy = findings[0].remedy.as_deref().unwrap();
        assert_eq!(remedy, "ALTER SYSTEM SET synchronized_standby_slots = 'near'; SELECT pg_reload_conf();");
        assert_eq!(judge(&[], &waited_for[..1]), []);
    }
}
