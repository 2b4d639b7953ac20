-- Tables whose rows a dump contains although they belong to an extension (pg_extension_config_dump), with the
-- condition that distinguishes the user's rows from the extension's own.
SELECT n.nspname,
       c.relname,
       coalesce(x.condition, ''),
       ARRAY(SELECT a.attname::text
               FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND {a.attgenerated} = ''
              ORDER BY a.attnum),
       pg_catalog.has_table_privilege(c.oid, 'UPDATE')
  FROM pg_catalog.pg_extension e
 CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) AS x (table_oid, condition)
  JOIN pg_catalog.pg_class c ON c.oid = x.table_oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r'
 ORDER BY e.extname, n.nspname, c.relname
