-- Tables with generated columns: whether stored ones and virtual ones are part of the replica identity, by
-- which old rows are logged, and whether there are virtual ones at all. Since version 12.
SELECT n.nspname,
       c.relname,
       bool_or(g.kind = 's' AND g.identifies),
       bool_or(g.kind = 'v' AND g.identifies),
       bool_or(g.kind = 'v')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT a.attgenerated AS kind,
              c.relreplident = 'f'
              OR EXISTS (SELECT FROM pg_catalog.pg_index i
                          WHERE i.indrelid = c.oid
                            AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                                    WHEN 'i' THEN i.indisreplident
                                                    ELSE false END
                            AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS identifies
         FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> '') g
 WHERE c.relkind IN ('r', 'p')
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 GROUP BY n.nspname, c.relname
