"""What `python -m tests.mutation` breaks is there to be broken."""

from __future__ import annotations

import pytest

from tests.mutation.mutation import ROOT, Mutation
from tests.mutation.rules import MUTATIONS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_each_mutation_fits_its_file_and_names_a_test(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old
    path, _, name = mutation.test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text() if name else (ROOT / path).exists()
