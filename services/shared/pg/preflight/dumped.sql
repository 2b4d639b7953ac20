-- Those of the texts that belong to objects that pg_dump dumps. missing: relations that are excluded.
SELECT d.class, d.object, d.part, d.text
  FROM ({texts}) d
 WHERE NOT EXISTS (  -- members of extensions; pg_dump reads their tables' policies, and the tables with rows to dump
           SELECT FROM pg_depend m
            WHERE m.deptype = 'e' AND d.class <> 'pg_policy'::regclass
              AND (m.classid, m.objid) IN ((d.class, d.object), ('pg_class'::regclass, d.relation))
              AND NOT EXISTS (SELECT FROM pg_extension e WHERE m.objid = ANY (e.extconfig)))
   AND NOT EXISTS (  -- temporary tables of all sessions
           SELECT FROM pg_class c WHERE c.oid = d.relation AND c.relpersistence = 't')
   AND NOT (  -- pg_dump reads the definition of a table from which it dumps a partition
           d.relation = ANY ({missing}::oid[])
           AND NOT EXISTS (SELECT FROM pg_inherits i
                            WHERE i.inhparent = d.relation AND i.inhrelid <> ALL ({missing}::oid[])))
