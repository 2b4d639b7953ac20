-- Dependencies among user-created objects. Objects that initdb created have lower OIDs; schema public is an
-- exception and is included.
SELECT DISTINCT d.classid::bigint, d.objid::bigint, d.refclassid::bigint, d.refobjid::bigint, d.deptype::text
  FROM pg_catalog.pg_depend d
 WHERE d.objid >= 16384
   AND d.deptype IN ('n', 'a', 'i', 'e', 'S')
   AND (d.refobjid >= 16384
        OR d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
           AND d.refobjid = pg_catalog.to_regnamespace('public'))
