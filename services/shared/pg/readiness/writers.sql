SELECT DISTINCT a.pid, coalesce(a.application_name, ''), coalesce(a.usename, '')::text, n.nspname, c.relname
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE l.locktype = 'relation' AND l.granted
   AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
   AND a.usesysid IS NOT NULL
   AND NOT (a.usename = current_user AND coalesce(a.application_name, '') = %(ours)s)
   AND (NOT %(with_id)s OR EXISTS (
        SELECT FROM pg_catalog.pg_locks x
         WHERE x.pid = l.pid AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock' AND x.granted))
   AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)
 ORDER BY 1, 4, 5
