//! The canary's tables: made once per database, before anything that copies or replicates that database.
//!
//! The clients themselves never create anything, so that they can run where DDL is blocked.

use std::time::Duration;

use tokio_postgres::Config;

use crate::error::CanaryError;
use crate::session::Session;

const CREATE_SCHEMA: &str = include_str!("../sql/create_schema.sql");
const DROP_SCHEMA: &str = "DROP SCHEMA IF EXISTS pgleap_canary CASCADE";

/// How long to wait for a connection that makes or removes the schema, or that audits.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Creates the schema `pgleap_canary` with its tables in the database that `connect` names; what is there is kept.
///
/// # Errors
/// [`CanaryError::Connect`], [`CanaryError::ConnectTimeout`], or [`CanaryError::Statement`] if the role may not create it.
pub async fn prepare(connect: &Config) -> Result<(), CanaryError> {
    let session = Session::connect(connect, CONNECT_LIMIT).await?;
    let script = format!("BEGIN; {CREATE_SCHEMA} COMMIT");
    session
        .client
        .batch_execute(&script)
        .await
        .map_err(|source| CanaryError::Statement { action: "create schema `pgleap_canary`", source })
}

/// Drops the schema `pgleap_canary` with everything in it; none there is fine.
///
/// # Errors
/// [`CanaryError::Connect`], [`CanaryError::ConnectTimeout`], or [`CanaryError::Statement`] if the role may not drop it.
pub async fn remove(connect: &Config) -> Result<(), CanaryError> {
    let session = Session::connect(connect, CONNECT_LIMIT).await?;
    session
        .client
        .batch_execute(DROP_SCHEMA)
        .await
        .map_err(|source| CanaryError::Statement { action: "drop schema `pgleap_canary`", source })
}
