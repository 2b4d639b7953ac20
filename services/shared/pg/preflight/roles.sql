-- Roles that the restored definitions name: how they name them, and in which object (its catalog and OID, and
-- a relation's name). A user mapping belongs to its server. pg_shdepend has all roles except the bootstrap
-- superuser (10), whose dependencies are pinned: these are read from the objects' own catalogs. Members of an
-- extension are created with it, and a dump has no owner for them.
WITH made AS (
    SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass AS class, n.oid, n.nspowner AS owner, n.nspacl AS acl,
           'n'::"char" AS kind
      FROM pg_catalog.pg_namespace n
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public', %(bookkeeping)s)
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, c.relowner, c.relacl,
           (CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char"
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
       AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, p.proowner, p.proacl, 'f'
      FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, t.typowner, t.typacl, 'T'
      FROM pg_catalog.pg_type t
      JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)
    UNION ALL
    SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass, l.oid, l.lomowner, l.lomacl, 'L'
      FROM pg_catalog.pg_largeobject_metadata l
     WHERE %(large_objects)s
    UNION ALL
    SELECT 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, s.oid, s.srvowner, s.srvacl, 'S'
      FROM pg_catalog.pg_foreign_server s
    UNION ALL
    SELECT 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, e.oid, e.evtowner, NULL, NULL
      FROM pg_catalog.pg_event_trigger e
), free AS (
    SELECT made.*
      FROM made
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = made.class AND d.objid = made.oid AND d.deptype = 'e')
), named AS (
    SELECT d.refobjid AS role,
           CASE WHEN d.deptype = 'r' OR d.classid = 'pg_catalog.pg_user_mapping'::pg_catalog.regclass THEN 'definition'
                WHEN d.classid = 'pg_catalog.pg_default_acl'::pg_catalog.regclass AND d.deptype = 'o' THEN 'grantor'
                WHEN d.deptype = 'o' THEN 'owner'
                ELSE 'grantee' END AS use,
           CASE WHEN m.umid IS NULL THEN d.classid ELSE 'pg_catalog.pg_foreign_server'::pg_catalog.regclass END AS class,
           coalesce(m.srvid, d.objid) AS object
      FROM pg_catalog.pg_shdepend d
      LEFT JOIN pg_catalog.pg_user_mappings m
           ON d.classid = 'pg_catalog.pg_user_mapping'::pg_catalog.regclass AND m.umid = d.objid
      LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
      LEFT JOIN pg_catalog.pg_type t ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = d.objid
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
           OR d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND n.oid = d.objid
     WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
       AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
       AND d.deptype IN ('o', 'r', 'a')
       AND d.classid NOT IN ('pg_catalog.pg_publication'::pg_catalog.regclass,
                             'pg_catalog.pg_extension'::pg_catalog.regclass)
       AND (%(large_objects)s OR d.classid <> 'pg_catalog.pg_largeobject'::pg_catalog.regclass)
       AND (n.nspname IS NULL OR n.nspname !~ '^pg_(temp|toast)' AND n.nspname <> %(bookkeeping)s)
       AND NOT (d.deptype = 'o'
                AND EXISTS (SELECT FROM pg_catalog.pg_depend e
                             WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e'))
    UNION
    SELECT 10, 'owner', free.class, free.oid FROM free WHERE free.owner = 10
    UNION
    SELECT 10, 'grantee', free.class, free.oid
      FROM free, pg_catalog.aclexplode(free.acl) a
     WHERE free.owner <> 10 AND a.grantee = 10
    UNION
    SELECT 10, 'definition', 'pg_catalog.pg_policy'::pg_catalog.regclass, oid
      FROM pg_catalog.pg_policy WHERE 10 = ANY (polroles)
    UNION
    SELECT 10, 'definition', 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, srvid
      FROM pg_catalog.pg_user_mappings WHERE umuser = 10
    UNION
    SELECT 10, 'grantor', 'pg_catalog.pg_default_acl'::pg_catalog.regclass, oid
      FROM pg_catalog.pg_default_acl WHERE defaclrole = 10
    UNION
    -- An owner who revoked a right of their own is named by that REVOKE.
    SELECT free.owner, 'grantee', free.class, free.oid
      FROM free, pg_catalog.aclexplode(pg_catalog.acldefault(free.kind, free.owner)) d
     WHERE free.acl IS NOT NULL AND d.grantee = free.owner
       AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(free.acl) a
                        WHERE a.grantee = free.owner AND a.privilege_type = d.privilege_type)
)
SELECT r.rolname::text, named.use, named.class::oid::bigint, named.object::bigint, n.nspname::text, c.relname::text
  FROM named
  JOIN pg_catalog.pg_roles r ON r.oid = named.role
  LEFT JOIN pg_catalog.pg_class c ON named.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = named.object
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT (r.oid < 16384 AND r.rolname ~ '^pg_')
 ORDER BY 1, 2, 3, 4
