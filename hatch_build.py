"""Build hook: generates `pgmig.v1` from protos/ into gen/, for wheels and editable installs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def generate(root: Path) -> None:
    """Run protoc over protos/**/*.proto; the output replaces gen/ (git ignores it)."""
    import grpc_tools
    from grpc_tools import protoc

    protos, out = root / "protos", root / "gen"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    # The plug-ins live beside this interpreter, which need not be on PATH.
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    outputs = [f"--{kind}={out}" for kind in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")]
    if protoc.main(["protoc", f"-I{protos}", f"-I{well_known}", *plugins, *outputs, *sources]) != 0:
        raise SystemExit("protoc failed: see its messages above")
    for folder in [path for path in (out / "pgmig", *(out / "pgmig").rglob("*")) if path.is_dir()]:
        (folder / "__init__.py").touch()
        (folder / "py.typed").touch()


class ProtoBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))


if __name__ == "__main__":
    generate(Path(__file__).parent)
