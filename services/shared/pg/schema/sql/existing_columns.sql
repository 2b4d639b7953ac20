-- Columns of some relations, with types spelled in the same way on every server.
SELECT n.nspname, c.relname, c.relkind::text,
       coalesce((SELECT json_agg(json_build_object(
                            'name', a.attname,
                            'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
                            'generated', {a.attgenerated} <> '')
                        ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]')
  FROM unnest(%(schemas)s::text[], %(names)s::text[]) t (s, n)
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.s
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.n
