"""The page on extensions in CONTRIBUTING.md works as pasted, on the tiny catalogue."""

import ast
import re
from pathlib import Path

import pytest


PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
[SECTION] = re.findall(r"^## Add your own\n(.*?)^## ", PAGE, flags=re.DOTALL | re.MULTILINE)
BLOCKS = dict(re.findall(r"^### (?:A|An) (\w+)\n.*?```python\n(.*?)```", SECTION, flags=re.DOTALL | re.MULTILINE))


def test_every_extension_has_a_block() -> None:
    assert set(BLOCKS) == {"task", "reward", "reader", "quantiser", "teacher"}
    # No block stands outside of what the tests run.
    assert SECTION.count("```python") == len(BLOCKS)


@pytest.mark.parametrize("extension", sorted(BLOCKS))
def test_block_runs(
    extension, dataset, sid_index, semantics, tokenizer, datasets_cache, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    block = BLOCKS[extension]
    assert len(block.splitlines()) < 20
    # What it builds is used and checked at its end.
    assert isinstance(ast.parse(block).body[-1], ast.Assert)
    names = {"dataset": dataset, "sid_index": sid_index, "semantics": semantics, "tokenizer": tokenizer}
    exec(compile(block, f"CONTRIBUTING.md: {extension}", "exec", dont_inherit=True), names)
