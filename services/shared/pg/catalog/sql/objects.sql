-- User-created objects of this database, by kind and name; a relation includes its parts. Members of
-- extensions, and objects that every new database has, do not count. The first object of each kind comes
-- first, then the second of each kind.
WITH made AS (
    SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass::oid AS class, n.oid,
           n.nspname AS schema, NULL::name AS name
      FROM pg_catalog.pg_namespace n
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, n.nspname, c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, n.nspname, NULL
      FROM pg_catalog.pg_type t
      JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     WHERE (t.typtype IN ('e', 'd', 'r')
            OR t.typtype = 'b' AND t.typelem = 0
            OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_catalog.pg_class c
                                            WHERE c.oid = t.typrelid AND c.relkind = 'c'))
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, n.nspname, NULL
      FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                          AND d.objid = p.oid AND d.deptype = 'i')
    UNION ALL
    SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass, o.oid, n.nspname, NULL
      FROM pg_catalog.pg_operator o
      JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_collation'::pg_catalog.regclass, c.oid, n.nspname, NULL
      FROM pg_catalog.pg_collation c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_ts_config'::pg_catalog.regclass, c.oid, n.nspname, NULL
      FROM pg_catalog.pg_ts_config c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.cfgnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_ts_dict'::pg_catalog.regclass, d.oid, n.nspname, NULL
      FROM pg_catalog.pg_ts_dict d
      JOIN pg_catalog.pg_namespace n ON n.oid = d.dictnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_ts_parser'::pg_catalog.regclass, p.oid, n.nspname, NULL
      FROM pg_catalog.pg_ts_parser p
      JOIN pg_catalog.pg_namespace n ON n.oid = p.prsnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_ts_template'::pg_catalog.regclass, t.oid, n.nspname, NULL
      FROM pg_catalog.pg_ts_template t
      JOIN pg_catalog.pg_namespace n ON n.oid = t.tmplnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_conversion'::pg_catalog.regclass, c.oid, n.nspname, NULL
      FROM pg_catalog.pg_conversion c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_opfamily'::pg_catalog.regclass, f.oid, n.nspname, NULL
      FROM pg_catalog.pg_opfamily f
      JOIN pg_catalog.pg_namespace n ON n.oid = f.opfnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_opclass'::pg_catalog.regclass, c.oid, n.nspname, NULL
      FROM pg_catalog.pg_opclass c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.opcnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    -- Objects outside of schemas. Those that every database has have lower OIDs.
    SELECT 'pg_catalog.pg_cast'::pg_catalog.regclass, c.oid, NULL, NULL
      FROM pg_catalog.pg_cast c
     WHERE c.oid >= 16384
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d  -- of a range to its multirange
                        WHERE d.classid = 'pg_catalog.pg_cast'::pg_catalog.regclass
                          AND d.objid = c.oid AND d.deptype = 'i')
    UNION ALL
    SELECT 'pg_catalog.pg_transform'::pg_catalog.regclass, t.oid, NULL, NULL
      FROM pg_catalog.pg_transform t WHERE t.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_language'::pg_catalog.regclass, l.oid, NULL, NULL
      FROM pg_catalog.pg_language l WHERE l.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_am'::pg_catalog.regclass, a.oid, NULL, NULL
      FROM pg_catalog.pg_am a WHERE a.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, w.oid, NULL, NULL
      FROM pg_catalog.pg_foreign_data_wrapper w
    UNION ALL
    SELECT 'pg_catalog.pg_user_mapping'::pg_catalog.regclass, m.umid, NULL, NULL
      FROM pg_catalog.pg_user_mappings m
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, s.oid, NULL, NULL
      FROM pg_catalog.pg_foreign_server s
    UNION ALL
    SELECT 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, e.oid, NULL, NULL
      FROM pg_catalog.pg_event_trigger e
    UNION ALL
    SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass, l.oid, NULL, NULL
      FROM pg_catalog.pg_largeobject_metadata l
)
SELECT made.class::bigint, made.oid::bigint, made.schema, made.name, i.type, i.identity
  FROM made, LATERAL pg_catalog.pg_identify_object(made.class, made.oid, 0) i
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = made.class AND d.objid = made.oid AND d.deptype = 'e')
 ORDER BY row_number() OVER (PARTITION BY i.type ORDER BY i.identity), i.type
