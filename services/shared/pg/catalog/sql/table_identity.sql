-- Identities of tables and partitioned tables: services.shared.model.tables.identity. Reads only columns of
-- catalogs, because functions return the current state of the catalogs, whatever the snapshot is.
SELECT n.nspname,
       c.relname,
       c.oid::bigint,
       c.relkind::text,
       c.relfilenode::bigint,
       c.relpersistence::text,
       p.way,
       coalesce(p.generated, false),
       coalesce((SELECT json_agg(json_build_array(
                            a.attnum, a.attname, a.atttypid::bigint, a.atttypmod, a.attcollation::bigint,
                            a.attnotnull,
                            coalesce((SELECT pg_catalog.hashtext(d.adbin::text) FROM pg_catalog.pg_attrdef d
                                       WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum), 0),
                            {a.attgenerated},
                            a.attidentity, a.xmin::text)
                          ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]')
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
        WITH RECURSIVE up AS (
            SELECT c.oid AS relation, '' AS way
             UNION ALL
            SELECT i.inhparent, up.way || i.inhparent || '@' || i.xmin || ' '
              FROM up
              JOIN pg_catalog.pg_class r ON r.oid = up.relation AND r.relispartition
              JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.relation)
        SELECT string_agg(up.way || r.oid || ' ' || b.oid || '@' || b.xmin, ', ' ORDER BY b.oid, r.oid) AS way,
               bool_or({b.pubgencols} = 's') AS generated
          FROM up
          JOIN pg_catalog.pg_publication_rel r ON r.prrelid = up.relation
          JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
         WHERE b.pubname = ANY (%(publications)s::name[])) p ON true
 WHERE c.relkind IN ('r', 'p')
   AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
