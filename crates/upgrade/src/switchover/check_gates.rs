//! Decides whether a switchover may begin; what holds it is named in full.

use std::time::Duration;

use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};

use super::{
    fence::SUPERUSER_HINT,
    globals,
    hot::{databases, lease},
    patience::{Impatient, impatient},
    signpost,
};
use crate::{
    config::{Config, RouteKind},
    pg::{Side, access, hba},
    plan::time::size,
    readers::{Ways, standbys},
    replicate::{catch_up::round_trip, health},
    world::{Cx, World},
};

/// Looks at lag, open transactions, prepared transactions, superusers, databases, roles and poolers. Unknown means hold.
pub struct CheckGates {
    /// The side that serves.
    pub from: Side,
}

/// Whether the switchover may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is in the way.
    Go,
    /// These are.
    Hold {
        /// A line each.
        reasons: Vec<String>,
        /// Some of them stay until a person does something: trying again by itself helps nothing.
        lasting: bool,
    },
}

const ROUND_TRIP: Duration = Duration::from_secs(2);

const OPEN_TOO_LONG: &str = "
    SELECT pg_catalog.format('pid %s (role `%s`, `%s`, database `%s`) has been in a transaction for %s s, %s', pid, usename,
                             application_name, datname, round(extract(epoch FROM now() - xact_start)), state)
      FROM pg_catalog.pg_stat_activity
     WHERE datname = ANY($1::text[]) AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
       AND application_name <> $2 AND xact_start < now() - $3::float8 * interval '1 s'
       AND extract(epoch FROM now() - xact_start)::float8 <= $4::float8
       AND NOT coalesce(usename = ANY($5::text[]), false) ORDER BY xact_start";

const PREPARED: &str = "
    SELECT pg_catalog.format('prepared transaction `%s` (role `%s`, database `%s`) is open', gid, owner, database)
      FROM pg_catalog.pg_prepared_xacts WHERE database = ANY($1::text[])";

/// Returns what [`decide`] asks for, in words for a plan.
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
pub fn gates(config: &Config) -> Vec<String> {
    let budgets = &config.budgets;
    let mut gates = vec![
        format!("a row written now arrives on the other side within {} s", ROUND_TRIP.as_secs()),
        format!("replication lags by no more than {} of WAL (`budgets.max_lag`)", size(budgets.max_lag_bytes as f64)),
        match config.fence.end_older {
            None => format!("no transaction is open for longer than {:?} (`budgets.write_pause`)", budgets.write_pause),
            Some(age) => format!(
                "no transaction is open for {:?} to {age:?}; older ones are ended (`fence.end_older`)",
                budgets.write_pause
            ),
        },
        "no prepared transaction is open".to_owned(),
    ];
    gates.push(match config.fence.tolerate.as_slice() {
        [] => "no superuser is connected: no fence stops one".to_owned(),
        names => format!("no superuser is connected but {} (`fence.tolerate`)", names.join(", ")),
    });
    gates.push("every database is of the upgrade, and every role is on both sides with the same password".to_owned());
    if config.route.capabilities().pauses() {
        gates.push("everybody who waits would wait for as long as a pause may last".to_owned());
    }
    gates.push("the route leads clients to the side that serves, and nobody is paused".to_owned());
    gates
}

/// Collects everything that holds a switchover away from `from`.
///
/// # Errors
/// If a side or a pooler cannot be asked.
pub async fn decide(cx: &Cx<'_>, from: Side) -> Result<Decision, StepError> {
    decide_for(cx, from, lease(cx.world)).await
}

/// Does what [`decide`] does, for a pause that may last so long.
///
/// # Errors
/// If a side or a pooler cannot be asked.
pub async fn decide_for(cx: &Cx<'_>, from: Side, longest: Duration) -> Result<Decision, StepError> {
    let world = cx.world;
    let (all, names) = databases(cx)?;
    // what passes by itself, and what does not
    let (mut reasons, mut lasting) = (Vec::new(), Vec::new());
    let budgets = &world.config.budgets;

    let arrived = round_trip(world, from, &all, ROUND_TRIP).await?;
    let health = health::look(world, from, &all).await?;
    lasting.extend(health.problems.clone());
    if arrived.is_none() && health.problems.is_empty() {
        reasons.push(format!("a row written on the {from} has not arrived within {} s", ROUND_TRIP.as_secs()));
    }
    if health.lag_bytes > budgets.max_lag_bytes {
        reasons.push(format!("replication lag is {} bytes, the limit is {}", health.lag_bytes, budgets.max_lag_bytes));
    }
    let session = world.cluster(from).db(&world.config.source.database).await?;
    let pause_s = budgets.write_pause.as_secs_f64();
    // those that the policy ends hold nothing up
    let bearable_s = world.config.fence.end_older.map_or(f64::MAX, |age| age.as_secs_f64());
    let ways = Ways::of(cx, from)?;
    let (own, spared) = (&world.source.application_name, &ways.roles);
    for row in session.query(OPEN_TOO_LONG, &[&names, own, &pause_s, &bearable_s, spared]).await? {
        reasons.push(format!("{}: the pause would wait for it", row.get::<_, String>(0)));
    }
    for client in access::foreign(&session, &names, own, spared).await? {
        if client.passes_fence(&world.config.fence.tolerate) {
            reasons.push(format!("{client} passes every fence: {SUPERUSER_HINT}"));
        }
    }
    for row in session.query(PREPARED, &[&names]).await? {
        reasons.push(row.get(0));
    }
    lasting.extend(globals::missing(world, from, &names).await?);
    if !ways.of_readers(from).is_empty() {
        reasons.extend(standbys::reasons(cx, from, from.other(), &all).await?);
    }
    if ways.readers_go_first(from) {
        lasting.extend(hba::reasons(world.cluster(from.other()), &world.config.source.database).await?);
    }
    for role in spared {
        for database in &all {
            let session = world.cluster(from).db(&database.name).await?;
            for way in access::ways_to_write(&session, role).await? {
                reasons.push(format!("role `{role}` of `readers.roles` is no reader in `{}`: {way}", database.name));
            }
        }
    }
    if !matches!(world.config.route.kind, RouteKind::MultiHost) && signpost::stands(cx, from.other()).await? {
        lasting.push(format!(
            "the {} refuses writes in every table, as the route was `multi_host` when it was left: set `route.kind` back \
             for this switchover",
            from.other()
        ));
    }
    let mut here = ways.addresses_of(world, from);
    // readers may have gone ahead
    here.extend(ways.of_readers(from).into_iter().map(|way| way.new));
    let poolers = world.route.leading_to(&here, &names).await?;
    for (entries, member) in poolers.iter().zip(world.route.members()) {
        if entries.entries.is_empty() {
            lasting.push(format!("{} leads nothing to the {from}", member.ward));
        }
        for entry in entries.entries.iter().filter(|entry| entry.paused) {
            reasons.push(format!("{} has `{}` paused already", member.ward, entry.name));
        }
    }
    if world.route.capabilities.pauses() {
        for Impatient { who, setting } in impatient(world, from, longest).await? {
            let longest_s = longest.as_secs_f64();
            lasting.push(format!(
                "{who}, and a pause may last {longest_s} s: raise `{setting}`, or lower `budgets.write_pause`"
            ));
        }
    }
    let stays = !lasting.is_empty();
    lasting.extend(reasons);
    Ok(if lasting.is_empty() { Decision::Go } else { Decision::Hold { reasons: lasting, lasting: stays } })
}

/// Refuses a switchover that something holds.
///
/// # Errors
/// Fatal, naming all of it; and if a side or a pooler cannot be asked.
pub async fn refuse_held(cx: &Cx<'_>, from: Side) -> Result<(), StepError> {
    match decide(cx, from).await? {
        Decision::Go => Ok(()),
        Decision::Hold { reasons, .. } => {
            Err(StepError::fatal("switchover held", "remove what is named, then try again; nothing was changed")
                .because(reasons.join("; ")))
        }
    }
}

impl Step<World> for CheckGates {
    type Output = ();
    const NAME: StepName = StepName("switchover.check_gates");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        format!("check that writes may leave the {}: lag, open transactions, poolers, roles", self.from)
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<()>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<(), StepError> {
        refuse_held(cx, self.from).await
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
