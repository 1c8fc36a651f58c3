-- Lists functions whose body mentions built-in functions, or columns of system relations, that the target does not have.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- $1: names of functions; $2: relations; $3: their columns, one for each of $2.
-- Columns: name text, gone text (a name out of $1, or relation.column)
-- A body is a text until it is called, so this looks for words and may be wrong about a comment.
WITH bodies AS (
    SELECT p.oid::pg_catalog.regprocedure::text AS name, p.prosrc AS body
      FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
     WHERE p.oid >= 16384 AND l.lanname NOT IN ('internal', 'c')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
                          AND d.deptype = 'e')
), words AS (
    SELECT given AS gone, pg_catalog.format('\m%s\s*\(', given) AS first, '' AS second FROM unnest($1::text[]) AS given
    UNION ALL
    SELECT relation || '.' || col, pg_catalog.format('\m%s\M', relation), pg_catalog.format('\m%s\M', col)
      FROM unnest($2::text[], $3::text[]) AS c (relation, col)
)
SELECT b.name, w.gone FROM bodies AS b JOIN words AS w ON b.body ~* w.first AND b.body ~* w.second ORDER BY 1, 2
