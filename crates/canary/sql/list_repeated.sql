-- Lists which numbers each client has more than once in one canary table, as runs of consecutive numbers.
-- Runs on: any audited database, 13 and later.  Role: may read pgleap_canary.  Locks: none that wait.  Writes: no.
-- Parameters: table; clients, a list of literals.
-- Columns: client text, low bigint, high bigint
SELECT client, pg_catalog.min(seq) AS low, pg_catalog.max(seq) AS high
  FROM (SELECT client, seq, seq - pg_catalog.row_number() OVER (PARTITION BY client ORDER BY seq) AS island
          FROM pgleap_canary.{table}
         WHERE client IN ({clients})
         GROUP BY client, seq
        HAVING pg_catalog.count(*) > 1) AS repeated
 GROUP BY client, island
 ORDER BY client, low
