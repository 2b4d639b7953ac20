"""Build hook: generates the package `pgmig` from protos/ into gen/, and compiles the twins of hot modules.

Wheels carry both. An editable install puts gen/ on the path and the twins beside their sources, so
that `make protos` and `make compiled` (this file run as a script) are seen at once.

A hot module `NAME.py` has a compiled twin `_NAME`. Its source is `NAME.py` with the C types of
`_NAME.pxd`, or a file of its own, `_NAME.pyx`. Twins are optional: without a C compiler, or without Python's
headers, `NAME.py` runs as Python. PGMIG_REQUIRE_COMPILED makes that an error.
"""

from __future__ import annotations

import os
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


def compile_twins(root: Path) -> list[Path]:
    """Build every twin beside its source; their paths, relative to `root`. Twins of an earlier
    build are gone whatever happens: an old one must not stand in for a changed source."""
    for old in _twins(root):
        (root / old).unlink()
    here = Path.cwd()
    os.chdir(root)
    try:
        with tempfile.TemporaryDirectory(prefix="pgmig-build-") as scratch:
            _build(_twin_sources(Path(scratch)), scratch)
    except Exception as exc:
        if os.environ.get("PGMIG_REQUIRE_COMPILED"):
            raise
        sys.stderr.write(
            f"the change stream will run in pure Python, more slowly: {exc}\n"
            "(a C compiler and Python's headers make it fast: apt install gcc python3-dev)\n"
        )
        return []
    finally:
        os.chdir(here)
    return _twins(root)


def _twins(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in (root / "services").rglob("_*.so"))


def _twin_sources(scratch: Path) -> dict[str, Path]:
    """The source of each twin, by the twin's full name. Python is copied to `scratch`, under the name of its
    `.pxd` file, and with Cython's own module `cython` in place of ours."""
    sources = {}
    for path in sorted(Path("services").rglob("_*.p[xy][dx]")):
        source = path
        if path.suffix == ".pxd":
            source = scratch / path.with_suffix(".py")
            source.parent.mkdir(parents=True, exist_ok=True)
            text = path.with_name(f"{path.stem[1:]}.py").read_text()
            source.write_text(text.replace("from services.shared.model import cython\n", "import cython\n"))
        sources[".".join(path.with_suffix("").parts)] = source
    return sources


def _build(sources: dict[str, Path], scratch: str) -> None:
    """In place, through setuptools, whatever folder the C files go to."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    extensions = [
        Extension(name, [str(source)], extra_compile_args=["-O2", "-Wno-maybe-uninitialized"])
        for name, source in sources.items()
    ]
    # The annotations are for mypy: to Cython, `int` would be Python's and not C's.
    directives = {"language_level": 3, "annotation_typing": False, "wraparound": False}
    modules = cythonize(  # type: ignore[no-untyped-call]
        extensions, build_dir=scratch, compiler_directives=directives, quiet=True, force=True
    )
    command = Distribution({"name": "pgmig", "ext_modules": modules}).get_command_obj("build_ext")
    command.inplace, command.build_temp, command.force = True, scratch, True
    command.ensure_finalized()
    command.run()


class ProtoBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        generate(root)
        if self.target_name == "wheel" and version != "editable":
            build_data["force_include"][str(root / "gen" / "pgmig")] = "pgmig"
            twins = compile_twins(root)
            for twin in twins:
                build_data["force_include"][str(root / twin)] = str(twin)
            build_data["pure_python"], build_data["infer_tag"] = not twins, bool(twins)


if __name__ == "__main__":
    if sys.argv[1:] == ["compiled"]:
        compile_twins(Path(__file__).parent)
    else:
        generate(Path(__file__).parent)
