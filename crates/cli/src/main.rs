//! `pgleap`: upgrades PostgreSQL to a new major version while it keeps serving.
//!
//! Commands, their output, and the report: readers of events, writers of commands. How a step works is decided elsewhere.

mod args;
mod commands;
mod demo;
mod display;
mod errors;
mod exit;
mod interrupt;
mod out;
mod page;
mod planning;
mod report;
mod second;
mod secrets;
mod site;

use clap::Parser;

use args::{Cli, Command, Format};
use errors::CommandError;
use exit::Exit;
use out::Out;

fn main() -> Exit {
    if let Err(error) = secrets::refuse_passwords(std::env::args_os()) {
        Out::new(Format::Text, false, true).error(&error);
        return error.exit;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version end here too, on stdout and well.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let format = match &cli.command {
        Command::Demo(demo) if demo.json => Format::Json,
        _ => cli.format,
    };
    let out = Out::new(format, cli.yes, cli.no_color);
    // One thread runs the steps: programs that they start are told to die with the thread that started them, so it must
    // be the one that lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let ended = commands::run(cli, out).await;
            pgleap_upgrade::pg::session::settle().await;
            ended
        }),
        Err(error) => Err(CommandError::of(Exit::Unexpected, &error)),
    };
    ended.unwrap_or_else(|error| {
        out.error(&error);
        error.exit
    })
}
