"""Families of causal language models work in everything, or are refused with a reason, as the table in docs says."""

import importlib
import re
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
# Of each kind of decoding, of GRPO and of refusal; the whole table is the script's, an hour of one core.
FAMILIES = """
    llama gemma3_text gpt2 gpt_oss mixtral llama4_text bert bloom falcon_h1 qwen3_next lfm2 jamba recurrent_gemma mamba
    inkling_text roberta phi cpmant xlstm xlnet youtu
""".split()


@pytest.fixture(scope="module")
def architectures():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("architectures")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", text, flags=re.MULTILINE)
    return {family: cells.split(" | ") for family, cells in rows}


def test_no_family_of_the_table_fails(table) -> None:
    assert len(table) >= 60
    assert not [family for family, (*_, verdict) in table.items() if not re.match("works$|refused: .", verdict)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_as_the_table_says(architectures, table, family) -> None:
    facts = architectures.try_family(family, 300)
    _, decoding, generate, grpo, _, verdict = table[family]
    assert facts["verdict"] == verdict.partition(":")[0], facts["reason"]
    assert architectures.DECODING.get(facts.get("decoding", ""), "–") == decoding
    assert (facts.get("generate", "–"), facts.get("GRPO", "–")) == (generate, grpo)
