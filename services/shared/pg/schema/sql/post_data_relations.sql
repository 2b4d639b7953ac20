SELECT n.nspname, c.relname,
       CASE WHEN c.relkind = 'r' AND NOT c.relispartition
                 AND (EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid)
                      OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid))
            THEN 'h' ELSE c.relkind::text END
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm', 'p')
   AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY c.relpages DESC, n.nspname, c.relname
