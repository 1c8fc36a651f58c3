//! Whether the source's WAL can be decoded.

use super::{
    Answer, Finding, Fix,
    about::{About, Applied, Topic, blocker},
    source::Source,
};
use crate::world::World;

/// On RDS and Aurora `wal_level` follows a setting of theirs.
const ON_RDS: &str = "
    SELECT pg_catalog.current_setting('rds.logical_replication', true),
           EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proname = 'aurora_version')";

pub(super) const ABOUT: About = About {
    check: "wal_level",
    topic: Topic::Replication,
    reads: "the setting `wal_level`, and `rds.logical_replication` where there is one",
    why: "Below `logical` no slot can be made that decodes, and changing it is the one restart of the source that an \
          upgrade may cost: better weeks before than on the day. On RDS and Aurora nobody sets `wal_level`: it follows \
          `rds.logical_replication`, which is in the parameter group and takes effect with a reboot.",
    findings: &[
        blocker("wal_level.not_logical", Applied::ByPgleap),
        blocker("wal_level.off_on_rds", Applied::ByHand("parameter groups and reboots are the administrator's.")),
    ],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let level = source.setting("wal_level").unwrap_or_default();
    if level == "logical" {
        let later = source.after_restart("wal_level").filter(|later| *later != "logical");
        return Ok(later.map(falls).into_iter().collect());
    }
    let row = source.session.query_one(ON_RDS, &[]).await?;
    if let Some(switch) = row.get::<_, Option<&str>>(0) {
        return Ok(vec![on_rds(level, switch, row.get(1), &world.source.endpoint.host)]);
    }
    let finding = Finding::blocker("wal_level.not_logical", format!("`wal_level` is `{level}`; it must be `logical`"));
    Ok(vec![
        finding
            .because("changes are read from the WAL; the setting takes effect with a restart of the source")
            .fixes([Fix::restart("wal_level", "logical")]),
    ])
}

/// A server with logical slots does not start where it is any other, and a crash is a restart too.
fn falls(later: &str) -> Finding {
    let message = format!("`wal_level` is `logical`, and `{later}` after the next restart; it must stay `logical`");
    Finding::blocker("wal_level.not_logical", message)
        .because("a source with the upgrade's slots does not start then, after a crash either")
        .fixes([Fix::restart("wal_level", "logical")])
}

fn on_rds(level: &str, switch: &str, is_aurora: bool, host: &str) -> Finding {
    let message =
        format!("`wal_level` is `{level}`, as `rds.logical_replication` is `{switch}`; `wal_level` must be `logical`");
    let id = host.split_once('.').filter(|_| host.ends_with(".rds.amazonaws.com")).map_or("…", |(id, _)| id);
    let cluster = format!("aws rds describe-db-clusters --db-cluster-identifier {id} --output text --query");
    let instance = format!("aws rds describe-db-instances --db-instance-identifier {id} --output text --query");
    let (of, group, rebooted) = if is_aurora {
        (
            "cluster-parameter-group",
            format!("\"$({cluster} 'DBClusters[0].DBClusterParameterGroup')\""),
            format!("\"$({cluster} 'DBClusters[0].DBClusterMembers[?IsClusterWriter].DBInstanceIdentifier')\""),
        )
    } else {
        let group = format!("\"$({instance} 'DBInstances[0].DBParameterGroups[0].DBParameterGroupName')\"");
        ("parameter-group", group, id.to_owned())
    };
    let change = format!(
        "aws rds modify-db-{of} --db-{of}-name {group} \\\n    \
         --parameters ParameterName=rds.logical_replication,ParameterValue=1,ApplyMethod=pending-reboot  # not in a default group"
    );
    let reboot = format!("aws rds reboot-db-instance --db-instance-identifier {rebooted}");
    let is_on = matches!(switch, "on" | "1" | "true" | "yes");
    let finding = Finding::blocker("wal_level.off_on_rds", message);
    if is_on {
        return finding.because("it is set, and waits for a reboot").fix(reboot);
    }
    finding
        .because("changes are read from the WAL; the setting takes effect with a reboot")
        .fix([change, reboot].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_group_is_that_of_the_instance_or_of_auroras_cluster() {
        let remedy = |switch, is_aurora, host| on_rds("replica", switch, is_aurora, host).remedy.unwrap();
        let rds = remedy("off", false, "orders.c9x.eu-west-1.rds.amazonaws.com");
        assert!(
            rds.contains("modify-db-parameter-group --db-parameter-group-name \"$(aws rds describe-db-instances"),
            "{rds}"
        );
        assert!(rds.ends_with("\naws rds reboot-db-instance --db-instance-identifier orders"), "{rds}");
        let aurora = remedy("off", true, "orders.cluster-c9x.eu-west-1.rds.amazonaws.com");
        assert!(aurora.contains("modify-db-cluster-parameter-group --db-cluster-parameter-group-name"), "{aurora}");
        assert!(aurora.contains("describe-db-clusters --db-cluster-identifier orders "), "{aurora}");
        let waiting = remedy("on", false, "db.internal");
        assert_eq!(waiting, "aws rds reboot-db-instance --db-instance-identifier …");
    }
}
