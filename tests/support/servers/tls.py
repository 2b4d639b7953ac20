"""TLS on a test server. The key is no secret, because it protects nothing. So no tool is needed to create
one."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import psycopg

from tests.support.servers.postgres import PostgresServer

_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgO2JuXdhgcBm3hjhr
hpovACo+wOM8Vs0J79DGex9DAIChRANCAARuyiEtuAMsAnFT2XrZjLuzaX0uB5E+
KJ/gjGSyOMuCBIhTV0Tvy+ImMAKY4YeGXShmSmAXyCpVUAFfguYX3pOE
-----END PRIVATE KEY-----
"""
_CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBnzCCAUagAwIBAgIUHIwcgL8a2adI+2A4zYZGT2rJu/gwCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRcGdtaWcgdGVzdCBzZXJ2ZXIwIBcNMjYxMTI1MDQxOTM2WhgP
MjEyNjExMDEwNDE5MzZaMBwxGjAYBgNVBAMMEXBnbWlnIHRlc3Qgc2VydmVyMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEbsohLbgDLAJxU9l62Yy7s2l9LgeRPiif
4IxksjjLggSIU1dE78viJjACmOGHhl0oZkpgF8gqVVABX4LmF96ThKNkMGIwHQYD
VR0OBBYEFHF2IvD6ISl8xe8ZSLMCUVLP+wqxMB8GA1UdIwQYMBaAFHF2IvD6ISl8
xe8ZSLMCUVLP+wqxMA8GA1UdEwEB/wQFMAMBAf8wDwYDVR0RBAgwBocEfwAAATAK
BggqhkjOPQQDAgNHADBEAiBSxaWUR7CXUsiwuFTJBKdyWXjyIj5z1AY7qnsT6U+N
EQIgYBcuwdLvxkl4l7BjU48/wV9kqvQfNv76FDhpEFBhKF8=
-----END CERTIFICATE-----
"""


def turn_on_tls(server: PostgresServer) -> bool:
    """Make a running server offer TLS in addition to plain connections. False if it was built without TLS."""
    with server.connect() as conn:
        if conn.execute("SHOW ssl_library").fetchone() != ("OpenSSL",):
            return False
        data = server.root / "data"
        owner = data.stat()
        for name, text in (("server.key", _KEY), ("server.crt", _CERTIFICATE)):
            path = data / name
            path.write_text(text)
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)
        conn.execute("ALTER SYSTEM SET ssl = on")
        conn.execute("SELECT pg_reload_conf()")
    for _ in range(500):
        try:
            psycopg.connect(tls_uri(server.uri()), connect_timeout=5).close()
        except psycopg.OperationalError:
            time.sleep(0.02)  # the reload has no event to wait for
        else:
            return True
    raise RuntimeError(f"no TLS after a reload:\n{server.log_path.read_text()[-2000:]}")


def insist_on_tls(server: PostgresServer) -> None:
    """Have a server that offers TLS refuse every other connection over TCP."""
    rules = server.root / "data" / "pg_hba.conf"
    lines = rules.read_text().splitlines()
    rules.write_text("\n".join(re.sub(r"^host\b", "hostssl", line) for line in lines) + "\n")
    server.execute("SELECT pg_reload_conf()")
    for _ in range(500):
        try:
            psycopg.connect(plain_uri(server.uri()), connect_timeout=5).close()
        except psycopg.OperationalError as exc:
            assert "no encryption" in str(exc)
            return
        time.sleep(0.02)  # the reload has no event to wait for
    raise RuntimeError("the server still takes plain connections")


def plain_uri(uri: str) -> str:
    """`uri` without TLS, which libpq prefers if the server offers it."""
    return f"{uri}?sslmode=disable"


def tls_uri(uri: str) -> str:
    """`uri` with TLS required."""
    return f"{uri}?sslmode=require"


def verified_uri(uri: str, folder: Path, *, host: str = "127.0.0.1") -> str:
    """`uri` with verification of the server's certificate, which is valid only for 127.0.0.1. Its issuer's
    certificate is written to `folder`. host: the name to connect to instead."""
    root = folder / "root.crt"
    root.write_text(_CERTIFICATE)
    return f"{uri.replace('127.0.0.1', host)}?sslmode=verify-full&sslrootcert={root}"
