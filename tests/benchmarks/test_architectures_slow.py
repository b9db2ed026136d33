"""Every family of causal language models in transformers works in everything, or is refused with a reason."""

import importlib
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def architectures():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("architectures")
    sys.path.remove(str(BENCHMARKS))


def test_no_family_fails_or_gives_wrong_lists(architectures) -> None:
    results = {family: architectures.try_family(family, 300) for family in architectures.model_types()}
    tried = {family: facts for family, facts in results.items() if facts["verdict"] != "left out"}
    assert len(tried) >= 60
    assert not {family: facts["reason"] for family, facts in tried.items() if facts["verdict"] == "failed"}
