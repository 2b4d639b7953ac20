"""One module writes to standard error and one ends the process, so that all that is said is redacted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.shared.runtime.diagnostics import exit_code, report

ROOT = Path(__file__).parents[3]
CLIENTS = sorted((ROOT / "clients").rglob("*.py"))
SERVICES = sorted((ROOT / "services").rglob("*.py"))
OWNERS = {"clients/diagnostics.py", "services/shared/runtime/diagnostics.py"}
LOG = {f"services/shared/runtime/{name}.py" for name in ("log", "logfile", "telemetry")}
"""They connect the log, which redacts by itself."""


def breaches(tree: ast.AST) -> Iterator[int]:
    """Lines that use sys.stderr, print, or end the process with a number or a text of their own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _standard_error(node):
            yield node.lineno
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            to_stderr = "echo" in name and any(keyword.arg == "err" for keyword in node.keywords)
            own_code = any(isinstance(argument, ast.Constant) for argument in node.args)
            ended = name == "os._exit" or (name in {"sys.exit", "exit", "SystemExit"} and own_code)
            if name in {"print", "traceback.print_exc"} or to_stderr or ended:
                yield node.lineno


def _standard_error(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stderr", "sys.__stderr__"}


def module(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in CLIENTS if module(path) not in OWNERS], ids=module)
def test_no_other_module_of_the_clients_writes_there_or_ends_the_process(path: Path) -> None:
    assert list(breaches(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("path", [path for path in SERVICES if module(path) not in OWNERS | LOG], ids=module)
def test_no_service_writes_there_past_its_log(path: Path) -> None:
    assert not any(map(_standard_error, ast.walk(ast.parse(path.read_text()))))


@pytest.mark.parametrize(
    "text",
    [
        "sys.stderr.write('x')",
        "print('x', file=sys.__stderr__)",
        "print('x')",
        "traceback.print_exc()",
        "click.echo('x', err=True)",
        "sys.exit(3)",
        "raise SystemExit('x')",
        "os._exit(code)",
    ],
)
def test_the_walk_finds(text: str) -> None:
    assert list(breaches(ast.parse(text)))


def test_what_is_reported_passes_redaction(capsys: pytest.CaptureFixture[str]) -> None:
    report("cannot read postgresql://app:hush@old/app")
    assert exit_code(SystemExit("password=hush")) == 1
    assert exit_code(SystemExit(None)) == 0
    assert exit_code(SystemExit(5)) == 5
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "hush" not in said
