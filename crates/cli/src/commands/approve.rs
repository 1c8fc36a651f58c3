//! `pgleap approve`: somebody's word for what waits for it.

use jiff::Timestamp;
use pgleap_saga::Journal;
use pgleap_upgrade::approvals::{Approval, Gate, State};

use crate::{
    args,
    display::text,
    errors::CommandError,
    exit::Exit,
    out::{Out, SCHEMA},
    site::Site,
};

pub(super) fn run(args: &args::Approve, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let approvals = &site.config.approvals;
    let refused = |message: String| CommandError::new(Exit::Usage, message).state("nothing was recorded");
    let gate = Gate::from_name(&args.gate).ok_or_else(|| {
        let names = Gate::ALL.map(Gate::name).join(", ");
        refused(format!("there is no gate `{}`", args.gate)).hint(format!("a gate is one of {names}"))
    })?;
    if !approvals.before.contains(&gate) {
        return Err(refused(format!("nothing waits for approval before `{gate}`"))
            .hint(format!("before = [\"{gate}\"]  # under [approvals]: then it does")));
    }
    let account = account();
    let by = args.by.clone().unwrap_or_else(|| account.clone());
    if !approvals.by.is_empty() && !approvals.by.contains(&by) {
        return Err(refused(format!("`{by}` is not among those who may approve"))
            .because(format!("`approvals.by` names {}", approvals.by.join(", ")))
            .hint("say who approves by `--by NAME`"));
    }
    let journal = site.write()?;
    let state =
        |journal: &Journal| Ok::<_, CommandError>(approvals.state(gate, &journal.records(0)?, Timestamp::now()));
    if state(&journal)?.is_some_and(|state| state.given.iter().any(|given| given.approval.by == by)) {
        return Err(refused(format!("`{by}` has approved `{gate}` already")).hint("another person is needed"));
    }
    let approval = Approval { gate, by, account, what_for: args.what_for.clone() };
    journal.record_approval(serde_json::json!(approval))?;
    let Some(state) = state(&journal)? else { return Ok(Exit::Done) };
    match out.is_json() {
        true => out.json(&serde_json::json!({ "schema": SCHEMA, "approval": state, "open": state.is_open() })),
        false => out.data(&render(&state)),
    }
    Ok(Exit::Done)
}

/// Returns how a gate stands, in a line.
pub(super) fn render(state: &State) -> String {
    let voice = |given: &pgleap_upgrade::approvals::Given| {
        let what_for = given.approval.what_for.as_ref().map_or(String::new(), |what| format!(", {what}"));
        format!("{} ({} UTC{what_for})", given.approval.by, given.at.strftime("%H:%M"))
    };
    let voices: Vec<_> = state.given.iter().map(voice).collect();
    let whose = if voices.is_empty() { String::new() } else { format!(": {}", voices.join(", ")) };
    let word = if state.is_open() { "approved" } else { "waits for approval" };
    format!("`{}` {word}, {} of {}{whose}", state.gate, state.given.len(), state.needed)
}

/// Refuses what waits for approval, before anything is asked or touched.
///
/// # Errors
/// If too few have approved.
pub(super) fn require(site: &Site, gate: Gate) -> Result<(), CommandError> {
    let records = match site.read()? {
        Some(journal) => journal.records(0)?,
        None => Vec::new(),
    };
    match site.config.approvals.state(gate, &records, Timestamp::now()) {
        Some(state) if !state.is_open() => Err(missing(&state)),
        _ => Ok(()),
    }
}

/// Makes the error for a gate that is closed.
pub fn missing(state: &State) -> CommandError {
    let gate = state.gate;
    let left = state.needed.saturating_sub(state.given.len());
    let people = text::plural(left, "more person").replace("persons", "people");
    let whose = if state.by.is_empty() { String::new() } else { format!(" of {}", state.by.join(", ")) };
    CommandError::new(Exit::Stopped, render(state))
        .because(format!("`approvals.before` names `{gate}`; {people}{whose} must say so"))
        .hint(format!("`pgleap approve {gate} --by NAME --for REASON`, then the same command again"))
}

/// Returns whose account this is, and who became it.
fn account() -> String {
    let uid = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    match std::env::var("SUDO_USER") {
        Ok(sudo) if !sudo.is_empty() && sudo != name => format!("{name}, by sudo from {sudo}"),
        _ => name,
    }
}
