//! What DDL made or changed after a transaction id: no check of its own, but what two ask.
//!
//! Seen by the transaction ids of catalog rows. What was dropped is not seen, nor a change that leaves its row as it was. A row
//! that is older than half of all ids is never new, though its id may look so.

use crate::pg::{PgError, Session};

/// A table's system columns are written when it is made and never again; TRUNCATE and VACUUM write no columns at all.
const TABLES: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relispartition, bool_or(a.attnum < 0)
      FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE pg_catalog.age(a.xmin) BETWEEN 0 AND pg_catalog.age($1::text::xid) - 1
       AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384 AND n.nspname <> 'pgleap'
     GROUP BY 1, 2 ORDER BY 1";

/// Constraints of a table that is itself new are not told, nor those that are columns' or indexes' own.
const OBJECTS: &str = "
    WITH since AS (SELECT pg_catalog.age($1::text::xid) AS age),
    relations AS (
        SELECT c.oid, c.relkind FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relpersistence <> 't' AND c.oid >= 16384 AND n.nspname NOT IN ('pgleap', 'pg_toast')
    ), own AS (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname <> 'pgleap' AND nspname !~ '^pg_temp'
    )
    SELECT 'index ' || i.indexrelid::regclass::text
      FROM pg_catalog.pg_index AS i JOIN relations AS r ON r.oid = i.indexrelid CROSS JOIN since
     WHERE pg_catalog.age(i.xmin) BETWEEN 0 AND since.age - 1 AND NOT i.indisprimary
     UNION
    SELECT 'extension ' || pg_catalog.quote_ident(e.extname) || ' ' || e.extversion
      FROM pg_catalog.pg_extension AS e CROSS JOIN since WHERE pg_catalog.age(e.xmin) BETWEEN 0 AND since.age - 1
     UNION
    SELECT 'enum ' || e.enumtypid::regtype::text
      FROM pg_catalog.pg_enum AS e CROSS JOIN since WHERE pg_catalog.age(e.xmin) BETWEEN 0 AND since.age - 1
     UNION
    SELECT CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || t.oid::regtype::text
      FROM pg_catalog.pg_type AS t JOIN own ON own.oid = t.typnamespace CROSS JOIN since
     WHERE pg_catalog.age(t.xmin) BETWEEN 0 AND since.age - 1 AND t.oid >= 16384
       AND (t.typtype IN ('d', 'r') OR (t.typtype = 'b' AND t.typelem = 0)
            OR EXISTS (SELECT FROM relations AS r WHERE r.oid = t.typrelid AND r.relkind = 'c'))
     UNION
    SELECT 'function ' || p.oid::regprocedure::text
      FROM pg_catalog.pg_proc AS p JOIN own ON own.oid = p.pronamespace CROSS JOIN since
     WHERE pg_catalog.age(p.xmin) BETWEEN 0 AND since.age - 1 AND p.oid >= 16384
     UNION
    SELECT 'sequence ' || s.seqrelid::regclass::text
      FROM pg_catalog.pg_sequence AS s JOIN relations AS r ON r.oid = s.seqrelid CROSS JOIN since
     WHERE pg_catalog.age(s.xmin) BETWEEN 0 AND since.age - 1
     UNION
    SELECT 'trigger ' || pg_catalog.quote_ident(t.tgname) || ' of ' || t.tgrelid::regclass::text
      FROM pg_catalog.pg_trigger AS t CROSS JOIN since
     WHERE pg_catalog.age(t.xmin) BETWEEN 0 AND since.age - 1 AND NOT t.tgisinternal
     UNION
    SELECT 'policy ' || pg_catalog.quote_ident(p.polname) || ' of ' || p.polrelid::regclass::text
      FROM pg_catalog.pg_policy AS p CROSS JOIN since WHERE pg_catalog.age(p.xmin) BETWEEN 0 AND since.age - 1
     UNION
    SELECT 'constraint ' || pg_catalog.quote_ident(k.conname) || ' of ' || k.conrelid::regclass::text
      FROM pg_catalog.pg_constraint AS k JOIN relations AS r ON r.oid = k.conrelid CROSS JOIN since
     WHERE pg_catalog.age(k.xmin) BETWEEN 0 AND since.age - 1 AND k.contype IN ('c', 'f')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = k.conrelid AND a.attnum < 0
                          AND pg_catalog.age(a.xmin) BETWEEN 0 AND since.age - 1)
     UNION
    -- pgleap's own are made when an upgrade begins
    SELECT 'publication ' || pg_catalog.quote_ident(p.pubname)
      FROM pg_catalog.pg_publication AS p CROSS JOIN since
     WHERE pg_catalog.age(p.xmin) BETWEEN 0 AND since.age - 1 AND p.pubname NOT LIKE 'pgleap\\_%'
     UNION
    SELECT 'view ' || c.oid::regclass::text
      FROM pg_catalog.pg_rewrite AS w JOIN relations AS c ON c.oid = w.ev_class CROSS JOIN since
     WHERE pg_catalog.age(w.xmin) BETWEEN 0 AND since.age - 1 AND c.relkind IN ('v', 'm')
     ORDER BY 1";

/// What DDL left behind, as SQL writes names.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Tables that were made; a partition says so.
    pub made: Vec<String>,
    /// Tables whose columns changed.
    pub altered: Vec<String>,
    /// Everything else, after what it is: `index public.by_b`.
    pub others: Vec<String>,
}

impl Changed {
    /// Looks at what is newer than the transaction id `after`.
    ///
    /// # Errors
    /// [`PgError`], if the server does not say.
    pub async fn after(session: &Session, after: &str) -> Result<Self, PgError> {
        let mut changed = Self::default();
        for row in session.query(TABLES, &[&after]).await? {
            let (name, partition, is_new): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
            let name = if partition { format!("{name} (partition)") } else { name };
            if is_new { changed.made.push(name) } else { changed.altered.push(name) }
        }
        changed.others = session.query(OBJECTS, &[&after]).await?.iter().map(|row| row.get(0)).collect();
        Ok(changed)
    }
}

const ROLES: &str = "
    SELECT 'role ' || pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_authid AS r
     WHERE pg_catalog.age(r.xmin) BETWEEN 0 AND pg_catalog.age($1::text::xid) - 1 AND r.rolname !~ '^pg_'
     UNION
    SELECT pg_catalog.format('membership of %I in %I', m.rolname, g.rolname)
      FROM pg_catalog.pg_auth_members AS a
      JOIN pg_catalog.pg_roles AS m ON m.oid = a.member JOIN pg_catalog.pg_roles AS g ON g.oid = a.roleid
     WHERE pg_catalog.age(a.xmin) BETWEEN 0 AND pg_catalog.age($1::text::xid) - 1
     UNION
    SELECT pg_catalog.format('settings of role %I', r.rolname)
      FROM pg_catalog.pg_db_role_setting AS s JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
     WHERE pg_catalog.age(s.xmin) BETWEEN 0 AND pg_catalog.age($1::text::xid) - 1
     ORDER BY 1";

const MAY_SEE_ROLES: &str = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')";

/// Returns the roles, memberships and roles' settings that were made or altered after the transaction id `after`, passwords among
/// it; nothing to a role that may not look.
///
/// # Errors
/// [`PgError`], if the server does not say.
pub(super) async fn roles_after(session: &Session, after: &str) -> Result<Vec<String>, PgError> {
    if !session.query_one(MAY_SEE_ROLES, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    Ok(session.query(ROLES, &[&after]).await?.iter().map(|row| row.get(0)).collect())
}
