"""Who may change something: requests with the operator's token, from this server's own pages or from none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from clients.serving import ServerSettings
from clients.web.tokens import SHORTEST, load_token
from services.shared.model import ErrorKind, PgmigError
from tests.support.web.served import AUTHORIZED, TOKEN, Served, served


async def mutating(web: Served) -> list[str]:
    document = (await web.http.get("/api/v1/openapi.json")).json()
    paths = [path for path, methods in document["paths"].items() if "post" in methods]
    assert len(paths) == 13
    return [path.format(migration_id="m", operation_id="m-1") for path in paths]


BODIES: dict[str, dict[str, object]] = {
    "skip-transaction": {"lsn": "0/1", "reason": "r", "who": "w"},
    "resync-tables": {"tables": ["a.b"]},
}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no token"),
        pytest.param({"Authorization": f"Bearer {TOKEN}x"}, 401, id="another token"),
        pytest.param({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401, id="a part of the token"),
        pytest.param({"Authorization": f"Basic {TOKEN}"}, 401, id="another scheme"),
        pytest.param({"Authorization": "Bearer"}, 401, id="empty"),
        pytest.param({"Cookie": f"token={TOKEN}"}, 401, id="a cookie"),
        pytest.param({**AUTHORIZED, "Origin": "http://evil.example"}, 403, id="another origin"),
        pytest.param({**AUTHORIZED, "Origin": "null"}, 403, id="a sandboxed page"),
        pytest.param({**AUTHORIZED, "Sec-Fetch-Site": "cross-site"}, 403, id="a page of another site"),
        pytest.param({**AUTHORIZED, "Sec-Fetch-Site": "same-site"}, 403, id="a page of another subdomain"),
        pytest.param({**AUTHORIZED, "Host": "rebound.example"}, 421, id="another host"),
    ],
)
async def test_nothing_is_changed_for_others(web: Served, headers: dict[str, str], status: int) -> None:
    web.put()
    for path in await mutating(web):
        body = BODIES.get(path.rsplit("/", 1)[1], {})
        response = await web.http.post(path, json=body, headers=headers)
        assert response.status_code == status, (path, response.text)
        assert ("www-authenticate" in response.headers) == (status == 401)
        assert TOKEN not in response.text
    assert web.control.calls == []


async def test_a_token_in_a_url_is_refused_even_if_it_is_the_right_one(
    web: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    web.put()
    for name in ("token", "access_token", "Authorization"):
        response = await web.http.post(f"/api/v1/migrations/m/pause?{name}={TOKEN}", headers=AUTHORIZED)
        assert (response.status_code, response.json()["kind"]) == (401, "TOKEN_NEEDED")
        assert TOKEN not in response.text
    assert web.control.calls == []
    assert TOKEN not in "".join(capsys.readouterr())


@pytest.mark.parametrize("fetched", ["same-origin", "none"])
async def test_a_page_of_this_server_is_let_in(web: Served, fetched: str) -> None:
    web.put()
    headers = {"Origin": web.url, "Sec-Fetch-Site": fetched}
    await web.post("/m/pause", headers=headers)
    assert [call[0] for call in web.control.calls] == ["pause"]


async def test_a_page_behind_a_proxy_with_tls_is_let_in_under_an_allowed_name(tmp_path: Path) -> None:
    async with served(tmp_path, allowed_hosts=("Migrations.example.com",)) as web:
        web.put()
        await web.get(
            "/m", headers={"Host": "migrations.example.com", "Origin": "https://migrations.example.com"}
        )
        await web.get("/m", headers={"Host": "migrations.example.com:8443"})
        await web.get("/m", headers={"Host": "[::1]:7654"})
        await web.get("/m", headers={"Host": "localhost"})
        for other in (
            "example.com",
            "x.migrations.example.com",
            "migrations.example.com.evil",
            "",
            "127.0.0.1.evil",
        ):
            found = await web.get("/m", 421, headers={"Host": other})
            assert found["kind"] == "UNKNOWN_HOST"


async def test_pages_of_other_origins_cannot_read_either(web: Served) -> None:
    web.put()
    assert (await web.get("/m", 403, {"Origin": "http://evil.example"}))["kind"] == "FOREIGN_ORIGIN"
    assert (await web.get("/m", 403, {"Sec-Fetch-Site": "cross-site"}))["kind"] == "FOREIGN_ORIGIN"
    response = await web.http.get("/api/v1/migrations/m")
    assert "access-control-allow-origin" not in response.headers
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"additional_headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
        ({"name": "rebound.example"}, 421),
    ],
)
async def test_pages_of_other_origins_cannot_watch(web: Served, options: dict[str, Any], status: int) -> None:
    web.put()
    with pytest.raises(InvalidStatus) as refused:
        async with web.watch(**options):
            pass
    assert refused.value.response.status_code == status
    assert ("watch", "m") not in web.control.calls


async def test_answers_forbid_scripts_of_others_and_frames(web: Served) -> None:
    for path in ("/", "/healthz", "/api/v1/migrations", "/api/v1/nothing"):
        headers = (await web.http.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "set-cookie" not in headers
        assert "server" not in headers


# The token itself.


def settings(folder: Path, token_file: Path | None = None) -> ServerSettings:
    return ServerSettings("127.0.0.1", 0, (), token_file, folder / "web-token")


def test_a_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_token(settings(tmp_path / "new"), {})
    finally:
        os.umask(before)
    path = tmp_path / "new" / "web-token"
    text = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(text) >= 40
    assert load_token(settings(tmp_path / "new"), {}).matches(text)
    assert path.read_text().strip() == text


def test_a_token_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "web-token"
    path.write_text("known-to-everybody-on-this-machine")
    path.chmod(0o644)
    token = load_token(settings(tmp_path), {})
    assert not token.matches("known-to-everybody-on-this-machine")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_token_is_not_read_through_a_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("a-token-of-somebody-else-0123456789")
    elsewhere.chmod(0o600)
    (tmp_path / "web-token").symlink_to(elsewhere)
    assert not load_token(settings(tmp_path), {}).matches("a-token-of-somebody-else-0123456789")
    assert elsewhere.read_text() == "a-token-of-somebody-else-0123456789"


def test_a_given_token_comes_from_the_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "given"
    file.write_text(f"  {TOKEN}\nsecond line\n")
    both = {"PGMIG_WEB_TOKEN": "the-one-of-the-environment"}
    assert load_token(settings(tmp_path, file), both).matches(TOKEN)
    assert load_token(settings(tmp_path), both).matches("the-one-of-the-environment")
    assert not (tmp_path / "web-token").exists()


@pytest.mark.parametrize(
    "text", ["", "short", "x" * (SHORTEST - 1), "with a blank in between", "kävely" * 5, "x" * 2000]
)
def test_a_token_that_cannot_be_used_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(PgmigError) as refused:
        load_token(settings(tmp_path), {"PGMIG_WEB_TOKEN": text})
    assert refused.value.kind is ErrorKind.INVALID_ARGUMENT
    assert not text or text not in str(refused.value)
    assert "openssl" in refused.value.hint


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_token_file_that_others_may_read_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    path = tmp_path / "token"
    path.write_text("a-token-of-enough-characters")
    path.chmod(mode)
    load_token(settings(tmp_path, path), {})
    assert (f"chmod go= {path}" in capsys.readouterr().err) is warned


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PgmigError, match="missing"):
        load_token(settings(tmp_path, tmp_path / "missing"), {})


def test_a_token_is_not_in_the_representation_of_its_object(tmp_path: Path) -> None:
    token: Any = load_token(settings(tmp_path), {"PGMIG_WEB_TOKEN": TOKEN})
    assert TOKEN not in repr(token) + str(vars(token))
