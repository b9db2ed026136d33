"""`examples/describe_tokens.py`, as users call it, on a small catalogue."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from trl import TrlParser

from tsrec_hf.models import SIDIndex
from tsrec_hf.recipes.options import SEMANTICS_FILE, DescribeOptions
from tsrec_hf.semantics import KeywordTeacher, TokenSemantics, describe_tokens


EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = sorted((EXAMPLES / "configs").glob("describe_tokens_*.yaml"))
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def run_here(monkeypatch, **settings) -> None:
    line = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["describe_tokens.py", *line])
    runpy.run_path(str(EXAMPLES / "describe_tokens.py"), run_name="__main__")


@pytest.fixture
def catalogue(tmp_path: Path) -> dict:
    """A CSV file whose ids and titles look like numbers and missing values, and its saved index."""
    (tmp_path / "items.csv").write_text("item_id,title,brand\n007,Cobalt drill,NA\n8,NA,Acme\n9,Steel drill,\n")
    SIDIndex(["007", "8", "9"], [[0, 0], [1, 0], [0, 1]]).save(tmp_path / "sids")
    return {"items_file": tmp_path / "items.csv", "sid_index": tmp_path / "sids"}


def test_keywords_of_a_csv_file(catalogue, tmp_path: Path, monkeypatch, capsys) -> None:
    output = tmp_path / "new" / "keywords.json"
    run_here(monkeypatch, **catalogue, output_file=output)
    semantics = TokenSemantics.from_json(output)
    items = [{"item_id": i, "title": t} for i, t in (("007", "Cobalt drill"), ("8", "NA"), ("9", "Steel drill"))]
    assert semantics == describe_tokens(items, SIDIndex.load(tmp_path / "sids"), KeywordTeacher())
    assert semantics["<a_0>"].keywords[0] == "drill" and semantics["<a_1>"].keywords == ["na"]
    printed = capsys.readouterr().out
    assert 'described by {"KeywordTeacher": 4}' in printed and "<a_0>: Items about drill" in printed


def test_a_local_model_and_its_answers(catalogue, backbone_dir, tmp_path: Path, monkeypatch, capsys) -> None:
    chat_model = shutil.copytree(backbone_dir, tmp_path / "chat")
    AutoTokenizer.from_pretrained(f"{backbone_dir}/tokenizer", chat_template=TEMPLATE).save_pretrained(chat_model)
    output = tmp_path / "keywords.json"
    settings = {"teacher": "transformers", "model_name_or_path": chat_model, "max_new_tokens": 4, "max_retries": 0}
    index_json = tmp_path / "index.json"
    SIDIndex.load(tmp_path / "sids").to_json(index_json)
    for asked in (4, 0):
        run_here(monkeypatch, **{**catalogue, "sid_index": index_json}, output_file=output, **settings)
        assert f"4 tokens: {asked} answers asked for, {4 - asked} from the cache, 4 bad" in capsys.readouterr().out
    assert len((tmp_path / "keywords.answers.jsonl").read_text().splitlines()) == 4
    provenance = json.loads(output.read_text())[0]["provenance"]
    assert provenance["fallback_for"]["teacher"] == "TransformersTeacher"


def test_descriptions_go_where_training_reads_them(dataset, tmp_path: Path, monkeypatch) -> None:
    folder = dataset.save(tmp_path / "shop")
    described = folder / SEMANTICS_FILE
    run_here(monkeypatch, data_dir=folder)
    found = TokenSemantics.from_json(described)
    assert found == describe_tokens(dataset.items, dataset.sid_index, KeywordTeacher())
    # What is there is replaced only where it is named.
    before = described.read_bytes()
    with pytest.raises(ValueError, match=f"no descriptions yet at {described}.*Pass `--output_file"):
        run_here(monkeypatch, data_dir=folder)
    assert described.read_bytes() == before
    for name in ("output_file", "earlier_file"):
        run_here(monkeypatch, data_dir=folder, **{name: described})
        assert TokenSemantics.from_json(described) == found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_read(config: Path) -> None:
    line = ["--config", str(config), "--data_dir", "here", "--model_name_or_path", "there"]
    [args] = TrlParser(DescribeOptions).parse_args_and_config(line)
    assert args.model_name_or_path == "there" and args.cache_file == "outputs/describe_tokens/answers.jsonl"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data_dir": "x", "teacher": "gpt"}, "Expected `teacher` among"),
        ({"data_dir": "x", "teacher": "inference"}, "`--model_name_or_path` for the teacher 'inference'"),
        ({"items_file": "x"}, "either `--data_dir`, or `--items_file` with `--sid_index`"),
        ({}, "either `--data_dir`, or `--items_file` with `--sid_index`"),
    ],
)
def test_settings_that_do_not_fit(monkeypatch, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run_here(monkeypatch, **settings)
