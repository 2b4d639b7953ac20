"""Breaks each data-safety rule once, in a copy of the tree, and checks that its test fails.

    python -m tests.mutation [RULE | TEXT ...]

Rules are those of docs/safety.md. TEXT is a part of the title of a mutation, of at least two words; the
number counts as one. Compiled modules are left out, so that the Python code is tested. Servers of old
versions are downloaded if a test needs one. If that fails, the test is skipped, and its line says so.
Not part of `make test`: it tests the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutation.mutation import ROOT, Mutation
from tests.mutation.rules import MUTATIONS

TIMEOUT_S = 400


def verdict(mutation: Mutation, tree: Path) -> tuple[str, str]:
    """The test's outcome with the mutation in place, and its first error: "red", "GREEN" if it passes
    nevertheless, "skipped", or "BROKEN" if it could not be run. The file is restored."""
    path = tree / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        return "BROKEN", f"{mutation.file} contains the text {text.count(mutation.old)} times"
    path.write_text(text.replace(mutation.old, mutation.new))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.test]
    environment = {**os.environ, "PYTHONPATH": str(tree)}  # for services that tests start, too
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "red", f"no result within {TIMEOUT_S} s"
    finally:
        path.write_text(text)
    if done.returncode not in {0, 1}:
        return "BROKEN", f"pytest exited with {done.returncode}: {done.stdout[-500:]}"
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("E  ")]
        return "red", errors[0][1:].strip() if errors else done.stdout[-500:]
    return ("GREEN", "") if " passed" in done.stdout else ("skipped", "")


def copied_tree(folder: str) -> Path:
    """A copy of the checkout; downloaded servers are shared with it."""
    tree = Path(folder) / "tree"
    ignore = shutil.ignore_patterns(
        ".git", ".venv", ".servers", "gen", "__pycache__", ".*_cache", ".hypothesis", "*.so"
    )
    shutil.copytree(ROOT, tree, ignore=ignore)
    servers = ROOT / ".servers"
    servers.mkdir(exist_ok=True)
    (tree / ".servers").symlink_to(servers)
    return tree


def _is_meant(mutation: Mutation, asked: str) -> bool:
    number = mutation.rule.partition(" ")[0]
    return asked == number or (" " in asked and asked in mutation.rule)


def main(asked: list[str]) -> int:
    bad = 0
    if unknown := [one for one in asked if not any(_is_meant(mutation, one) for mutation in MUTATIONS)]:
        print(f"no mutation has this number or this text, with a space in it: {unknown}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="pgmig-mutations-") as folder:
        tree = copied_tree(folder)
        for mutation in MUTATIONS:
            if asked and not any(_is_meant(mutation, one) for one in asked):
                continue
            found, why = verdict(mutation, tree)
            bad += found in {"GREEN", "BROKEN"}
            print(f"{found:7} {mutation.rule}  ({mutation.test.split('::')[-1]})", flush=True)
            if why:
                print(f"        {why[:200]}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
