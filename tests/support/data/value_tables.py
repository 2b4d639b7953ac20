"""The setup of the tests of values: tables for every case on both sides, and changes to them.

For each case there are three tables: `keyed_NNN` with an integer key, `keyless_NNN` (REPLICA IDENTITY
FULL, each row twice) and, where the type can be one, `by_value_NNN`, whose primary key is the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import psycopg
from psycopg import sql

from tests.support.data.values.case import WRITER_SETTINGS, Case
from tests.support.data.values.cases import with_names
from tests.support.data.values.made import TYPES_DDL

ODD_SETTINGS = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "xmloption": "document",
    "xmlbinary": "hex",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "search_path": "nowhere",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "default_text_search_config": "pg_catalog.german",
    "default_transaction_isolation": "serializable",
}
"""What a database may set for all its sessions, and values must survive."""

ODD_LOCALES = ("de_DE.utf8", "ja_JP.utf8", "en_US.utf8", "C.utf8")
"""For lc_monetary: the first that the server knows."""

_ROW = tuple[object, ...]


@contextmanager
def session(uri: str) -> Iterator[psycopg.Connection]:
    """An autocommit session with settings that read and write values exactly, whatever the database's
    settings are."""
    with psycopg.connect(uri, options=WRITER_SETTINGS, autocommit=True, prepare_threshold=None) as conn:
        yield conn


def make_odd(uri: str) -> None:
    """Give the database settings that change how values are written and read as text."""
    with session(uri) as conn:
        name = sql.Identifier(conn.info.dbname)
        for setting, value in ODD_SETTINGS.items():
            conn.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    name, sql.Identifier(setting), sql.SQL(value) if "," in value else sql.Literal(value)
                )
            )
        for locale in ODD_LOCALES:
            statement = sql.SQL("ALTER DATABASE {} SET lc_monetary = {}").format(name, sql.Literal(locale))
            try:
                conn.execute(statement)
            except psycopg.errors.InvalidParameterValue:
                continue
            break


@dataclass(frozen=True, slots=True)
class Phase:
    """A kind of change, as statements on the tables of one case; each is a transaction."""

    name: str
    keyed: str
    keyless: str
    by_value: str = ""


# {n}: the case's name, {c}: how many values it has, and NULL. Row {c} of by_value is not inserted, so that a
# key can be changed to a value that no row has.
PHASES = (
    Phase(
        "UPDATE of another column",
        "UPDATE keyed_{n} SET other = 'changed'",
        "UPDATE keyless_{n} SET other = 'changed' WHERE k % 3 <> 1",
        "UPDATE by_value_{n} SET other = 'changed'",
    ),
    Phase(
        "UPDATE of the value",
        "UPDATE keyed_{n} t SET v = s.v FROM keyed_{n} s WHERE s.k = t.k % {c} + 1",
        "UPDATE keyless_{n} t SET v = s.v FROM keyed_{n} s WHERE s.k = t.k",
        "UPDATE by_value_{n} t SET v = h.v FROM held_{n} h WHERE t.k = 1",
    ),
    Phase(
        "UPDATE to NULL and of one of several equal rows",
        "UPDATE keyed_{n} SET v = NULL WHERE k % 2 = 0",
        "UPDATE keyless_{n} SET v = NULL WHERE ctid IN (SELECT min(ctid) FROM keyless_{n} GROUP BY k)",
    ),
    Phase(
        "DELETE",
        "DELETE FROM keyed_{n} WHERE k % 3 = 1",
        "DELETE FROM keyless_{n} WHERE ctid IN (SELECT max(ctid) FROM keyless_{n} GROUP BY k)",
        "DELETE FROM by_value_{n} WHERE k % 2 = 1",
    ),
)


class ValuesBed:
    """The tables of `cases` on both sides; `fill` and `change` are executed on the source only."""

    def __init__(self, source: str, destination: str, cases: Sequence[Case]) -> None:
        self.source = source
        self.destination = destination
        self.cases = with_names(cases)
        self.by_value: set[str] = set()  # names of cases that can be a primary key

    def create(self) -> None:
        for uri in (self.source, self.destination):
            with session(uri) as conn:
                conn.execute(TYPES_DDL)
                for name, case in self.cases:
                    self._create(conn, name, case)

    def _create(self, conn: psycopg.Connection, name: str, case: Case) -> None:
        columns = f"(k int, other text, v {case.sql_type})"
        conn.execute(
            f"CREATE TABLE keyed_{name} {columns}; ALTER TABLE keyed_{name} ADD PRIMARY KEY (k);"
            f"CREATE TABLE keyless_{name} {columns}; ALTER TABLE keyless_{name} REPLICA IDENTITY FULL;"
            f"CREATE TABLE held_{name} {columns};"
        )
        if _has_order(conn, case):
            conn.execute(f"CREATE TABLE by_value_{name} (other text, v {case.sql_type} PRIMARY KEY, k int)")
            self.by_value.add(name)

    def table_names(self) -> list[str]:
        """All cases except those that only the source uses."""
        kinds = [f"{kind}_{name}" for kind in ("keyed", "keyless") for name, _ in self.cases]
        return kinds + [f"by_value_{name}" for name in sorted(self.by_value)]

    def fill(self) -> None:
        with session(self.source) as conn:
            for name, case in self.cases:
                rows = [f"({k}, NULL, {value})" for k, value in enumerate((*case.values, "NULL"), 1)]
                listed = ", ".join(rows)
                conn.execute(f"INSERT INTO keyed_{name} VALUES {listed}")
                conn.execute(f"INSERT INTO keyless_{name} VALUES {listed}, {listed}")
                if name in self.by_value:
                    self._fill_by_value(conn, name, case)

    def _fill_by_value(self, conn: psycopg.Connection, name: str, case: Case) -> None:
        """All values that are different by the type's equality operator and fit into an index page."""
        for k, value in enumerate(case.values, 1):
            try:
                conn.execute(f"INSERT INTO by_value_{name} VALUES (NULL, {value}, {k})")
            except (psycopg.errors.UniqueViolation, psycopg.errors.ProgramLimitExceeded):
                continue
        last = f"k > 1 AND k = (SELECT max(k) FROM by_value_{name})"
        conn.execute(
            f"WITH gone AS (DELETE FROM by_value_{name} WHERE {last} RETURNING k, other, v)"
            f" INSERT INTO held_{name} SELECT * FROM gone"
        )

    def change(self, phase: Phase) -> None:
        with session(self.source) as conn:
            for name, case in self.cases:
                texts = [phase.keyed, phase.keyless, phase.by_value if name in self.by_value else ""]
                for text in filter(None, texts):
                    conn.execute(text.format(n=name, c=len(case.values) + 1))

    def differences(self) -> list[str]:
        """One sentence for each table whose rows are not the same on both sides, in text and bytes."""
        there, here = self._rows(self.source), self._rows(self.destination)
        types = dict(self.cases)
        found = []
        for table in sorted(there.keys() | here.keys()):
            at_source, at_dest = there.get(table, []), here.get(table, [])
            if at_source != at_dest:
                kind = types[table.rsplit("_", 1)[1]].sql_type
                missing = [row for row in at_source if row not in at_dest][:2]
                extra = [row for row in at_dest if row not in at_source][:2]
                found.append(
                    f"{table} ({kind}): {len(at_source)} rows here, {len(at_dest)} there"
                    f"\n  only here, the source: {str(missing)[:300]}"
                    f"\n  only there: {str(extra)[:300]}"
                )
        return found

    def _rows(self, uri: str) -> dict[str, list[_ROW]]:
        """Rows of every table, sorted."""
        rows: list[_ROW] = []
        with session(uri) as conn:
            for name, case in self.cases:
                # The cast of xml shows what no client sees: xml_out omits the declaration.
                shown = "xml_out(v)::text" if case.sql_type == "xml" else "v::text"
                sent = f"{self._send_function(conn, case)}(v)" if case.portable else "NULL"
                columns = f"k, other, {shown}, {sent}"
                for kind in ("keyed", "keyless", *(["by_value"] if name in self.by_value else [])):
                    query = f"SELECT '{kind}_{name}', {columns} FROM {kind}_{name}"
                    rows += sorted(conn.execute(query).fetchall(), key=repr)
        return {str(table): list(group) for table, group in groupby(rows, key=lambda row: row[0])}

    @staticmethod
    def _send_function(conn: psycopg.Connection, case: Case) -> str:
        row = conn.execute(
            "SELECT typsend::text FROM pg_type WHERE oid = CAST(%s AS text)::regtype", [case.sql_type]
        ).fetchone()
        assert row is not None
        return str(row[0])


def _has_order(conn: psycopg.Connection, case: Case) -> bool:
    """Whether values of the type can be keys of a B-tree."""
    value = f"CAST({max(case.values, key=len)} AS {case.sql_type})"
    try:
        conn.execute(f"SELECT ARRAY[{value}] < ARRAY[{value}]")
    except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedObject):
        return False
    return True
