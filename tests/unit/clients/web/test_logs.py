"""Reading logs: whole lines, the end first, nothing twice, no secrets, no other files."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.web.logs import CHUNK, read
from services.shared.model import ErrorKind, PgmigError


def test_a_log_is_followed_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.log"
    path.write_text("".join(f"line {number}\n" for number in range(20_000)))
    logs = {"coordinator": path}
    found = read(logs, "coordinator", None)
    assert found.lines[-1] == "line 19999"
    assert all(line.startswith("line ") for line in found.lines)
    assert found.offset > path.stat().st_size - CHUNK
    with path.open("a") as file:
        file.write("more\nhalf a li")
    more = read(logs, "coordinator", found.next_offset)
    assert more.lines == ("more",)
    with path.open("a") as file:
        file.write("ne\n")
    assert read(logs, "coordinator", more.next_offset).lines == ("half a line",)


def test_a_log_is_read_from_its_beginning_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    lines = [f"line {number}" for number in range(30_000)]
    path.write_text("".join(f"{line}\n" for line in lines))
    seen: list[str] = []
    offset = 0
    while offset < path.stat().st_size:
        found = read({"a": path}, "a", offset)
        seen += found.lines
        offset = found.next_offset
    assert seen == lines


def test_a_log_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("new\n")
    found = read({"a": path}, "a", 5000)
    assert (found.offset, found.lines) == (0, ("new",))


@pytest.mark.parametrize("beyond", [10, CHUNK, 2 * CHUNK + 10])
def test_of_a_line_that_is_too_long_the_rest_is_left_out(tmp_path: Path, beyond: int) -> None:
    path = tmp_path / "a.log"
    path.write_text("x" * (CHUNK + beyond) + "\nnext\n")
    found = read({"a": path}, "a", 0)
    assert [len(line) for line in found.lines] == [CHUNK]
    seen: list[str] = []
    while found.next_offset < path.stat().st_size:
        found = read({"a": path}, "a", found.next_offset)
        seen += found.lines
    assert seen == ["next"]


def test_an_offset_inside_a_line_shows_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("connecting with password=hush\nnext\n")
    assert read({"a": path}, "a", 0).lines == ("connecting with password=***", "next")
    for offset in range(1, 31):
        found = read({"a": path}, "a", offset)
        assert (found.offset, found.lines) == (30, ("next",))
    path.write_text("connecting with password=hush")
    assert read({"a": path}, "a", 27).lines == ()


def test_secrets_that_a_program_has_printed_are_masked(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("connecting to postgresql://a:hush@h/s\n")
    assert read({"a": path}, "a", None).lines == ("connecting to postgresql://a:***@h/s",)


@pytest.mark.parametrize("name", ["b", "../a", "a.log", ""])
def test_only_known_names_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.log").write_text("x\n")
    with pytest.raises(PgmigError) as refused:
        read({"a": tmp_path / "a.log"}, name, None)
    assert refused.value.kind is ErrorKind.NOT_FOUND
    assert "a" in refused.value.hint


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    (tmp_path / "a.log").symlink_to(tmp_path / "secret")
    with pytest.raises(PgmigError):
        read({"a": tmp_path / "a.log"}, "a", None)
