//! Timeouts of clients that let a statement or a transaction outlast the write pause.

use std::time::Duration;

use super::{
    Answer, Finding,
    about::{About, Applied, Topic, note},
    finding::listed,
    source::Source,
};
use crate::{pg::ident, world::World};

/// What ends statements and transactions that last too long.
const ENDING: [&str; 3] = ["statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"];

pub(super) const ABOUT: About = About {
    check: "client_timeouts",
    topic: Topic::Activity,
    reads: "`statement_timeout`, `idle_in_transaction_session_timeout` and `transaction_timeout` in files, of roles and databases",
    why: "A pool pauses when its clients' transactions have ended. A limit that is longer than the write pause does not see to it; \
          one that is 0, as it is by default, is none, and has no finding of its own: `long_transactions` and `slow_statements` \
          tell who makes use of that. While clients wait in a paused pool no server counts their time, so a short limit does no \
          harm there.",
    findings: &[note(
        "timeout.outlasts_pause",
        Applied::ByHand("how long clients may take is the application's to say."),
    )],
};

pub(super) async fn check(world: &World, source: &Source) -> Answer {
    let in_files = source.in_files(&ENDING).await?.into_iter().map(|in_file| Limit {
        name: in_file.name,
        value: in_file.value,
        place: "postgresql.conf".to_owned(),
        owner: match in_file.by_alter_system {
            true => Owner::AlterSystem,
            false => Owner::File,
        },
    });
    let (user, databases) = (&world.source.endpoint.user, source.names());
    let given = source.given.iter().filter(|given| {
        ENDING.contains(&given.name.as_str())
            && given.role.as_ref() != Some(user)
            && given.database.as_ref().is_none_or(|database| databases.contains(database))
    });
    let given = given.map(|given| Limit {
        name: given.name.clone(),
        value: given.value.clone(),
        place: given.place(),
        owner: Owner::Given(given.owner()),
    });
    let all: Vec<Limit> = in_files.chain(given).collect();
    Ok(judge(world.config.budgets.write_pause, &all).into_iter().collect())
}

/// A limit, and whose it is.
struct Limit {
    name: String,
    value: String,
    /// Whose it is, in words.
    place: String,
    owner: Owner,
}

/// Whose a limit is.
enum Owner {
    /// The whole cluster's, in a file that somebody writes.
    File,
    /// The whole cluster's, by ALTER SYSTEM.
    AlterSystem,
    /// As ALTER names them.
    Given(String),
}

impl Limit {
    /// Returns the statements that shorten it, and that bring it back.
    fn shortened(&self, pause: Duration) -> (String, String) {
        let Self { name, value, .. } = self;
        let short = format!("SET {name} = '{}ms';", pause.as_millis());
        let again = format!("SET {name} = {};", ident::literal(value));
        let system = |what: &str| format!("ALTER SYSTEM {what} SELECT pg_reload_conf();");
        match &self.owner {
            Owner::Given(owner) => (format!("ALTER {owner} {short}"), format!("ALTER {owner} {again}")),
            Owner::AlterSystem => (system(&short), system(&again)),
            // what the file says holds again
            Owner::File => (system(&short), system(&format!("RESET {name};"))),
        }
    }
}

fn judge(pause: Duration, given: &[Limit]) -> Option<Finding> {
    let outlasting = given.iter().filter(|limit| duration(&limit.value).is_some_and(|limit| limit > pause));
    let outlasting: Vec<_> = outlasting.collect();
    let named = |limit: &&Limit| format!("{} = {} ({})", limit.name, limit.value, limit.place);
    let names: Vec<_> = outlasting.iter().map(named).collect();
    let (short, back): (Vec<_>, Vec<_>) = outlasting.iter().map(|limit| limit.shortened(pause)).unzip();
    let pause = pause.as_secs_f64();
    (!names.is_empty()).then(|| {
        let message = format!("clients may take longer than the write pause of {pause} s: {}", listed(&names));
        Finding::note("timeout.outlasts_pause", message)
            .because("a pool does not pause before they have ended; the switchover waits within its budget, and then goes back")
            .number("write_pause_s", pause)
            .objects(names)
            .fix(format!(
                "-- just before the switchover: longer statements fail from then on, of everybody at once where it is the whole \
                 cluster's, else of sessions that begin later\n{}\n-- after it\n{}",
                short.join("\n"),
                back.join("\n")
            ))
    })
}

/// Reads a time as a server does: a number of milliseconds, or one with its unit.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_alphabetic() || c == ' ');
    let seconds = match text[number.len()..].trim() {
        "us" => 1e-6,
        "" | "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_compared_in_whatever_unit_it_is_given() {
        let pause = Duration::from_secs(2);
        let found = |value: &str| {
            let owner = Owner::Given("ROLE \"app\"".into());
            let limit =
                Limit { name: "statement_timeout".into(), value: value.into(), place: "role app".into(), owner };
            judge(pause, &[limit]).map(|finding| finding.message)
        };
        assert_eq!(
            found("30s").unwrap(),
            "clients may take longer than the write pause of 2 s: `statement_timeout = 30s (role app)`"
        );
        assert!(["2001", "2.5 s", "1min", "1h", "1d"].iter().all(|value| found(value).is_some()));
        assert!(["0", "2000", "1999ms", "2s", "5us", "soon"].iter().all(|value| found(value).is_none()));
    }
    #[test]
    fn limit_of_the_whole_cluster_comes_back_where_it_was() {
        let remedy = |owner: Owner| {
            let limit = Limit { name: "statement_timeout".into(), value: "1min".into(), place: String::new(), owner };
            limit.shortened(Duration::from_secs(2))
        };
        let short = "ALTER SYSTEM SET statement_timeout = '2000ms'; SELECT pg_reload_conf();";
        let reset = "ALTER SYSTEM RESET statement_timeout; SELECT pg_reload_conf();";
        assert_eq!(remedy(Owner::File), (short.to_owned(), reset.to_owned()));
        let again = "ALTER SYSTEM SET statement_timeout = '1min'; SELECT pg_reload_conf();";
        assert_eq!(remedy(Owner::AlterSystem), (short.to_owned(), again.to_owned()));
    }
}
