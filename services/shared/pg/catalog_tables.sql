-- Tables to copy with their columns in attribute order. A replica key is the index that
-- PostgreSQL would log old rows by: valid, unique and immediate.
SELECT n.nspname,
       c.relname,
       c.oid::bigint,
       c.relreplident::text,
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate
                  AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                          WHEN 'i' THEN i.indisreplident
                                          ELSE false END),
       greatest(c.reltuples, 0)::bigint,
       CASE WHEN %(sizes)s THEN pg_catalog.pg_table_size(c.oid) ELSE 0 END,
       c.relpersistence = 'p',
       coalesce((SELECT json_agg(json_build_object('name', a.attname,
                                                   'type', a.atttypid::bigint,
                                                   'generated', coalesce(pg_catalog.to_jsonb(a) ->> 'attgenerated', '') <> '', -- from 12 on
                                                   'always', a.attidentity = 'a')
                                 ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r'
   AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
