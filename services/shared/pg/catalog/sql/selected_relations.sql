-- Relations that can be selected by name: tables, partitioned roots, views, sequences.
SELECT c.oid::bigint,
       n.nspname,
       c.relname,
       c.relkind::text,
       coalesce(r.rolname, '')::text,
       coalesce((SELECT i.inhparent FROM pg_catalog.pg_inherits i
                  WHERE i.inhrelid = c.oid AND c.relispartition LIMIT 1), 0)::bigint,
       coalesce((SELECT d.refobjid FROM pg_catalog.pg_depend d
                  WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = c.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') LIMIT 1), 0)::bigint
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
   AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
