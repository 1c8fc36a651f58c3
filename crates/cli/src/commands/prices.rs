//! `pgleap prices`: AWS's price list as a table for `plan`, by the account's own credentials.

use jiff::Zoned;
use pgleap_aws::prices::{Ask, PricesError, fetch};

use crate::{
    args,
    errors::CommandError,
    exit::Exit,
    out::{Out, SCHEMA},
};

pub(super) async fn run(args: &args::Prices, out: Out) -> Result<Exit, CommandError> {
    let ask = Ask { region: args.region.clone(), classes: args.classes.clone(), today: Zoned::now().date() };
    let prices = fetch(&ask).await.map_err(told)?;
    let text = toml::to_string(&prices).map_err(|error| CommandError::of(Exit::Unexpected, &error))?;
    if let Some(path) = &args.output {
        std::fs::write(path, &text).map_err(|error| {
            CommandError::of(Exit::Usage, &error).because(format!("`{}` cannot be written", path.display()))
        })?;
        out.say(&format!("{}: {}; `prices` under [plan] names it", path.display(), prices.name));
    }
    match (out.is_json(), &args.output) {
        (true, _) => out.json(&serde_json::json!({ "schema": SCHEMA, "prices": prices })),
        (false, None) => out.data(text.trim_end()),
        (false, Some(_)) => {}
    }
    Ok(Exit::Done)
}

fn told(error: PricesError) -> CommandError {
    let hint = match &error {
        PricesError::Asked { credentials: true, .. } => {
            "sign in as AWS's own tools do (`AWS_PROFILE`, `AWS_ACCESS_KEY_ID`, `aws sso login`), with the right to \
             `pricing:GetProducts`; or write a table of your own: docs/plan.md"
        }
        PricesError::Missing { .. } => "look at the spelling of Region and class; AWS's page says which there are",
        _ => "try again; or write a table of your own: docs/plan.md",
    };
    CommandError::of(Exit::Unexpected, &error).hint(hint)
}
