"""What the writer's transactions do: each operation is a few statements, without the commit.

All operations keep sum(shop.accounts.balance). Only accounts that the writer opened itself are renumbered or
closed. It finds them by their owner.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

Row = tuple[Any, ...]


@dataclass(slots=True)
class Session:
    """One connection in a transaction, and what the operations draw from.

    name: unique to the worker; owns accounts, settings keys and mixed-case rows. accounts: seeded
    account ids are 1..accounts. last_order: orders with lower ids are used.
    """

    connection: psycopg.Connection
    name: str
    number: int
    accounts: int
    last_order: int
    random: random.Random
    serial: int = 0

    def do(self, statement: LiteralString, *values: object) -> int:
        """Execute; returns the row count."""
        return self.connection.execute(statement, values or None).rowcount

    def one(self, statement: LiteralString, *values: object) -> Row | None:
        return self.connection.execute(statement, values or None).fetchone()

    def next(self) -> int:
        self.serial += 1
        return self.serial

    def text(self, chars: int) -> str:
        """Incompressible text, for TOAST."""
        return self.random.randbytes(chars // 2).hex()

    @property
    def rows_change_partition(self) -> bool:
        """Whether this server moves a row whose partition key is updated."""
        return self.connection.info.server_version >= 110000

    def seeded_account(self) -> int:
        return self.random.randint(1, self.accounts)

    def own_account(self) -> Row | None:
        """(id, code, balance) of one of this worker's accounts, locked."""
        return self.one(
            "SELECT id, code, balance FROM shop.accounts WHERE lower(owner) = %s ORDER BY random() LIMIT 1"
            " FOR UPDATE",
            self.owner,
        )

    @property
    def owner(self) -> str:
        return f"{self.name}@writer.example"


Operation = Callable[[Session], None]


def transfer(s: Session) -> None:
    """Move money between two accounts, in either direction."""
    source, target = s.seeded_account(), s.seeded_account()
    if source != target:
        move(s, source, target)


def move(s: Session, source: int, target: int) -> None:
    """Move some money and record the entry. The accounts are locked in the order of their ids."""
    s.do("SELECT FROM shop.accounts WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", [source, target])
    amount = Decimal(s.random.randint(1, 9999)) / 100
    s.do("UPDATE shop.accounts SET balance = balance - %s WHERE id = %s", amount, source)
    s.do("UPDATE shop.accounts SET balance = balance + %s WHERE id = %s", amount, target)
    s.do("INSERT INTO shop.ledger (source_id, target_id, amount) VALUES (%s, %s, %s)", source, target, amount)


def place_order(s: Session) -> None:
    """An order with items; the trigger writes the audit log."""
    order = s.one(
        "INSERT INTO shop.orders (account_id, note) VALUES (%s, %s) RETURNING id",
        s.seeded_account(),
        s.random.choice([None, "", "it's urgent\n\\.", s.text(6000)]),
    )
    assert order is not None
    s.last_order = order[0]
    for line in range(1, s.random.randint(2, 5)):
        s.do(
            "INSERT INTO shop.order_items (order_id, line, product, quantity, price)"
            " VALUES (%s, %s, %s, %s, %s)",
            s.last_order,
            line,
            f"product {line}",
            s.random.randint(1, 9),
            s.random.randint(1, 10**6) / 10**4,
        )
    s.do(
        "UPDATE shop.orders SET status = 'paid',"
        " total = (SELECT sum(quantity * price) FROM shop.order_items WHERE order_id = id) WHERE id = %s",
        s.last_order,
    )


def work_order(s: Session) -> None:
    """Ship an order, rewrite its note, change its items, or delete it with them."""
    found = s.one(
        "SELECT id FROM shop.orders WHERE id >= %s ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
        s.random.randint(1, max(s.last_order, 1)),
    )
    if found is None:
        return
    match s.random.randrange(4):
        case 0:
            s.do("UPDATE shop.orders SET status = 'shipped' WHERE id = %s", *found)
        case 1:
            s.do("UPDATE shop.orders SET note = %s WHERE id = %s", s.text(5000), *found)
        case 2:
            s.do("UPDATE shop.order_items SET line = line + 100 WHERE order_id = %s", *found)
        case _:
            s.do("DELETE FROM shop.orders WHERE id = %s", *found)


def edit_profile(s: Session) -> None:
    """jsonb, arrays and a composite of an account."""
    s.do(
        "UPDATE shop.accounts SET profile = coalesce(profile, '{}') || %s, tags = tags || %s::text,"
        " home = ROW(%s, NULL, '')::shop.address WHERE id = %s",
        Jsonb({"seen": s.next(), "quote": 'a "b" \\ ü', "none": None}),
        s.random.choice(["x", "", "NULL", '{",}']),
        f"Street {s.serial}",
        s.seeded_account(),
    )


def edit_document(s: Session) -> None:
    """Large values: changed, unchanged while another value changes, set to NULL, deleted, inserted."""
    found = s.one(
        "SELECT id FROM shop.documents WHERE id >= %s ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED", uuid4()
    )
    action = s.random.randrange(5)
    if found is None or action == 0:
        s.do(
            "INSERT INTO shop.documents (id, title, body, content) VALUES (%s, %s, %s, %s)",
            uuid4(),
            f"by {s.name}",
            s.text(20_000),
            s.random.randbytes(12_000),
        )
    elif action == 1:
        s.do("DELETE FROM shop.documents WHERE id = %s", *found)
    elif action == 2:
        s.do("UPDATE shop.documents SET body = %s WHERE id = %s", s.text(9000), *found)
    elif action == 3:
        s.do("UPDATE shop.documents SET content = NULL, views = views + 1 WHERE id = %s", *found)
    else:
        s.do("UPDATE shop.documents SET views = views + 1 WHERE id = %s", *found)


def write_events(s: Session) -> None:
    """Partitions: insert, change, move to another leaf by range and by list, delete."""
    at = f"{s.random.randint(2023, 2026)}-{s.random.randint(1, 12)}-01 00:00+00"
    kind = s.random.choice(["click", "view", "buy"])
    made = s.one(
        "INSERT INTO shop.events (at, kind, payload) VALUES (%s, %s, %s) RETURNING id",
        at,
        kind,
        Jsonb({"by": s.name}),
    )
    assert made is not None
    older = s.random.randint(1, made[0])
    match s.random.randrange(0 if s.rows_change_partition else 2, 4):
        case 0:
            s.do("UPDATE shop.events SET at = at + interval '1 year' WHERE id = %s", older)
        case 1:
            s.do("UPDATE shop.events SET kind = %s WHERE id = %s", kind, older)
        case 2:
            s.do("UPDATE shop.events SET payload = payload || '{\"edited\": true}' WHERE id = %s", older)
        case _:
            s.do("DELETE FROM shop.events WHERE id = %s", older)


def write_audit(s: Session) -> None:
    """The table without a key: equal rows inserted, one of several equal rows changed or deleted."""
    what = f"what {s.random.randrange(20)}"
    one_of_them: LiteralString = (
        "(SELECT ctid FROM shop.audit_log WHERE what = %s LIMIT 1 FOR UPDATE SKIP LOCKED)"
    )
    s.do(
        "INSERT INTO shop.audit_log SELECT '2024-05-05 00:00+00', %s, '{\"a\":  [1, null]}', 0.3"
        " FROM generate_series(1, 3)",
        what,
    )
    s.do("UPDATE shop.audit_log SET weight = weight + 0.1, detail = NULL WHERE ctid = " + one_of_them, what)
    s.do("DELETE FROM shop.audit_log WHERE ctid = " + one_of_them, what)


def open_account(s: Session) -> None:
    """An account of our own with a first deposit, and an order, so that a row refers to it."""
    giver = s.seeded_account()
    s.do("UPDATE shop.accounts SET balance = balance - 10 WHERE id = %s", giver)
    made = s.one(
        "INSERT INTO shop.accounts (owner, code, balance, referrer_id) VALUES (%s, %s, 10, %s) RETURNING id",
        s.owner,
        f"{s.name}-{s.next()}",
        giver,
    )
    assert made is not None
    s.do("INSERT INTO shop.orders (account_id, status) VALUES (%s, 'cancelled')", *made)


def renumber_account(s: Session) -> None:
    """A primary key changes, and with it the rows that refer to it."""
    if own := s.own_account():
        s.do("UPDATE shop.accounts SET id = -id WHERE id = %s", own[0])


def close_account(s: Session) -> None:
    """Delete an account, its balance moved away first; its orders go by cascade."""
    if own := s.own_account():
        identity, _, balance = own
        s.do("UPDATE shop.accounts SET balance = balance + %s WHERE id = %s", balance, s.seeded_account())
        s.do("DELETE FROM shop.accounts WHERE id = %s", identity)


def reopen_account(s: Session) -> None:
    """Delete and insert again under another id with the same unique code."""
    if own := s.own_account():
        identity, code, balance = own
        s.do("DELETE FROM shop.accounts WHERE id = %s", identity)
        s.do("INSERT INTO shop.accounts (owner, code, balance) VALUES (%s, %s, %s)", s.owner, code, balance)


def swap_codes(s: Session) -> None:
    """Two accounts exchange the value of their unique column."""
    first, second = s.seeded_account(), s.seeded_account()
    rows = s.connection.execute(
        "SELECT id, code FROM shop.accounts WHERE id = ANY(%s) ORDER BY id FOR UPDATE", [[first, second]]
    ).fetchall()
    if len(rows) == 2:
        (one, one_code), (two, two_code) = rows
        change: LiteralString = "UPDATE shop.accounts SET code = %s WHERE id = %s"
        s.do(change, f"swapping {s.name}", one)
        s.do(change, one_code, two)
        s.do(change, two_code, one)


def write_mixed_case(s: Session) -> None:
    """Quoted names; the key is inserted, changed, deleted and inserted again."""
    key = 1_000_000 * s.number + s.random.randrange(50)
    s.do('DELETE FROM public."Mixed Case" WHERE "Id" IN (%s, %s)', key, key + 500)
    s.do(
        'INSERT INTO public."Mixed Case" VALUES (%s, %s, %s, now())',
        key,
        s.random.randrange(10**6) / 1000,
        "it's",
    )
    if s.random.random() < 0.5:
        s.do('UPDATE public."Mixed Case" SET "Id" = "Id" + 500, "select" = NULL WHERE "Id" = %s', key)


def write_settings(s: Session) -> None:
    """REPLICA IDENTITY USING INDEX: change, delete and insert the same key."""
    key = f"{s.name}/{s.random.randrange(10)}"
    if s.random.random() < 0.5:
        s.do("DELETE FROM shop.settings WHERE key = %s", key)
    s.do(
        "INSERT INTO shop.settings VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        key,
        s.random.choice([None, "", "value"]),
    )
    s.do("SELECT nextval('shop.voucher_seq')")


def use_savepoints(s: Session) -> None:
    """Subtransactions: one rolled back, one kept."""
    s.do("SAVEPOINT dropped")
    edit_profile(s)
    s.do("INSERT INTO shop.audit_log (what) VALUES ('must not be seen')")
    s.do("ROLLBACK TO dropped")
    s.do("SAVEPOINT kept")
    transfer(s)
    s.do("RELEASE kept")


def bulk_insert(s: Session) -> None:
    """A transaction with many rows."""
    s.do(
        "INSERT INTO shop.events (at, kind)"
        " SELECT timestamptz '2025-01-01 00:00+00' + i * interval '1 hour', 'view'"
        " FROM generate_series(1, 500) i"
    )


def truncate_scratch(s: Session) -> None:
    """TRUNCATE between inserts. It waits for all sessions that read the table, for example a dump or a
    copy."""
    s.do("INSERT INTO shop.scratch (value) VALUES ('gone')")
    s.do("TRUNCATE shop.scratch RESTART IDENTITY")
    s.do("INSERT INTO shop.scratch (value) SELECT 's' || i FROM generate_series(1, 5) i")


OPERATIONS: dict[Operation, int] = {
    transfer: 40,
    place_order: 12,
    work_order: 10,
    edit_profile: 6,
    edit_document: 5,
    write_events: 10,
    write_audit: 6,
    open_account: 4,
    renumber_account: 2,
    close_account: 2,
    reopen_account: 2,
    swap_codes: 3,
    write_mixed_case: 3,
    write_settings: 3,
    use_savepoints: 3,
    bulk_insert: 1,
}
"""How often each operation is drawn, relative to the others."""


def any_operation(generator: random.Random) -> Operation:
    return generator.choices(list(OPERATIONS), weights=list(OPERATIONS.values()))[0]
