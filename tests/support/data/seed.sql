-- Fills the lab's schema on the server. Row counts come as the settings lab.accounts and so on;
-- values follow from row numbers alone, so that two seeds of one size are equal.
-- Keys are right by construction: foreign keys and triggers are off while it runs.

SET LOCAL session_replication_role = replica;

INSERT INTO shop.accounts (owner, code, balance, tags, profile, home, referrer_id, opened_at)
SELECT 'owner' || i % 5000 || '@example.org',
       'A' || lpad(i::text, 9, '0'),
       1000 + i % 7 - 3,
       ARRAY['tag' || i % 10, CASE WHEN i % 3 = 0 THEN 'a "quoted", tag' END],
       CASE WHEN i % 5 <> 0 THEN jsonb_build_object('level', i % 9, 'langs', ARRAY['de', 'fr'], 'n', null) END,
       CASE WHEN i % 4 = 0 THEN ROW('Main St. ' || i, 'Übach, "North"', i % 99999)::shop.address END,
       CASE WHEN i % 10 = 0 THEN i / 10 END,
       timestamptz '2023-01-01 00:00+00' + i * interval '1 minute 0.001 second'
FROM generate_series(1, current_setting('lab.accounts')::int) i;

INSERT INTO shop.orders (account_id, status, total, note, placed_at)
SELECT 1 + i::bigint * 7919 % current_setting('lab.accounts')::int,
       (enum_range(NULL::shop.order_status))[1 + i % 4],
       i % 1000 + 0.5,
       CASE i % 20 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN repeat('long note ' || i, 200) ELSE E'line\nand\ttab \\' END,
       timestamptz '2024-06-01 00:00+00' + i * interval '7 seconds'
FROM generate_series(1, current_setting('lab.orders')::int) i;

INSERT INTO shop.order_items (order_id, line, product, quantity, price)
SELECT i, line, 'product ' || (i + line) % 1000, 1 + i % 9, (i % 500) * 1.2345
FROM generate_series(1, current_setting('lab.orders')::int) i, generate_series(1, 2) line;

INSERT INTO shop.ledger (source_id, target_id, amount, booked_at)
SELECT 1 + i % current_setting('lab.accounts')::int,
       1 + (i + 1) % current_setting('lab.accounts')::int,
       i % 100 + 0.01,
       timestamptz '2024-01-01 00:00+00' + i * interval '1 minute'
FROM generate_series(1, current_setting('lab.ledger')::int) i;

INSERT INTO shop.events (at, kind, payload)
SELECT timestamptz '2023-10-01 00:00+00' + (i * 7919 % 1000) * interval '1 day',
       CASE i % 3 WHEN 0 THEN 'click' WHEN 1 THEN 'view' ELSE 'buy' END,
       jsonb_build_object('i', i, 'path', '/p/' || i % 100)
FROM generate_series(1, current_setting('lab.events')::int) i;

INSERT INTO shop.audit_log (at, what, detail, weight)
SELECT timestamptz '2024-01-01 00:00+00' + (i % 20) * interval '1 day',
       CASE WHEN i % 40 <> 0 THEN 'what ' || i % 20 END,
       CASE WHEN i % 4 <> 0 THEN '{"b" : 1,  "a": [1.0, "x"]}'::json END,
       (i % 5) * 0.1
FROM generate_series(1, current_setting('lab.audit')::int) i;

INSERT INTO shop.documents (id, title, body, content, views)
SELECT md5('document ' || i)::uuid,
       'Document ' || i,
       CASE WHEN i % 7 <> 0 THEN repeat('body ' || i || ' ', 100 + i % 1500) END,
       CASE WHEN i % 5 <> 0 THEN
           (SELECT string_agg(decode(md5(i || '.' || k) || md5(k || '.' || i), 'hex'), '') FROM generate_series(1, 2 + i % 150) k) END,
       i % 10
FROM generate_series(1, current_setting('lab.documents')::int) i;

INSERT INTO shop.edge_values VALUES
    (1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL),
    (2, '', '', 9007199254740993, 'NaN', 'NaN', '-Infinity', 'infinity', '-infinity', 'infinity', '0',
     '""', 'null', '{}', '{}', '{}', '{}', 'empty', '', '', '::1', '', '(0,0)'),
    (3, E'\\.', '\x00ff5c0a2e', -9223372036854775808, 0.00000000000000000001, 1e-307, 1.17549435e-38,
     '4713-01-01 BC', '0001-01-01 00:00:00+00 BC', '2024-02-29 23:59:59.999999', '-1 year 2 days -03:04:05.678901',
     E'{"dup":1,\n "dup":2 , "big": 12345678901234567890.10}', '{"big": 12345678901234567890.10, "\u00fc": "\""}',
     ARRAY[NULL, 'NULL', '', 'a,b', '{"}', E'back\\slash'], '{{1,2},{3,NULL}}',
     ARRAY[ROW('a, "b"', NULL, '')::shop.address, NULL], '{new,shipped}', '[2024-01-01 00:00+00,)', B'10110',
     'ab', '10.1.2.3/24', 'a fat cat:3A', '(1.5,-2.25)'),
    (4, E'tab\tcr\rlf\nquote'' "double" \\N 🐘', decode(repeat('00', 5000), 'hex'), 9223372036854775807,
     123456789012345678901234567890.123456789012345678901234567890, '-0', 0.1, '9999-12-31',
     '2024-03-31 01:59:59.000001+00', '1999-12-31 24:00:00', '178000000 years', '[1, 2 ,3]', '[1, 2.0, 3.00]',
     '[2:3]={x,y}', NULL, NULL, NULL, '(,2025-01-01 00:00+00)', B'0', 'sixsix', 'fe80::/10', NULL, NULL);

INSERT INTO public."Mixed Case"
SELECT i, i * 1.001, CASE WHEN i % 3 <> 0 THEN 'Value ' || i END, timestamptz '2024-01-01 12:00+02' + i * interval '1 hour'
FROM generate_series(1, 500) i;

INSERT INTO shop.a_name_as_long_as_names_may_be_sixty_three_bytes_and_no_more_xx
SELECT i, 'v' || i FROM generate_series(1, 100) i;

INSERT INTO shop.scratch (value) SELECT 's' || i FROM generate_series(1, 50) i;

INSERT INTO shop.settings VALUES ('empty', ''), ('null', NULL);
INSERT INTO shop.settings SELECT 'conserved_sum', sum(balance)::text FROM shop.accounts;

SELECT setval('shop.voucher_seq', 4711, true);
REFRESH MATERIALIZED VIEW shop.totals_by_status;
