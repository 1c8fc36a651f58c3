//! A signpost: a side that follows lets applications in, to see that it is read-only and go on to the other.
//!
//! A client with several hosts that is refused at one of them gives up, if it is libpq: only a server that cannot be reached,
//! or that shows itself read-only, makes it try the next. So the side that follows cannot simply stay closed. Yet a read-only
//! default stops nobody who says BEGIN READ WRITE; so before it lets anybody in, every table gets a trigger that refuses
//! writes, and DDL is refused by another. Neither fires for what replication applies. Does not stop superusers who say so
//! (`session_replication_role`), nor large objects, nor `nextval`.

use super::{PgError, Session, ident, marker};

/// Both functions raise what a read-only transaction raises: whoever can cope with that can cope with this.
const PREPARE: &str = "
    CREATE OR REPLACE FUNCTION pgleap.refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
              MESSAGE = 'this server follows another one and takes no writes',
              HINT = 'Connect with every host and target_session_attrs=read-write.';
    END $$;
    CREATE OR REPLACE FUNCTION pgleap.refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user) THEN
            RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
                  MESSAGE = 'this server follows another one and takes no writes',
                  HINT = 'Connect with every host and target_session_attrs=read-write.';
        END IF;
    END $$;";

/// Tables, and whether TRUNCATE can be refused there; a partition's parent does not stand for it.
const TABLES: &str = "
    SELECT n.nspname::text, c.relname::text, c.relkind <> 'f',
           EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgname = 'pgleap_refuse_write')
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
       AND n.nspname <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast', $1])
     ORDER BY 1, 2";

const REFUSES_DDL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'pgleap_refuse_ddl')";

/// The disk is waited for once, by what lets clients in afterwards.
const QUICKLY: &str = "BEGIN; SET LOCAL synchronous_commit = off;";

/// Each needs a lock, of which there are not arbitrarily many.
const MOST_AT_ONCE: usize = 500;

struct Table {
    name: String,
    has_truncate: bool,
    refuses: bool,
}

async fn tables(session: &Session) -> Result<Vec<Table>, PgError> {
    let rows = session.query(TABLES, &[&marker::SCHEMA]).await?;
    let table = |row: &tokio_postgres::Row| Table {
        name: format!("{}.{}", ident::quote(row.get(0)), ident::quote(row.get(1))),
        has_truncate: row.get(2),
        refuses: row.get(3),
    };
    Ok(rows.iter().map(table).collect())
}

/// Makes this database refuse writes, however they are begun; returns how many tables it has. May be done twice, and goes on
/// after an interruption: a table is locked for no longer than its own trigger takes.
///
/// # Errors
/// [`PgError`]: a lock that is not had in time is transient.
pub async fn refuse_writes(session: &Session, nobody_there: bool) -> Result<usize, PgError> {
    session.batch(PREPARE).await?;
    if !session.query_one(REFUSES_DDL, &[]).await?.get::<_, bool>(0) {
        let create = "CREATE EVENT TRIGGER pgleap_refuse_ddl ON ddl_command_start EXECUTE FUNCTION pgleap.refuse_ddl()";
        session.batch(create).await?;
    }
    // after DDL is refused: no table comes that is not listed
    let tables = tables(session).await?;
    let create = |table: &Table| {
        let truncate = if table.has_truncate { " OR TRUNCATE" } else { "" };
        format!(
            "CREATE TRIGGER pgleap_refuse_write BEFORE INSERT OR UPDATE OR DELETE{truncate} ON {} \
             FOR EACH STATEMENT EXECUTE FUNCTION pgleap.refuse_write();",
            table.name
        )
    };
    let missing: Vec<_> = tables.iter().filter(|table| !table.refuses).map(create).collect();
    for statements in missing.chunks(if nobody_there { MOST_AT_ONCE } else { 1 }) {
        one(session, &format!("{QUICKLY} {} COMMIT", statements.concat())).await?;
    }
    Ok(tables.len())
}

/// Whether writes are refused in this session's database.
///
/// # Errors
/// [`PgError`].
pub async fn stands(session: &Session) -> Result<bool, PgError> {
    Ok(session.query_one(REFUSES_DDL, &[]).await?.get(0))
}

/// Takes back what [`refuse_writes`] did; nothing of it is left.
///
/// # Errors
/// As [`refuse_writes`].
pub async fn accept_writes(session: &Session) -> Result<(), PgError> {
    for table in tables(session).await?.iter().filter(|table| table.refuses) {
        one(session, &format!("{QUICKLY} DROP TRIGGER IF EXISTS pgleap_refuse_write ON {}; COMMIT", table.name))
            .await?;
    }
    session
        .batch(
            "DROP EVENT TRIGGER IF EXISTS pgleap_refuse_ddl;
             DROP FUNCTION IF EXISTS pgleap.refuse_write(), pgleap.refuse_ddl()",
        )
        .await
}

/// Runs one transaction; one that fails is not left open in the session.
async fn one(session: &Session, sql: &str) -> Result<(), PgError> {
    let done = session.batch(sql).await;
    if done.is_err() {
        session.batch("ROLLBACK").await?;
    }
    done
}
