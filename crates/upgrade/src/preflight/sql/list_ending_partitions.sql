-- Lists tables partitioned by ranges of time whose newest partition ends soon, without a default partition to go on in.
-- Runs on: source, 13 and later.  Role: any that can read pg_catalog.  Locks: AccessShare on partitions, from 17 on, for a moment.
-- Writes: no.  $1 int: how many days are soon.
-- Columns: table_name, owner text, partitions bigint, ends text, more text[] (statements that make partitions until then, as wide as
--          the newest; empty where its width is not known)
-- Bounds are read by the clock of the session's time zone, in which they are shown too. What ended already nobody writes to.
WITH keyed AS MATERIALIZED (
    SELECT p.partrelid, a.atttypid
      FROM pg_catalog.pg_partitioned_table AS p
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
     WHERE p.partstrat = 'r' AND p.partnatts = 1 AND p.partdefid = 0
       AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
), bounds AS (
    SELECT k.partrelid, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound
      FROM keyed AS k JOIN pg_catalog.pg_inherits AS i ON i.inhparent = k.partrelid
      JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
), newest AS (
    SELECT r.partrelid, count(*) AS partitions, max(r.upper) AS upper,
           (array_agg(r.lower ORDER BY r.upper DESC))[1] AS lower
      FROM (SELECT partrelid,
                   pg_catalog.substring(bound, 'FROM \(''(\d{4}-[^'']+)''\)')::timestamptz::timestamp AS lower,
                   pg_catalog.substring(bound, 'TO \(''(\d{4}-[^'']+)''\)')::timestamptz::timestamp AS upper
              FROM bounds) AS r
     -- MAXVALUE, infinity and years of five digits do not end
     GROUP BY 1 HAVING bool_and(r.upper IS NOT NULL)
)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS table_name,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       w.partitions,
       CASE k.atttypid WHEN 'date'::regtype THEN w.upper::date::text ELSE w.upper::text END AS ends,
       coalesce((SELECT array_agg(pg_catalog.format(
                            'CREATE TABLE %I.%I PARTITION OF %1$I.%3$I FOR VALUES FROM (%4$L) TO (%5$L);',
                            n.nspname,
                            pg_catalog.left(c.relname, 40)
                            || pg_catalog.to_char(s.at, CASE WHEN s.at = s.at::date THEN '_YYYYMMDD' ELSE '_YYYYMMDD_HH24MI' END),
                            c.relname,
                            CASE k.atttypid WHEN 'date'::regtype THEN s.at::date::text
                                            WHEN 'timestamptz'::regtype THEN s.at::timestamptz::text ELSE s.at::text END,
                            CASE k.atttypid WHEN 'date'::regtype THEN (s.at + s.width)::date::text
                                            WHEN 'timestamptz'::regtype THEN (s.at + s.width)::timestamptz::text
                                            ELSE (s.at + s.width)::text END) ORDER BY s.at)
                   FROM (SELECT at, width
                           FROM (SELECT pg_catalog.age(w.upper, w.lower) AS width) AS a,
                                pg_catalog.generate_series(w.upper, localtimestamp + pg_catalog.make_interval(days => $1), width) AS at
                          LIMIT 400) AS s), '{}') AS more
  FROM newest AS w
  JOIN keyed AS k USING (partrelid)
  JOIN pg_catalog.pg_class AS c ON c.oid = w.partrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE w.upper > localtimestamp AND w.upper < localtimestamp + pg_catalog.make_interval(days => $1)
   -- a partition that is itself partitioned is filled to its own end
   AND pg_catalog.substring(pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'TO \(''(\d{4}-[^'']+)''\)')::timestamptz::timestamp
       IS DISTINCT FROM w.upper
 ORDER BY w.upper, 1
