//! Who may connect to a database: read, taken away, given back.
//!
//! Taking CONNECT away stops new logins of every role but superusers, and leaves subscriptions and standbys alone
//! (`ALLOW_CONNECTIONS false` would shut out the apply worker). Superusers pass: a switchover holds while one is there. A read-only default is set beside it: no fence, only a
//! courtesy to sessions that ask.

use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;

use super::{PgError, Session, ident};

/// Who may connect to one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The database.
    pub database: String,
    /// Roles that hold CONNECT; `None` is PUBLIC.
    pub connect: Vec<Grant>,
    /// Roles that keep the right when it is taken from everybody else: they may write nothing.
    #[serde(default)]
    pub spared: Vec<String>,
    /// The database's own `default_transaction_read_only`, if it has one.
    pub read_only_default: Option<String>,
}

/// One role's right to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The role, or PUBLIC.
    pub role: Option<String>,
    /// It may pass the right on.
    pub grantable: bool,
}

const READ: &str = "
    SELECT d.datname::text,
           r.rolname::text AS role,
           a.is_grantable,
           a.grantee IS NOT NULL AS granted,
           (SELECT substr(s, 31) FROM pg_catalog.pg_db_role_setting AS g, unnest(g.setconfig) AS s
             WHERE g.setdatabase = d.oid AND g.setrole = 0 AND s LIKE 'default\\_transaction\\_read\\_only=%') AS ro
      FROM pg_catalog.pg_database AS d
      LEFT JOIN LATERAL (
           SELECT * FROM pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba)))
            WHERE privilege_type = 'CONNECT') AS a ON true
      LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
     WHERE d.datname = ANY($1::text[])
     ORDER BY 1, 2 NULLS FIRST";

/// Returns who may connect to each of `databases`; `spared` are the roles that are to keep that right.
///
/// # Errors
/// [`PgError`].
pub async fn read(session: &Session, databases: &[String], spared: &[String]) -> Result<Vec<Access>, PgError> {
    let mut all: Vec<Access> = Vec::new();
    for row in session.query(READ, &[&databases]).await? {
        let database: String = row.get(0);
        if all.last().is_none_or(|access| access.database != database) {
            all.push(Access { database, connect: Vec::new(), spared: spared.to_vec(), read_only_default: row.get(4) });
        }
        if let (true, Some(access)) = (row.get::<_, bool>(3), all.last_mut()) {
            access.connect.push(Grant { role: row.get(1), grantable: row.get(2) });
        }
    }
    Ok(all)
}

fn role(grant: &Grant) -> String {
    grant.role.as_deref().map_or_else(|| "PUBLIC".to_owned(), ident::quote)
}

/// Returns the statements that take every right to connect away but that of spared roles, as one batch for the simple protocol: one transaction.
pub fn block(all: &[Access]) -> String {
    let mut sql = String::new();
    for access in all {
        let database = ident::quote(&access.database);
        for grant in &access.connect {
            sql.push_str(&format!("REVOKE CONNECT ON DATABASE {database} FROM {} CASCADE;\n", role(grant)));
        }
        for spared in &access.spared {
            sql.push_str(&format!("GRANT CONNECT ON DATABASE {database} TO {};\n", ident::quote(spared)));
        }
        sql.push_str(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on;\n"));
    }
    sql
}

/// Returns the statements of [`block`] for a side that nobody may be left at: those who are spared elsewhere are not here.
pub fn shut(all: &[Access]) -> String {
    block(&all.iter().map(|access| Access { spared: Vec::new(), ..access.clone() }).collect::<Vec<_>>())
}

/// Returns the statements that give the rights back, as one batch.
pub fn restore(all: &[Access]) -> String {
    let mut sql = admit(all);
    for access in all {
        let database = ident::quote(&access.database);
        match &access.read_only_default {
            Some(value) => sql.push_str(&format!(
                "ALTER DATABASE {database} SET default_transaction_read_only = {};\n",
                ident::literal(value)
            )),
            None => sql.push_str(&format!("ALTER DATABASE {database} RESET default_transaction_read_only;\n")),
        }
    }
    sql
}

/// Returns the statements that give the rights back to those who are to find a read-only default.
pub fn let_in(all: &[Access]) -> String {
    let read_only = |access: &Access| {
        format!("ALTER DATABASE {} SET default_transaction_read_only = on;\n", ident::quote(&access.database))
    };
    admit(all) + &all.iter().map(read_only).collect::<String>()
}

/// Returns the statements that give the rights back, and leave the read-only default as it is.
pub fn admit(all: &[Access]) -> String {
    let mut sql = String::new();
    for access in all {
        let database = ident::quote(&access.database);
        for spared in &access.spared {
            sql.push_str(&format!("REVOKE CONNECT ON DATABASE {database} FROM {} CASCADE;\n", ident::quote(spared)));
        }
        for grant in &access.connect {
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            sql.push_str(&format!("GRANT CONNECT ON DATABASE {database} TO {}{option};\n", role(grant)));
        }
    }
    sql
}

/// Returns `saved` as what is to take the place of `now`: whoever may connect now, and may not by `saved`, loses the right.
pub fn in_place_of(saved: &[Access], now: &[Access]) -> Vec<Access> {
    let one = |access: &Access| {
        let now = now.iter().find(|now| now.database == access.database);
        let roles = now.into_iter().flat_map(|now| &now.connect).filter_map(|grant| grant.role.clone());
        let kept = |role: &String| access.connect.iter().any(|grant| grant.role.as_ref() == Some(role));
        Access { spared: roles.filter(|role| !kept(role)).collect(), ..access.clone() }
    };
    saved.iter().map(one).collect()
}

/// Whether nobody may connect to any of these any more, superusers and spared roles apart.
pub fn is_blocked(all: &[Access]) -> bool {
    let is_spared =
        |access: &Access, grant: &Grant| grant.role.as_ref().is_some_and(|role| access.spared.contains(role));
    all.iter().all(|access| access.connect.iter().all(|grant| is_spared(access, grant)))
}

/// Returns by which rights `role` could write to the database of this session, a line each; none if it cannot.
///
/// Looked at are the role itself and every role that it could become. A function that runs with its owner's rights is not
/// seen through.
///
/// # Errors
/// [`PgError`].
pub async fn ways_to_write(session: &Session, role: &str) -> Result<Vec<String>, PgError> {
    match session.query(WAYS_TO_WRITE, &[&role]).await {
        Ok(rows) => Ok(rows.iter().map(|row| row.get(0)).collect()),
        Err(error) if error.sqlstate() == Some(&SqlState::UNDEFINED_OBJECT) => {
            Ok(vec!["there is no such role".to_owned()])
        }
        Err(error) => Err(error),
    }
}

const WAYS_TO_WRITE: &str = "
    WITH who AS (SELECT r.oid, r.rolname, r.rolsuper FROM pg_catalog.pg_roles AS r
                  WHERE pg_catalog.pg_has_role($1::text::name, r.oid, 'MEMBER')),
         of AS (SELECT c.oid, c.relkind, c.relowner, c.oid::regclass::text AS name
                  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p', 'v', 'f', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
    SELECT pg_catalog.format('`%s` is a superuser', rolname) FROM who WHERE rolsuper
     UNION
    SELECT DISTINCT ON (w.rolname) pg_catalog.format('`%s` may write to `%s`', w.rolname, of.name) FROM who AS w, of
     WHERE NOT w.rolsuper AND CASE of.relkind
           WHEN 'S' THEN pg_catalog.has_sequence_privilege(w.oid, of.oid, 'USAGE, UPDATE')
           ELSE pg_catalog.has_table_privilege(w.oid, of.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
                OR pg_catalog.has_any_column_privilege(w.oid, of.oid, 'INSERT, UPDATE') END
     UNION
    SELECT pg_catalog.format('`%s` may create objects in schema `%s`', w.rolname, n.nspname)
      FROM who AS w, pg_catalog.pg_namespace AS n
     WHERE NOT w.rolsuper AND n.nspname !~ '^pg_' AND pg_catalog.has_schema_privilege(w.oid, n.oid, 'CREATE')
     UNION
    SELECT pg_catalog.format('`%s` may create schemas', w.rolname) FROM who AS w
     WHERE NOT w.rolsuper AND pg_catalog.has_database_privilege(w.oid, pg_catalog.current_database(), 'CREATE')
     ORDER BY 1";

/// Client sessions in these databases that are not pgleap's own, nor of a role that is spared.
const FOREIGN: &str = "
    SELECT a.pid, a.usename::text, a.application_name, a.datname::text, coalesce(a.state, ''),
           coalesce(r.rolsuper, false)
      FROM pg_catalog.pg_stat_activity AS a LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
     WHERE a.datname = ANY($1::text[]) AND a.backend_type = 'client backend'
       AND a.pid <> pg_catalog.pg_backend_pid() AND a.application_name <> $2
       AND NOT coalesce(a.usename = ANY($3::text[]), false)";

const END_FOREIGN: &str = "
    SELECT a.pid, a.usename::text, a.application_name, a.datname::text, coalesce(a.state, ''),
           coalesce(r.rolsuper, false), pg_catalog.pg_terminate_backend(a.pid)
      FROM pg_catalog.pg_stat_activity AS a LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
     WHERE a.datname = ANY($1::text[]) AND a.backend_type = 'client backend'
       AND a.pid <> pg_catalog.pg_backend_pid() AND a.application_name <> $2
       AND NOT coalesce(a.usename = ANY($3::text[]), false)";

/// Of client sessions that a fence stops: how many there are, those ended now that are in no transaction.
const END_IDLE: &str = "
    SELECT count(*), count(CASE WHEN a.state = 'idle' THEN pg_catalog.pg_terminate_backend(a.pid) END)
      FROM pg_catalog.pg_stat_activity AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid AND NOT r.rolsuper
     WHERE a.datname = ANY($1::text[]) AND a.backend_type = 'client backend' AND a.usename <> ALL($3::text[])
       AND a.pid <> pg_catalog.pg_backend_pid() AND a.application_name <> $2";

/// A client session that is not pgleap's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its process.
    pub pid: i32,
    /// Its role.
    pub role: Option<String>,
    /// What it calls itself.
    pub application: String,
    /// Its database.
    pub database: String,
    /// `active`, `idle`, `idle in transaction` …
    pub state: String,
    /// Its role is a superuser, whom no fence stops.
    pub superuser: bool,
}

impl Foreign {
    /// Whether it could write past the fence: a superuser that `tolerated` names neither by role nor by application.
    pub fn passes_fence(&self, tolerated: &[String]) -> bool {
        let named = |name: &String| Some(name) == self.role.as_ref() || *name == self.application;
        self.superuser && !tolerated.iter().any(named)
    }

    fn read(row: &tokio_postgres::Row) -> Self {
        Self {
            pid: row.get(0),
            role: row.get(1),
            application: row.get(2),
            database: row.get(3),
            state: row.get(4),
            superuser: row.get(5),
        }
    }
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pid, role, application, database, state, superuser } = self;
        let kind = if *superuser { "superuser" } else { "role" };
        let role = role.as_deref().unwrap_or("?");
        write!(f, "pid {pid} ({kind} `{role}`, `{application}`, database `{database}`, {state})")
    }
}

/// Returns the client sessions in `databases` other than pgleap's own and those of `spared` roles.
///
/// # Errors
/// [`PgError`].
pub async fn foreign(
    session: &Session,
    databases: &[String],
    own: &str,
    spared: &[String],
) -> Result<Vec<Foreign>, PgError> {
    Ok(session.query(FOREIGN, &[&databases, &own, &spared]).await?.iter().map(Foreign::read).collect())
}

/// Ends the client sessions in `databases` other than pgleap's own and those of `spared` roles; returns those that were told
/// to go.
///
/// # Errors
/// [`PgError`].
pub async fn end_foreign(
    session: &Session,
    databases: &[String],
    own: &str,
    spared: &[String],
) -> Result<Vec<Foreign>, PgError> {
    Ok(session.query(END_FOREIGN, &[&databases, &own, &spared]).await?.iter().map(Foreign::read).collect())
}

/// Ends the client sessions that are in no transaction, superusers' and those of `spared` roles apart; returns how many there were in all, busy or not.
///
/// # Errors
/// [`PgError`].
pub async fn end_idle(session: &Session, databases: &[String], own: &str, spared: &[String]) -> Result<i64, PgError> {
    Ok(session.query_one(END_IDLE, &[&databases, &own, &spared]).await?.get(0))
}

/// Prepares the statements of [`foreign`], [`end_foreign`] and [`end_idle`].
///
/// # Errors
/// [`PgError`].
pub async fn warm(session: &Session) -> Result<(), PgError> {
    session.prepare(FOREIGN).await?;
    session.prepare(END_FOREIGN).await?;
    session.prepare(END_IDLE).await?;
    Ok(())
}
