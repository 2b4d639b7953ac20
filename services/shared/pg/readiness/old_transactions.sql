-- The oldest transactions of other sessions, with each table that they have locked such that the EXCLUSIVE
-- lock of a switchover would wait. One row for each table, or one without a table.
WITH old AS (
    SELECT a.pid, coalesce(a.application_name, '') AS application, coalesce(a.usename, '')::text AS role,
           coalesce(a.state, 'state unknown') AS state,
           greatest(0, extract(epoch FROM clock_timestamp() - a.xact_start))::int AS seconds
      FROM pg_catalog.pg_stat_activity a
     WHERE a.datname = current_database() AND a.usesysid IS NOT NULL
       AND a.pid <> ALL (%(spared)s)
       AND a.xact_start < clock_timestamp() - interval '1 second'
     ORDER BY a.xact_start
     LIMIT 20)
SELECT o.pid, o.application, o.role, o.state, o.seconds, t.nspname, t.relname
  FROM old o
  LEFT JOIN (
        SELECT DISTINCT l.pid, n.nspname, c.relname
          FROM pg_catalog.pg_locks l
          JOIN pg_catalog.pg_class c ON c.oid = l.relation
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE l.locktype = 'relation' AND l.granted AND l.mode <> 'AccessShareLock'
           AND l.pid IN (SELECT pid FROM old)
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
           AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
           AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)) t
    ON t.pid = o.pid
 ORDER BY o.seconds DESC, o.pid, t.nspname, t.relname
