-- Lists published tables whose replica identity holds a stored generated column.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- Columns: table_name text, generated text[], is_full bool
WITH generated AS (
    SELECT attrelid, array_agg(attnum ORDER BY attnum) AS numbers,
           array_agg(pg_catalog.quote_ident(attname) ORDER BY attnum) AS names
      FROM pg_catalog.pg_attribute
     WHERE attgenerated = 's' AND attnum > 0 AND NOT attisdropped AND attrelid >= 16384 GROUP BY attrelid
)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS table_name, g.names AS generated, c.relreplident = 'f' AS is_full
  FROM generated AS g JOIN pg_catalog.pg_class AS c ON c.oid = g.attrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_index AS i
    ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
 WHERE c.relkind = 'r' AND c.relpersistence = 'p'
   AND (c.relreplident = 'f' OR (i.indkey::int2[])[0:i.indnkeyatts - 1] && g.numbers)
 ORDER BY 1
