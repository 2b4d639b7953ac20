"""An extension with a configuration table, and servers that have it.

It is written into a copy of a server's installation, because no server from a wheel has such an extension.
"""

from __future__ import annotations

from tests.support.servers.installs import PostgresInstall, relocated
from tests.support.servers.process import unprivileged_account

NAME = "lab_config"

_CONTROL = "comment = 'settings and a counter'\ndefault_version = '1'\nrelocatable = true\n"
_SCRIPT = """\
CREATE TABLE lab_settings (name text PRIMARY KEY, value text, mine boolean NOT NULL DEFAULT true);
INSERT INTO lab_settings VALUES ('shipped', 'with the extension', false);
SELECT pg_catalog.pg_extension_config_dump('lab_settings', 'WHERE mine');
CREATE TABLE lab_cache (id integer PRIMARY KEY);
CREATE SEQUENCE lab_counter;
SELECT pg_catalog.pg_extension_config_dump('lab_counter', '');
"""


def with_extension(install: PostgresInstall) -> PostgresInstall | None:
    """A copy of the installation with the extension; None if it cannot be copied."""
    if install.bin_dir.parent.name != "pginstall":
        return None
    copy = relocated(install.bin_dir, unprivileged_account())
    folder = copy.parent / "share" / "extension"
    for name, text in ((f"{NAME}.control", _CONTROL), (f"{NAME}--1.sql", _SCRIPT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    return PostgresInstall(install.major, copy)
