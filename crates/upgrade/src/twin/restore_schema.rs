//! Dumps the upgraded copy's schemas with the new major's pg_dump, and restores them.

use std::time::Duration;

use pgleap_local::run;
use pgleap_saga::{Observed, Reversal, Step, StepError, StepName};
use serde::{Deserialize, Serialize};

use crate::{
    pg::ident,
    provision::{InitTarget, PrepareDatabases},
    world::{Cx, World, io_failure, local_failure},
};

/// Restores every schema into an empty database beside it: what the next restore of a backup would meet.
pub struct RestoreSchema;

/// What the restores said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// What failed, a line each.
    pub wrong: Vec<String>,
}

const BUDGET: Duration = Duration::from_secs(3600);
/// How many failures of one database are named.
const NAMED: usize = 20;
const LOCALE: &str = "
    SELECT pg_catalog.pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text
      FROM pg_catalog.pg_database WHERE datname = $1";

impl Step<World> for RestoreSchema {
    type Output = Restored;
    const NAME: StepName = StepName("twin.restore_schema");
    const REVISION: u32 = 1;
    const REVERSAL: Reversal = Reversal::Nothing;

    fn summary(&self) -> String {
        "dump the upgraded copy's schemas, and restore them beside it".to_owned()
    }

    async fn probe(&self, _: &Cx<'_>) -> Result<Observed<Restored>, StepError> {
        Ok(Observed::Absent)
    }

    async fn run(&self, cx: &Cx<'_>) -> Result<Restored, StepError> {
        let world = cx.world;
        let server = InitTarget::server(world)?;
        let session = world.target.open(&world.config.source.database, BUDGET).await?;
        let mut wrong = Vec::new();
        for database in cx.output::<PrepareDatabases>()?.databases {
            let row = session.query_one(LOCALE, &[&database.name]).await?;
            let beside = format!("pgleap_restored_{}", database.oid);
            session.batch(&format!("DROP DATABASE IF EXISTS {beside}")).await?;
            session
                .batch(&format!(
                    "CREATE DATABASE {beside} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
                    ident::literal(row.get(0)),
                    ident::literal(row.get(1)),
                    ident::literal(row.get(2))
                ))
                .await?;
            let file = world.places().logs().join(format!("{beside}.sql"));
            let mut dump = world.account.command(server.installation.tool("pg_dump"));
            dump.args(["--schema-only", "--no-publications", "--no-subscriptions", "--no-password", "--file"])
                .arg(&file);
            dump.arg("--dbname").arg(world.target.endpoint.conninfo(Some(&database.name), None, "pgleap twin"));
            run(dump, BUDGET).await.map_err(local_failure)?;
            let said = world.places().logs().join(format!("{beside}.log"));
            let mut restore = world.account.command(server.installation.tool("psql"));
            restore.args(["--no-psqlrc", "--quiet", "--no-password", "--output", "/dev/null", "--file"]).arg(&file);
            restore.arg("--dbname").arg(world.target.endpoint.conninfo(Some(&beside), None, "pgleap twin"));
            restore.env("PGOPTIONS", "-c default_transaction_read_only=off -c client_min_messages=error");
            let output = run(restore, BUDGET).await.map_err(local_failure)?;
            std::fs::write(&said, &output.stderr).map_err(|error| io_failure("write", &said, error))?;
            // what a library does that the twin does not load cannot be told here
            let known = |what: &str| !what.contains("shared_preload_libraries");
            let errors = output.stderr.lines().filter_map(|line| line.split_once("ERROR:"));
            let errors: Vec<_> = errors.filter(|(_, what)| known(what)).collect();
            let line = |(_, what): &(&str, &str)| format!("`{}`: {}", database.name, what.trim());
            wrong.extend(errors.iter().take(NAMED).map(line));
            if errors.len() > NAMED {
                wrong.push(format!("`{}`: and {} more", database.name, errors.len() - NAMED));
            }
        }
        Ok(Restored { wrong })
    }

    async fn undo(&self, _: &Cx<'_>) -> Result<(), StepError> {
        Ok(())
    }
}
