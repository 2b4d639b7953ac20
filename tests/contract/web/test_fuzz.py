"""Random requests, made from the OpenAPI document: no 5xx, and no effect where it says 4xx."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from clients.web.problems import MEDIA_TYPE, PROBLEM_SCHEMA
from services.shared.model import DryRunResult, Phase, Readiness
from tests.support.web.served import AUTHORIZED, Served, served

READS = {"get", "list", "list_all", "list_operations", "get_operation", "readiness", "certificate", "dry_run"}

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["0/1", "app.t", "none", "database", "\ud800", "\x00", "postgresql://h/d", "x" * 5000])
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
_PARTS = st.sampled_from(["m", "m-1", "M", "..", "%", "x" * 300]) | st.text(max_size=20)


@st.composite
def requests(draw: st.DrawFn, document: dict[str, Any]) -> tuple[str, str, Any]:
    """Method, URL and body."""
    paths = document["paths"]
    path = draw(st.sampled_from(sorted(paths)))
    method = draw(st.sampled_from(sorted(paths[path])))
    operation = paths[path][method]
    url = path.replace("{migration_id}", "m" if draw(st.booleans()) else quote(draw(_PARTS), safe=""))
    for name in ("operation_id", "name"):
        url = url.replace("{" + name + "}", quote(draw(_PARTS), safe=""))
    queries = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
    if queries:
        given = draw(st.dictionaries(st.sampled_from(queries), _SCALARS.map(str), max_size=3))
        url += "?" + urlencode(given, errors="surrogatepass")
    body: Any = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        named = schema.get("$ref", "").rpartition("/")[2]
        fields = list(document["components"]["schemas"].get(named, {}).get("properties", {})) or ["x"]
        body = draw(st.dictionaries(st.sampled_from(fields), _VALUES, max_size=4) | _VALUES)
    return method, url, body


def test_no_request_is_a_defect_and_refused_ones_change_nothing() -> None:
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:
        context = served(Path(folder))
        web = runner.run(context.__aenter__())
        web.control.dry = (DryRunResult(Readiness(True), True),)
        document = runner.run(web.http.get("/api/v1/openapi.json")).json()

        @settings(max_examples=300)
        @given(st.data())
        def play(data: st.DataObject) -> None:
            runner.run(ask(web, *data.draw(requests(document))))

        try:
            play()
        finally:
            runner.run(context.__aexit__(None, None, None))


async def ask(web: Served, method: str, url: str, body: Any) -> None:
    if "m" not in web.control.views:  # a request may have cleaned it up
        web.put(phase=Phase.FAILED, resume_phase=Phase.STREAMING)
    web.control.calls.clear()
    content = None if body is None else json.dumps(body)
    headers = {**AUTHORIZED, "Content-Type": "application/json"}
    response = await web.http.request(method, url, content=content, headers=headers)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == MEDIA_TYPE
        Draft202012Validator(PROBLEM_SCHEMA).validate(response.json())
        # The stand-in answers a call for an unknown migration or operation with an error, and does nothing.
        assert response.status_code in {404, 409} or {call[0] for call in web.control.calls} <= READS
    else:
        response.json()
