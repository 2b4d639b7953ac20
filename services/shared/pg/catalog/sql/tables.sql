-- Tables to copy, with their columns in attribute order. The replica key is the index by which PostgreSQL
-- would log old rows: valid, unique and immediate.
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
       CASE WHEN %(sizes)s THEN coalesce(pg_catalog.pg_table_size(c.oid), 0) ELSE 0 END, -- NULL: just dropped
       c.relpersistence = 'p',
       CASE WHEN %(sizes)s AND m.amname = 'heap'
            THEN coalesce(pg_catalog.pg_relation_size(c.oid), 0) / pg_catalog.current_setting('block_size')::int
            ELSE 0 END,
       coalesce((SELECT a.attname::text
                   FROM pg_catalog.pg_index i
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                  WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid
                    AND a.atttypid IN (20, 21, 23)), ''),  -- int8, int2, int4
       coalesce((SELECT json_agg(json_build_object('name', a.attname,
                                                   'type', a.atttypid::bigint,
                                                   'generated', {a.attgenerated} <> '',
                                                   'always', a.attidentity = 'a')
                                 ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
 WHERE c.relkind = 'r'
   AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
