//! `pgleap canary`: honest clients against any database, and the audit of what they were promised.

use std::{path::Path, time::Duration};

use pgleap_canary::{Canary, CanaryConfig, CanaryError, Ledger, audit, prepare, remove, render};
use tokio_postgres::Config;

use crate::{
    args,
    display::canary_line,
    errors::CommandError,
    exit::Exit,
    interrupt,
    out::{Out, SCHEMA},
    secrets,
};

/// How long one attempt may take before its client gives it up: longer than any write budget.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the numbers are told while it runs.
const TELL_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(args: args::Canary, out: Out) -> Result<Exit, CommandError> {
    let connect = secrets::connection(&args.dsn, args.passfile.as_deref()).await?;
    if args.remove {
        remove(&connect).await?;
        out.say("schema `pgleap_canary` is gone");
        return Ok(Exit::Done);
    }
    if args.prepare {
        prepare(&connect).await?;
        out.say("schema `pgleap_canary` is there");
        return Ok(Exit::Done);
    }
    match &args.audit {
        Some(ledger) => judge(&connect, ledger, out).await,
        None => work(connect, &args, out).await,
    }
}

async fn judge(connect: &Config, ledger: &Path, out: Out) -> Result<Exit, CommandError> {
    let audit = audit(connect, &Ledger::load(ledger)?).await?;
    match out.is_json() {
        true => out.json(&serde_json::json!({ "schema": SCHEMA, "clean": audit.is_clean(), "audit": audit })),
        false => out.data(audit.to_string().trim_end()),
    }
    Ok(if audit.is_clean() { Exit::Done } else { Exit::Differs })
}

async fn work(connect: Config, args: &args::Canary, out: Out) -> Result<Exit, CommandError> {
    let config = CanaryConfig {
        connect: connect.clone(),
        clients: args.clients,
        rate: args.rate,
        ledger: args.ledger.clone(),
        transaction_timeout: TRANSACTION_TIMEOUT,
        label: args.label.clone(),
    };
    let canary = match Canary::start(config.clone()).await {
        Err(CanaryError::NotPrepared { .. }) => {
            prepare(&connect).await?;
            out.say("created schema `pgleap_canary`");
            Canary::start(config).await?
        }
        started => started?,
    };
    out.say(&match args.seconds {
        Some(seconds) => format!("{} clients write for {seconds} s; Ctrl-C ends it sooner", args.clients),
        None => format!("{} clients write until Ctrl-C", args.clients),
    });
    let telling = async {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            out.say(&format!("  {}", canary_line(&canary.snapshot())));
        }
    };
    let limit = async {
        match args.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    // Either way it ends with its report.
    let _ = interrupt::unless_interrupted(async {
        tokio::select! { () = telling => {}, () = limit => {} }
    })
    .await;
    let report = canary.stop().await;
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report).map_err(|error| CommandError::of(Exit::Unexpected, &error))?;
        std::fs::write(path, text).map_err(|error| {
            CommandError::of(Exit::Unexpected, &error).because(format!("cannot write `{}`", path.display()))
        })?;
    }
    match out.is_json() {
        true => out.json(&report),
        false => out.data(render(&report).trim_end()),
    }
    Ok(Exit::Done)
}
