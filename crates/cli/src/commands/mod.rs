//! One file for each verb.

pub mod approve;
mod canary;
mod check;
pub mod drive;
mod finalize;
pub mod foretell;
mod guard;
mod journal;
mod plan;
#[cfg(feature = "aws")]
mod prices;
pub mod rehearse;
mod report;
mod resume;
mod rollback;
mod route_check;
mod run;
mod status;
mod switchover;
mod twin;
mod unwind;
mod verify;
mod watch;

use crate::{
    args::{Cli, Command},
    errors::CommandError,
    exit::Exit,
    out::Out,
    site::Site,
};

/// Does what the command line asks for.
///
/// # Errors
/// Whatever kept it from being done, with its exit code.
pub async fn run(cli: Cli, out: Out) -> Result<Exit, CommandError> {
    if let Command::Canary(args) = cli.command {
        return canary::run(args, out).await;
    }
    if let Command::Demo(args) = cli.command {
        return crate::demo::run(args, out).await;
    }
    if let Command::Guard(args) = cli.command {
        return guard::run(&args, &cli.config).await;
    }
    #[cfg(feature = "aws")]
    if let Command::Prices(args) = &cli.command {
        return prices::run(args, out).await;
    }
    if let Command::Check(args) = &cli.command
        && let Some(id) = &args.explain
    {
        return check::explain(id.as_deref(), out);
    }
    let site = Site::load(&cli.config)?;
    match cli.command {
        Command::Check(args) => check::run(&args, &site, out).await,
        Command::Plan(args) => plan::run(&args, &site, out).await,
        Command::Approve(args) => approve::run(&args, &site, out),
        Command::Run => run::run(&site, out).await,
        Command::Status => status::run(&site, out),
        Command::Watch(args) => watch::run(&args, &site, out).await,
        Command::Rehearse(args) if args.twin => twin::run(&args, &site, out).await,
        Command::Rehearse(args) => rehearse::run(&args, &site, out).await,
        Command::Switchover(args) => switchover::run(&args, &site, out).await,
        Command::Verify => verify::run(&site, out).await,
        Command::Rollback(args) => rollback::run(&args, &site, out).await,
        Command::Resume(args) => resume::run(&args, &site, out).await,
        Command::Unwind => unwind::run(&site, out).await,
        Command::Finalize => finalize::run(&site, out).await,
        Command::Journal(args) => journal::run(&args, &site, out),
        Command::RouteCheck(args) => route_check::run(&args, &site, out).await,
        Command::Report(args) => report::run(&args, &site, out),
        #[cfg(feature = "aws")]
        Command::Prices(_) => Ok(Exit::Usage),
        Command::Canary(_) | Command::Demo(_) | Command::Guard(_) => Ok(Exit::Usage),
    }
}
