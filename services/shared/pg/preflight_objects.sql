-- What a user made in this database: schemas, relations, types, functions, large objects.
-- Members of extensions and what every new database has do not count.
WITH made AS (
    SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass AS class, n.oid, 'schema ' || n.nspname AS label
      FROM pg_catalog.pg_namespace n
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid,
           CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'S' THEN 'sequence '
                          WHEN 'f' THEN 'foreign table ' ELSE 'table ' END || n.nspname || '.' || c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 'type ' || n.nspname || '.' || t.typname
      FROM pg_catalog.pg_type t
      JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     WHERE (t.typtype IN ('e', 'd', 'r')
            OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_catalog.pg_class c
                                            WHERE c.oid = t.typrelid AND c.relkind = 'c'))
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 'function ' || n.nspname || '.' || p.proname
      FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass, l.oid, 'large object ' || l.oid
      FROM pg_catalog.pg_largeobject_metadata l
)
SELECT label
  FROM made
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = made.class AND d.objid = made.oid AND d.deptype = 'e')
 ORDER BY label
 LIMIT 50
