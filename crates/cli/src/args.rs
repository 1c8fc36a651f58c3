//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::{Timestamp, Zoned, civil::Time, tz::TimeZone};

/// Upgrades PostgreSQL to a new major version while it keeps serving.
#[derive(Debug, Parser)]
#[command(name = "pgleap", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What is upgraded to what, and how
    #[arg(long, global = true, env = "PGLEAP_CONFIG", default_value = "pgleap.toml", value_name = "FILE")]
    pub config: PathBuf,

    /// How results are printed: for people, or as JSON with a schema number
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Confirm in advance what moves traffic or gives up the way back
    #[arg(long, short, global = true)]
    pub yes: bool,

    /// Print without colour, as with NO_COLOR in the environment
    #[arg(long, global = true)]
    pub no_color: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for everything that is in the way, and change nothing
    Check(Check),
    /// Say how the upgrade would be done, how long it takes, what it costs, and every step; change nothing
    Plan(Plan),
    /// Ask AWS for its prices in a Region, and print them as a price table for `plan`
    #[cfg(feature = "aws")]
    Prices(Prices),
    /// Give somebody's word for what waits for it
    Approve(Approve),
    /// Make the target and bring it in sync; goes on where an earlier run stopped
    Run,
    /// Say where the upgrade stands and who serves traffic
    Status,
    /// Follow the upgrade as it goes
    Watch(Watch),
    /// Pause the pools for real, resume them where they are, and foretell what a switchover would cost clients
    Rehearse(Rehearse),
    /// Move writes to the target, in one short pause
    Switchover(Timing),
    /// Compare every table's rows on both sides, while writes go on
    Verify,
    /// Move writes back to the source: the same switchover, the other way
    Rollback(Timing),
    /// Finish what was interrupted, or take it back, as the journal says
    Resume(Resume),
    /// Take the upgrade back before the switchover: the source is left as it was found
    Unwind,
    /// Give up the way back, and remove everything of pgleap's from both sides
    Finalize,
    /// Print the journal: every step, attempt, failure and note
    Journal(Journal),
    /// Write report.html and report.json from the journal
    Report(Report),
    /// Run the guard of this host's PgBouncers, with a configuration of its own (--config guard.toml)
    ///
    /// It holds their pauses for a pgleap on another host, and ends each by itself when its lease is over.
    Guard(Guard),
    /// Try the program of a route of kind `command`: does it keep its contract?
    ///
    /// It lets clients wait for real, for as long as each question takes, and leaves them as they were.
    RouteCheck(RouteCheck),
    /// Run honest clients that keep a ledger of acknowledged writes and measure every stall
    Canary(Canary),
    /// Show all of it on this machine, under load: upgrade, switchover, roll back, switchover, finalize
    Demo(Demo),
}

/// `pgleap check`
#[derive(Debug, Args)]
pub struct Check {
    /// Say what a check reads, why it matters and what it can find, and contact nothing; every check without an ID
    ///
    /// ID is the name of a check or of a finding, such as `replica_identity` or `replica_identity.missing`.
    #[arg(long, value_name = "ID", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "asked or not, and for one or for all")]
    pub explain: Option<Option<String>>,
    /// Apply the remedies of these findings, or of `all`, where pgleap can; journaled, and taken back by `--undo` or `unwind`
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with = "explain")]
    pub fix: Vec<String>,
    /// Take the applied remedies of these findings back, or `all`: the source has again what it had
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with_all = ["explain", "fix"])]
    pub undo: Vec<String>,
    /// Also write what was found to this file: a page (.html), a document (.md), or data (.json)
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["explain", "fix", "undo", "watch"])]
    pub output: Option<PathBuf>,
    /// Look again and again, and tell what is new or gone: long transactions, tables without identity, partitions,
    /// DDL since an upgrade began
    #[arg(long, conflicts_with_all = ["explain", "fix", "undo"])]
    pub watch: bool,
    /// Seconds between the looks of `--watch`
    #[arg(long, value_name = "N", default_value_t = 10, requires = "watch", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub every: u32,
}

/// `pgleap prices`
#[cfg(feature = "aws")]
#[derive(Debug, Args)]
pub struct Prices {
    /// The Region, such as `eu-central-1`
    #[arg(long, env = "AWS_REGION")]
    pub region: String,
    /// An instance class, such as `db.r6g.4xlarge`; every class without one
    #[arg(long = "class", value_name = "CLASS")]
    pub classes: Vec<String>,
    /// Write them to this file: `prices` under [plan] names it
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `pgleap route-check`
#[derive(Debug, Args)]
pub struct RouteCheck {
    /// Lead clients to the other side too, while they wait, and back: for a route that is not in use
    #[arg(long)]
    pub and_move: bool,
}

/// `pgleap guard`
#[derive(Debug, Args)]
pub struct Guard {
    /// Started by another pgleap on this host, for the poolers of its configuration
    #[arg(long, hide = true)]
    pub beside: bool,
}

/// When a switchover begins, of `pgleap switchover` and `pgleap rollback`
#[derive(Debug, Args)]
pub struct Timing {
    /// Begin at this time: `2026-11-22T03:00:00+01:00`, or `03:00` by this host's clock, within a day
    #[arg(long, value_name = "TIME", value_parser = at)]
    pub at: Option<Timestamp>,
    /// Begin in a moment in which nothing holds the switchover and the foretold stall fits the write budget
    #[arg(long)]
    pub when_quiet: bool,
    /// Give up after this long if no such moment comes: `90s`, `2h`
    #[arg(long, requires = "when_quiet", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub within: Duration,
    /// Make everything ready, then wait as long as this file is there; it is made if it is not
    #[arg(long, value_name = "FILE")]
    pub postpone_file: Option<PathBuf>,
    /// How often it is tried if it is held or taken back, with growing waits; `budgets.switchover_attempts` without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: Option<u32>,
}

/// Reads a time: an instant, or the next time that the clock here shows this.
fn at(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    if let Ok(at) = text.parse::<Timestamp>() {
        return if at > now { Ok(at) } else { Err("it is over".to_owned()) };
    }
    let zone = TimeZone::try_system().map_err(|error| format!("give it with date and offset: {error}"))?;
    next(text, &now.to_zoned(zone))
}

/// Returns when the clock shows this next.
fn next(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let time: Time = match text.len() {
        5 | 8 => text.parse().map_err(|_| "it must be `HH:MM`, or a time with date and offset".to_owned())?,
        _ => return Err("it must be `HH:MM`, or a time with date and offset".to_owned()),
    };
    let on = |date: jiff::civil::Date| date.to_datetime(time).to_zoned(now.time_zone().clone());
    let today = on(now.date()).map_err(|error| error.to_string())?;
    match today > *now {
        true => Ok(today.timestamp()),
        false => {
            let tomorrow = now.date().tomorrow().and_then(on);
            tomorrow.map(|at| at.timestamp()).map_err(|error| error.to_string())
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "it must be a duration such as `90s`, `10min` or `2h`".to_owned();
    let read: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
    Duration::try_from(read).map_err(|_| bad())
}

/// Nothing differs by less than a factor of 1 from itself.
fn factor(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|n: &f64| n.is_finite() && *n > 1.0)
        .ok_or_else(|| "it must be a number above 1".to_owned())
}

/// `pgleap plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// Plan from what `pgleap check --format json` saved, and contact nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["window", "steps"])]
    pub facts: Option<PathBuf>,
    /// For how many seconds rates are measured
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub window: u32,
    /// Plan for this method instead of the recommended one
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Print the steps alone, from the configuration, and contact nothing
    #[arg(long)]
    pub steps: bool,
    /// Write the document of a change request: a name that ends in .md or .html
    #[arg(long, value_name = "FILE", conflicts_with = "steps")]
    pub runbook: Option<PathBuf>,
    /// The day on which that document begins; today without it
    #[arg(long, value_name = "YYYY-MM-DD", requires = "runbook")]
    pub begin: Option<jiff::civil::Date>,
}

/// `pgleap approve`
#[derive(Debug, Args)]
pub struct Approve {
    /// What may begin: run, switchover or finalize
    #[arg(value_name = "GATE")]
    pub gate: String,
    /// Who says so; your account's name without it
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// What for: a ticket, a reason
    #[arg(long = "for", value_name = "REASON")]
    pub what_for: Option<String>,
}

/// `pgleap rehearse`
#[derive(Debug, Args)]
pub struct Rehearse {
    /// How many pauses
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub pauses: u32,
    /// The longest that each may take, in milliseconds; the write budget without it
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(10..=60_000))]
    pub budget_ms: Option<u32>,
    /// Instead: copy the source, upgrade the copy, check its indexes, schemas and query plans, and remove it
    #[arg(long, conflicts_with_all = ["pauses", "budget_ms"])]
    pub twin: bool,
    /// How many statements of pg_stat_statements are explained on both majors
    #[arg(long, default_value_t = 100, value_name = "N", requires = "twin", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub top: u32,
    /// Explain these statements instead, each ended by `;` at the end of a line
    #[arg(long, value_name = "FILE", requires = "twin")]
    pub statements: Option<PathBuf>,
    /// How far cost and rows of a plan may differ without being told
    #[arg(long, default_value_t = 2.0, value_name = "N", requires = "twin", value_parser = factor)]
    pub factor: f64,
    /// How long indexes are checked with amcheck, in seconds
    #[arg(long, default_value_t = 60, value_name = "N", requires = "twin", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub amcheck_seconds: u32,
}

/// `pgleap resume`
#[derive(Debug, Args)]
pub struct Resume {
    /// Wait for the end of standard input first, and take over only if it brings no last word
    #[arg(long, hide = true)]
    pub when_orphaned: bool,
}

/// `pgleap watch`
#[derive(Debug, Args)]
pub struct Watch {
    /// Look once, print, and end
    #[arg(long)]
    pub once: bool,
}

/// `pgleap journal`
#[derive(Debug, Args)]
pub struct Journal {
    /// Only records after this number
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub after: i64,
    /// Only the records of this plan, such as `switchover-1`
    #[arg(long, value_name = "ID")]
    pub plan: Option<String>,
}

/// `pgleap report`
#[derive(Debug, Args)]
pub struct Report {
    /// Where report.html and report.json are written
    #[arg(long, default_value = "pgleap-report", value_name = "DIR")]
    pub report_dir: PathBuf,
    /// What a canary measured meanwhile: the file that `pgleap canary --report` wrote
    #[arg(long, value_name = "FILE")]
    pub canary: Option<PathBuf>,
}

/// `pgleap canary`
#[derive(Debug, Args)]
pub struct Canary {
    /// The database, as its applications reach it: `host=… port=… user=… dbname=…`, without the password
    ///
    /// The password comes from PGPASSWORD, or from a passfile (--passfile, PGPASSFILE, ~/.pgpass).
    #[arg(long, value_name = "DSN")]
    pub dsn: String,
    /// A passfile to take the password from
    #[arg(long, env = "PGPASSFILE", value_name = "FILE")]
    pub passfile: Option<PathBuf>,
    /// How many clients write at the same time
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub clients: usize,
    /// Transactions per second over all clients; without it each begins the next when the last is done
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Seconds to run; without it until Ctrl-C
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Where the numbers go, as JSON, at the end
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where the ledger is kept, appended to
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// A name for the report
    #[arg(long, default_value = "canary", value_name = "NAME")]
    pub label: String,
    /// Compare this ledger with the database instead: is every acknowledged write there, once?
    #[arg(long, value_name = "LEDGER", conflicts_with_all = ["report", "ledger", "seconds", "rate"])]
    pub audit: Option<PathBuf>,
    /// Only create the schema `pgleap_canary`; a run does so by itself where it is missing
    #[arg(long, conflicts_with_all = ["audit", "remove"])]
    pub prepare: bool,
    /// Only drop the schema `pgleap_canary`, with everything in it
    #[arg(long, conflicts_with = "audit")]
    pub remove: bool,
}

/// `pgleap demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// The source's major version
    #[arg(long, default_value_t = 15, value_name = "MAJOR")]
    pub from: u16,
    /// The target's major version
    #[arg(long, default_value_t = 18, value_name = "MAJOR")]
    pub to: u16,
    /// pgbench's scale factor: 100,000 accounts each, in each of two databases
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub scale: u32,
    /// How many clients write at the same time
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub clients: usize,
    /// Where report.html and report.json are written
    #[arg(long, default_value = "pgleap-demo-report", value_name = "DIR")]
    pub report_dir: PathBuf,
    /// Leave servers and PgBouncer running at the end
    #[arg(long)]
    pub keep: bool,
    /// Print events and the report as JSON, as with `--format json`
    #[arg(long)]
    pub json: bool,
    /// Where to look for PostgreSQL and PgBouncer first; may be given several times
    #[arg(long, value_name = "DIR")]
    pub bindir: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_clock_is_its_next_one_and_an_instant_must_be_ahead() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now = "2026-03-28T22:00:00Z".parse::<Timestamp>().unwrap().to_zoned(zone);
        let at = |text: &str| next(text, &now).map(|at| at.to_string());
        assert_eq!(at("23:30").unwrap(), "2026-03-28T22:30:00Z", "today");
        assert_eq!(at("03:15").unwrap(), "2026-03-29T01:15:00Z", "tomorrow, when summer time has begun");
        assert_eq!(at("23:00").unwrap(), "2026-03-29T21:00:00Z", "now is over");
        assert_eq!(super::at("2126-03-29T03:00:00+02:00").unwrap().to_string(), "2126-03-29T01:00:00Z");
        assert_eq!(super::at("2026-03-28T21:00:00Z").unwrap_err(), "it is over");
        for bad in ["3 am", "25:00", "tomorrow", "2026-03-29", "2026-03-29T03:00:00"] {
            assert!(super::at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wait_is_a_number_with_its_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("90").is_err() && duration("-1s").is_err());
    }
}
