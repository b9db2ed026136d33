"""What the README shows works as pasted."""

import ast
import re
from pathlib import Path

import tsrec_hf


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_ten_line_example_runs_on_a_checkpoint(model, tokenizer, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path / "outputs" / "demo" / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "outputs" / "demo" / "checkpoint")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(re.search(r"-\d+\.\d\d  (<\w+_\d+>){3}  \w+ \w+", line) for line in lines)


def test_every_python_block_names_what_exists():
    for block in BLOCKS:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "tsrec_hf":
                for alias in node.names:
                    assert alias.name in tsrec_hf.__all__
