-- Relations that a pattern matches. A pattern without a schema matches only relations that are visible in the
-- search path: of several relations with the same name, the first one.
SELECT c.oid::bigint
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%(oids)s::bigint[])
   AND c.relname OPERATOR(pg_catalog.~) %(name)s COLLATE pg_catalog."default"
   AND CASE WHEN %(schema)s <> '' THEN n.nspname OPERATOR(pg_catalog.~) %(schema)s COLLATE pg_catalog."default"
            ELSE n.nspname = ANY (%(path)s::text[])
                 AND NOT EXISTS (
                     SELECT FROM pg_catalog.pg_class o
                       JOIN pg_catalog.pg_namespace m ON m.oid = o.relnamespace
                      WHERE o.relname = c.relname
                        AND pg_catalog.array_position(%(path)s::text[], m.nspname::text)
                          < pg_catalog.array_position(%(path)s::text[], n.nspname::text))
       END
