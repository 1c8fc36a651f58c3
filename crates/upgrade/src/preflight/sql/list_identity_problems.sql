-- Lists tables that FOR ALL TABLES would publish and whose UPDATE or DELETE could not be replicated, or only by comparing rows.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: none on tables.  Writes: no.
-- Columns: table_name text, identity text (pg_class.relreplident), deferrable_key text (its columns), usable_index text,
--          incomparable text[] (columns and their types), generated bool (it has stored generated columns), oid oid,
--          searchable bool (an index that 16 and later find rows by under FULL), new_index text (a name for one)
-- Partitioned tables are left out: what counts is the partition that a row is in.
WITH RECURSIVE keys AS (
    -- Only indexes that are valid and checked at once identify rows (RelationGetIndexList).
    SELECT indrelid,
           bool_or(indisprimary AND indisvalid AND indimmediate) AS has_primary,
           bool_or(indisprimary AND NOT indimmediate) AS deferrable_primary,
           bool_or(indisreplident AND indisvalid AND indimmediate) AS has_identity
      FROM pg_catalog.pg_index GROUP BY indrelid
), unidentified AS (
    SELECT c.oid, c.relname, c.relnamespace, c.relreplident, coalesce(k.deferrable_primary, false) AS deferrable_primary
      FROM pg_catalog.pg_class AS c LEFT JOIN keys AS k ON k.indrelid = c.oid
     -- below 16384 is what initdb made, which no publication holds
     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
       AND NOT CASE c.relreplident
                   WHEN 'd' THEN coalesce(k.has_primary, false)
                   WHEN 'i' THEN coalesce(k.has_identity, false)
                   -- with a primary key rows are found by it, also under FULL
                   WHEN 'f' THEN coalesce(k.has_primary, false)
                   ELSE false
               END
), compared AS (
    SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod
      FROM pg_catalog.pg_attribute AS a JOIN unidentified AS u ON u.oid = a.attrelid
     WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
), parts AS (
    -- what a type is made of, down to base types: domains, arrays and rows compare by their parts
    SELECT DISTINCT atttypid AS whole, atttypid AS part FROM compared
    UNION
    SELECT p.whole, x.part
      FROM parts AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.part,
           LATERAL (SELECT t.typbasetype WHERE t.typtype = 'd'
                    UNION ALL SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
                    UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
                               WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
                                 AND NOT a.attisdropped) AS x(part)
), equality AS (
    SELECT o.opcintype AS type FROM pg_catalog.pg_opclass AS o JOIN pg_catalog.pg_am AS m ON m.oid = o.opcmethod
     WHERE o.opcdefault AND m.amname IN ('btree', 'hash')
), incomparable AS (
    SELECT DISTINCT p.whole
      FROM parts AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.part
     WHERE t.typtype = 'b' AND NOT (t.typcategory = 'A' AND t.typelem <> 0)
       AND NOT EXISTS (SELECT FROM equality AS e WHERE e.type = t.oid)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_cast AS c JOIN equality AS e ON e.type = c.casttarget
                        WHERE c.castsource = t.oid AND c.castmethod = 'b' AND c.castcontext = 'i')
), incomparable_columns AS (
    -- gathered once: looked up for each table, this would grow with the square of their number
    SELECT c.attrelid,
           array_agg(pg_catalog.format('%s %s', c.attname, pg_catalog.format_type(c.atttypid, c.atttypmod))
                     ORDER BY c.attnum) AS columns
      FROM compared AS c JOIN incomparable AS i ON i.whole = c.atttypid GROUP BY c.attrelid
)
SELECT pg_catalog.format('%I.%I', n.nspname, u.relname) AS table_name,
       u.relreplident::text AS identity,
       CASE WHEN u.deferrable_primary THEN
           (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', '
                                         ORDER BY pg_catalog.array_position(i.indkey::int2[], a.attnum))
              FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid
             WHERE i.indrelid = u.oid AND i.indisprimary AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
       END AS deferrable_key,
       -- names have 63 bytes, and letters up to 4
       pg_catalog.quote_ident(pg_catalog.left(u.relname::text, 10) || '_identity_' || u.oid) AS new_index,
       (SELECT ic.relname::text
          FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
         WHERE i.indrelid = u.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
           AND i.indpred IS NULL AND i.indexprs IS NULL
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                            WHERE a.attrelid = u.oid AND (NOT a.attnotnull OR a.attgenerated <> '')
                              AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
         ORDER BY i.indnkeyatts, ic.relname LIMIT 1) AS usable_index,
       coalesce(b.columns, '{}') AS incomparable,
       EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                WHERE a.attrelid = u.oid AND a.attgenerated = 's' AND NOT a.attisdropped) AS generated,
       u.oid,
       EXISTS (SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS ic ON ic.oid = i.indexrelid
                 JOIN pg_catalog.pg_am AS m ON m.oid = ic.relam
                WHERE i.indrelid = u.oid AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
                  AND i.indkey[0] <> 0) AS searchable
  FROM unidentified AS u JOIN pg_catalog.pg_namespace AS n ON n.oid = u.relnamespace
  LEFT JOIN incomparable_columns AS b ON b.attrelid = u.oid
 ORDER BY 1
