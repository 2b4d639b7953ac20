"""The protos keep their rules: no gaps, no incompatible change of the public API, a strict linter."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from pgmig.bus.v1 import bus_pb2
from pgmig.common.v1 import common_pb2
from pgmig.control.v1 import conflicts_pb2, control_pb2, migration_pb2, options_pb2
from pgmig.worker.v1 import worker_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
CONTROL, MIGRATION = "control/v1/control.proto", "control/v1/migration.proto"
COMMON, BUS = "common/v1/common.proto", "bus/v1/bus.proto"
BUF = Path(sys.executable).parent / "buf"
MODULES = (
    common_pb2,
    conflicts_pb2,
    control_pb2,
    migration_pb2,
    options_pb2,
    worker_pb2,
    bus_pb2,
)
FILES: tuple[FileDescriptor, ...] = tuple(module.DESCRIPTOR for module in MODULES)
MESSAGES: list[Descriptor] = [m for file in FILES for m in file.message_types_by_name.values()]
ENUMS: list[EnumDescriptor] = [e for file in FILES for e in file.enum_types_by_name.values()]


def buf(protos: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BUF, *arguments], cwd=protos, capture_output=True, text=True, check=False)


def breaking(protos: Path) -> subprocess.CompletedProcess[str]:
    """Compare `protos` with the API of the last release, as `make check` does."""
    return buf(protos, "breaking", "--against", "released/control_v1.yaml")


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    return shutil.copytree(PROTOS, tmp_path / "protos")


def edit(protos: Path, file: str, old: str, new: str) -> None:
    path = protos / "pgmig" / file
    changed, times = re.subn(old, new, path.read_text(), flags=re.DOTALL)
    assert times == 1, f"{file} has {times} times {old!r}"
    path.write_text(changed)


def test_the_module_list_is_complete() -> None:
    assert {file.name for file in FILES} == {
        p.relative_to(PROTOS).as_posix() for p in PROTOS.rglob("*.proto")
    }


def test_numbers_of_fields_have_no_gaps() -> None:
    for message in MESSAGES:
        numbers = sorted(field.number for field in message.fields)
        assert numbers == list(range(1, len(numbers) + 1)), message.full_name


def test_numbers_of_enum_values_have_no_gaps() -> None:
    for enum in ENUMS:
        numbers = sorted(value.number for value in enum.values)
        assert numbers == list(range(len(numbers))), enum.full_name


@pytest.mark.parametrize("file", [file.name for file in FILES])
def test_comments_name_no_python_module(file: str) -> None:
    assert not re.findall(r"//.*\b(?:services|clients)\.\w+", (PROTOS / file).read_text())


def test_the_linter_accepts_the_protos(protos: Path) -> None:
    checked = buf(protos, "lint")
    assert checked.returncode == 0, checked.stdout


def test_the_linter_refuses_a_request_that_two_methods_share(protos: Path) -> None:
    edit(
        protos,
        "control/v1/control.proto",
        r"\(PlanMigrationRequest\) returns",
        "(StartMigrationRequest) returns",
    )
    checked = buf(protos, "lint")
    assert checked.returncode != 0
    assert "StartMigrationRequest" in checked.stdout


def test_the_public_api_is_compatible_with_the_last_release(protos: Path) -> None:
    checked = breaking(protos)
    assert checked.returncode == 0, checked.stdout


BREAKING = {
    "removed field": (MIGRATION, r"  string hint = 3;\n", "", "deleted"),
    "renumbered field": (MIGRATION, r"hint = 3;", "hint = 9;", "deleted"),
    "renamed field": (MIGRATION, r"string hint = 3;", "string tip = 3;", "changed name"),
    "changed type": (MIGRATION, r"string hint = 3;", "bytes hint = 3;", "changed type"),
    "repeated field": (MIGRATION, r"string hint = 3;", "repeated string hint = 3;", "cardinality"),
    "removed enum value": (MIGRATION, r"  PHASE_PAUSED = 10;\n", "", "deleted"),
    "renumbered enum value": (MIGRATION, r"PHASE_PAUSED = 10;", "PHASE_PAUSED = 20;", "deleted"),
    "removed method": (CONTROL, r"  rpc Unfreeze\([^\n]*\n", "", "deleted"),
    "changed response": (CONTROL, r"\(UnfreezeResponse\)", "(AbortMigrationResponse)", "response type"),
    "response without stream": (
        CONTROL,
        r"\(stream WatchOperationResponse\)",
        "(WatchOperationResponse)",
        "stream",
    ),
    "renamed service": (CONTROL, r"service ControlService", "service SteeringService", "deleted"),
    "emptied message": (CONTROL, r"(message UnfreezeResponse \{\n)[^\n]*\n", r"\1", "deleted"),
    "removed field of a shared message": (COMMON, r"  string name = 2;\n", "", "deleted"),
}


@pytest.mark.parametrize(("file", "old", "new", "said"), BREAKING.values(), ids=BREAKING)
def test_an_incompatible_change_of_the_public_api_is_refused(
    protos: Path, file: str, old: str, new: str, said: str
) -> None:
    edit(protos, file, old, new)
    checked = breaking(protos)
    assert checked.returncode != 0
    assert said in checked.stdout


def test_additions_to_the_public_api_are_compatible(protos: Path) -> None:
    edit(protos, MIGRATION, r"string hint = 3;", "string hint = 3;\n  string more = 6;")
    edit(protos, MIGRATION, r"PHASE_ABORTED = 12;", "PHASE_ABORTED = 12;\n  PHASE_NEW = 99;")
    assert breaking(protos).returncode == 0


def test_an_internal_package_may_change(protos: Path) -> None:
    edit(protos, BUS, r"  fixed32 crc32 = 9;\n", "")
    assert breaking(protos).returncode == 0
