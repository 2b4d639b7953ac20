-- Definitions of the columns of some tables, for the comparison with those on the other server.
SELECT n.nspname,
       c.relname,
       a.attnum,
       a.attname,
       t.typname,
       a.atttypmod,
       pg_catalog.format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attcollation <> t.typcollation THEN o.collname ELSE '' END,
       a.attnotnull,
       pg_catalog.convert_to(coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), ''), %(encoding)s),
       {a.attgenerated},
       a.attidentity::text,
       pg_catalog.convert_to(({a.attmissingval}::text[])[1], %(encoding)s) -- of rows older than the column
  FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS wanted (s, r)
  JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.s
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.r AND c.relkind IN ('r', 'p')
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 ORDER BY 1, 2, 3
