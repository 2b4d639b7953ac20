"""What the documentation names exists: files, folders, modules, tests, links, environment variables."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
)
TOP = "services|clients|tests|protos|deploy|docs|examples"
SUFFIXES = "py|pyx|pxd|proto|sql|md|toml|yml|yaml|conf|svg"
# Made by the build, or by an operator; a name in capitals (`_NAME.pxd`) stands for any.
NOT_IN_GIT = re.compile(r"^gen/|^\.venv/|[A-Z]{4}")
FILE = re.compile(rf"^[\w./-]+\.(?:{SUFFIXES})$")
FOLDER = re.compile(rf"^(?:(?:{TOP})/[\w./-]*|[\w./-]+/)$")
MODULE = re.compile(rf"^(?:{TOP}|model|pgoutput|wire|pg|bus|rpc|runtime)(?:\.[A-Za-z_]\w*)+$")
TEST = re.compile(r"(?:::|^)(test_\w+)(…?)$")


@cache
def tree() -> frozenset[str]:
    """Every file and folder of the project, with a / before it and after a folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    names = listed.stdout.splitlines() if listed.returncode == 0 else _walked()
    files = [Path(name) for name in names if (ROOT / name).exists()]
    folders = {f"/{folder.as_posix()}/" for path in files for folder in path.parents if folder.name}
    return frozenset(f"/{path.as_posix()}" for path in files) | folders


def _walked() -> list[str]:
    """Of a tree without git."""
    found = (path for path in ROOT.rglob("*") if path.is_file())
    return [path.relative_to(ROOT).as_posix() for path in found if ".venv" not in path.parts]


def exists(path: str) -> bool:
    """A path from the root, or the end of one: `pg/copy/relay.py`."""
    return any(entry.endswith(f"/{path.lstrip('/')}") for entry in tree())


def module_exists(name: str) -> bool:
    """A module or package, maybe without `services.shared` before it, maybe with a name that it defines."""
    path = name.replace(".", "/")
    if exists(f"{path}.py") or exists(f"{path}/"):
        return True
    module, _, attribute = path.rpartition("/")
    return any(
        re.search(rf"^(?:class |def |async def )?{attribute}\b", (ROOT / entry[1:]).read_text(), re.MULTILINE)
        for entry in tree()
        if entry.endswith((f"/{module}.py", f"/{module}/__init__.py"))
    )


@cache
def source_of_tests() -> str:
    paths = sorted(entry[1:] for entry in tree() if entry.startswith("/tests/") and entry.endswith(".py"))
    return "\n".join((ROOT / path).read_text() for path in paths)


def quoted(page: str) -> Iterator[str]:
    """The words within code spans, and those of the lines of code blocks."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for code in (*spans, *blocks):
        for word in code.split():
            yield word.strip("\"'(),;")


def missing(word: str) -> bool:
    """Whether `word` names something of this project that does not exist."""
    name, _, test = word.partition("::")
    if NOT_IN_GIT.search(name) and not exists(name):
        return False
    if FILE.match(name):
        return not exists(name) or (bool(test) and unknown_test(test))
    if FOLDER.match(name):
        return not exists(name.rstrip("/") + "/") and not exists(name)
    if MODULE.match(name):
        return not module_exists(name)
    return name.startswith("test_") and unknown_test(name)


def unknown_test(name: str) -> bool:
    """`test_what_it_shows`, or its beginning and `…`."""
    found = TEST.match(name)
    assert found is not None, name
    end = "" if found[2] else r"\("
    return re.search(rf"def {found[1]}{end}", source_of_tests()) is None


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    assert sorted({word for word in quoted(page) if missing(word)}) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
    assert [target for target in targets if not leads_somewhere(page, target)] == []


def leads_somewhere(page: str, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    return file.exists() and (not anchor or anchor in anchors(file))


def anchors(file: Path) -> set[str]:
    """Of a page's headings, as they are rendered."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_variables_of_the_documentation_are_read_somewhere() -> None:
    code = "\n".join(
        (ROOT / entry[1:]).read_text()
        for entry in sorted(tree())
        if entry.endswith((".py", "Makefile", ".yml", "Dockerfile"))
    )
    settings = {name.removeprefix("PGMIG_").lower() for name in variables()}
    unread = {name for name in settings if f"PGMIG_{name.upper()}" not in code and f"{name}:" not in code}
    assert unread == set()


def variables() -> set[str]:
    return {name for page in PAGES for name in re.findall(r"PGMIG_[A-Z_]+", (ROOT / page).read_text())}
