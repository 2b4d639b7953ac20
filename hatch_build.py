"""Build hook: generates `pgmig.v1` from protos/ into gen/.

Wheels carry the result as the package `pgmig`. An editable install instead puts gen/ on the
path, so that `make protos` (this file run as a script) is seen at once.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _plugin(name: str) -> str:
    """Where protoc-gen-NAME is: beside this interpreter (a venv that need not be on PATH), or
    on PATH (an isolated build, whose scripts lie elsewhere)."""
    program = f"protoc-gen-{name}"
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if found is None:
        raise SystemExit(f"{program} not found beside {sys.executable} or on PATH: install mypy-protobuf")
    return found


def _run_protoc(protos: Path, out: Path) -> None:
    import grpc_tools
    from grpc_tools import protoc

    sources = sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    plugins = [f"--plugin=protoc-gen-{name}={_plugin(name)}" for name in ("mypy", "mypy_grpc")]
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}"]
    outputs += [f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"]
    if protoc.main(["protoc", f"-I{protos}", f"-I{well_known}", *plugins, *outputs, *sources]) != 0:
        raise SystemExit("protoc failed: see its messages above")
    for folder in [path for path in out.rglob("*") if path.is_dir()]:
        (folder / "__init__.py").touch()
        (folder / "py.typed").touch()


def generate(root: Path) -> None:
    """Run protoc over protos/**/*.proto. The output replaces gen/ (git ignores it) as a whole,
    so that a program that is importing from it never meets a half-written one."""
    out = root / "gen"
    with tempfile.TemporaryDirectory(prefix=".gen-", dir=root) as scratch:
        fresh, stale = Path(scratch, "fresh"), Path(scratch, "stale")
        fresh.mkdir()
        _run_protoc(root / "protos", fresh)
        (fresh / ".generated").touch()  # what make compares with the sources
        if out.exists():
            out.replace(stale)
        fresh.replace(out)


class ProtoBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        generate(root)
        if self.target_name == "wheel" and version != "editable":
            build_data["force_include"][str(root / "gen" / "pgmig")] = "pgmig"


if __name__ == "__main__":
    generate(Path(__file__).parent)
