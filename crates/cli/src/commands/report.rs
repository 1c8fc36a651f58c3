//! `pgleap report`: one page to pass around, and the same facts for programs.

use crate::{
    args,
    errors::CommandError,
    exit::Exit,
    out::Out,
    report::{Measured, Report, table, write},
    site::Site,
};

pub(super) fn run(args: &args::Report, site: &Site, out: Out) -> Result<Exit, CommandError> {
    let journal = site.read_begun()?;
    let measured = match &args.canary {
        Some(path) => Some(Measured::read(path)?),
        None => None,
    };
    let name = format!("{}:{}", site.config.source.host, site.config.source.port);
    let report = Report::of(&journal, &name, site.config.target.version, measured)?;
    let written = write(&report, &args.report_dir)?;
    match out.is_json() {
        true => out.json(&report),
        false => {
            out.data(&table::render(&report));
            out.say(&format!("wrote `{}` and `{}`", written.html.display(), written.json.display()));
        }
    }
    Ok(Exit::Done)
}
