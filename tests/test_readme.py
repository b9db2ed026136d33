"""The five commands of docs/get_started.md and those of the week after run as pasted; for the rest: `test_docs.py`."""

import configparser
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import tsrec_hf


ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "get_started.md").read_text(encoding="utf-8")
[OWN_DATA] = re.findall(r"## Stage by stage\n.*?```bash\n(.*?)```", PAGE, flags=re.DOTALL)
WEEK = (ROOT / "docs" / "week_of_a_shop.md").read_text(encoding="utf-8")
EVERY_DAY, EVERY_WEEK = re.findall(r"```bash\n(.*?)```", WEEK, flags=re.DOTALL)
[IN_A_SERVICE] = re.findall(r"```python\n(.*?)```", WEEK, flags=re.DOTALL)
# The folders `scientific` and `beauty` lie beside the one of `TSREC_DATA`.
DATA = os.environ.get("TSREC_DATA")
# What a clone holds besides the package; the tests fill a copy of it with files of a shop.
CLONE = ("examples", "tsrec_hf", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def commands(script: str) -> list[list[str]]:
    """The script's commands as lists of arguments, variables still by name; assignments and comments left out."""
    lines = [shlex.split(line, comments=True) for line in script.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words and not re.match(r"\w+=", words[0])]


@pytest.fixture
def small_models(save_backbone, tmp_path, monkeypatch):
    """Sets the variables of the page to a tiny backbone and an encoder of the given layer, when called with it."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `sids`")
    pytest.importorskip("faiss", reason="needs the extra `sids`")
    for name, value in {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)

    def make(kind: str, *settings) -> None:
        layer = getattr(sentence_transformers.sentence_transformer.modules, kind)(*settings)
        model = sentence_transformers.SentenceTransformer(modules=[layer], device="cpu")
        model.save(str(tmp_path / "encoder"))
        monkeypatch.setenv("ENCODER", str(tmp_path / "encoder"))
        monkeypatch.setenv("BACKBONE", save_backbone(tmp_path / "backbone"))

    return make


@pytest.fixture
def shop(small_models, tmp_path, monkeypatch):
    """A folder with two CSV files."""
    kinds, things = "red green hard sharp steel".split(), "hammer nail screw saw apple pear bread cheese".split()
    small_models("BoW", [*kinds, *things, "metal", "food"])  # counts words
    titles = [f"{kind} {thing}" for kind in kinds for thing in things]
    items = [f"{n},{title},{'metal' if n % 8 < 4 else 'food'}" for n, title in enumerate(titles)]
    draw = np.random.default_rng(0)
    takes = [
        f"user{user},{item},2024-{user % 12 + 1:02}-{day + 1:02}T10:00:00"
        for user in range(24)
        for day, item in enumerate(draw.choice(len(titles), size=8, replace=False))
    ]
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "items.csv").write_text("\n".join(["item_id,title,description", *items]) + "\n")
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *takes]) + "\n")
    monkeypatch.chdir(folder)
    return folder


def check_shop(folder: Path) -> None:
    """What the five commands leave."""
    assert "collision rate 0.00%" in (folder / "data/shop/report.md").read_text()
    dataset = tsrec_hf.open_dataset(folder / "data/shop")
    assert len(dataset.items) == len(dataset.sid_index) == 40
    semantics = tsrec_hf.TokenSemantics.from_json(folder / "data/shop/description_keywords.json")
    assert set(semantics) == {token for level in dataset.sid_index.tokens for token in level}
    metrics = json.loads((folder / "outputs/shop/metrics.json").read_text())
    assert metrics["eval_loss"] > 0
    model = tsrec_hf.TSRecForCausalLM.from_pretrained(folder / "outputs/shop")
    tokenizer = tsrec_hf.TSRecTokenizer.from_pretrained(folder / "outputs/shop")
    assert model.config.sid_initialization["pooling"] == "idf"
    assert len(model.recommend(tokenizer, [["1", "2"]], top_k=5)[0]) == 5


def test_own_data_is_five_commands():
    assert len(commands(OWN_DATA)) == 5
    assert re.findall(r"^(\w+)=", OWN_DATA, flags=re.MULTILINE) == ["BACKBONE", "ENCODER"]
    [what] = re.findall(r"^pip install \"\.\[(.*)\]\"$", OWN_DATA, flags=re.MULTILINE)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert set(what.split(",")) <= set(setup["options.extras_require"])


def run_here(lines: list[list[str]], monkeypatch) -> None:
    """Runs commands one by one in this process, where what they import is there already."""
    for program, script, *words in lines:
        assert program == "python"
        monkeypatch.setattr(sys, "argv", [script, *map(os.path.expandvars, words)])
        runpy.run_path(str(ROOT / script), run_name="__main__")


def change_catalogue(folder: Path) -> None:
    """A week passes: item 3 is delisted, item 5 renamed, two items are new, and one of them is bought."""
    rows = (folder / "items.csv").read_text().splitlines()
    rows = ["5,green drill,food" if row.startswith("5,") else row for row in rows if not row.startswith("3,")]
    (folder / "items.csv").write_text("\n".join([*rows, "40,hard sharp nail,metal", "41,red green pear,food"]) + "\n")
    with (folder / "interactions.csv").open("a") as file:
        file.writelines(f"user{user},{item},2025-01-01T{user:02}:00:00\n" for user in range(9) for item in (7, 40))


def test_own_data_from_csv_files_to_metrics_and_the_week_after(shop, datasets_cache, monkeypatch, capsys):
    (shop / "examples").symlink_to(ROOT / "examples")
    run_here(commands(OWN_DATA)[1:], monkeypatch)
    printed = capsys.readouterr().out
    assert "| rows of test |" in printed and "next-item counts" in printed
    check_shop(shop)

    change_catalogue(shop)
    weights = (shop / "outputs/shop/model.safetensors").read_bytes()
    run_here(commands(EVERY_DAY), monkeypatch)
    printed = capsys.readouterr().out
    before, after = (tsrec_hf.open_dataset(shop / "data" / name).sid_index for name in ("shop", "monday"))
    assert "39 items keep their SIDs, 2 are new." in printed
    assert f"grown out of {before.fingerprint}" in printed and "| rows of test |" in printed
    assert after.item_ids == [item for item in before.item_ids if item != "3"] + ["40", "41"]
    assert after.sid_of("5") == before.sid_of("5") and after.titles[after.position_of("5")] == "green drill"
    assert (shop / "outputs/shop/model.safetensors").read_bytes() == weights
    tokenizer = tsrec_hf.TSRecTokenizer.from_pretrained(shop / "outputs/shop")
    model = tsrec_hf.TSRecForCausalLM.from_pretrained(shop / "outputs/shop")
    assert tokenizer.sid_index == after and tokenizer.prior is not None
    [found] = model.recommend(tokenizer, [["41", "3"]], top_k=41, unknown_items="drop")
    assert {item.item_id for item in found} == set(after.item_ids)

    run_here(commands(EVERY_WEEK), monkeypatch)
    printed = capsys.readouterr().out
    old, new = (
        tsrec_hf.TokenSemantics.from_json(shop / f"data/{name}/description_keywords.json")
        for name in ("shop", "monday")
    )
    assert dict(new) == dict(old) and new.fingerprint == after.fingerprint
    assert "model and prior" in printed and "next-item counts" in printed
    trained = tsrec_hf.TSRecTokenizer.from_pretrained(shop / "outputs/monday").sid_index
    assert trained == after and trained.fits(before.fingerprint)
    assert json.loads((shop / "outputs/monday/metrics.json").read_text())["eval_loss"] > 0


def test_a_service_changes_its_catalogue(model, tokenizer):
    names = {"model": model, "tokenizer": tokenizer}
    exec(compile(IN_A_SERVICE, "week_of_a_shop.md", "exec"), names)
    assert [len(row) for row in names["lists"]] == [3, 3]
    assert "axe" in tokenizer.sid_index and "screw" not in tokenizer.sid_index


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific")
@pytest.mark.parametrize(
    ("name", "interactions", "users", "items"),
    [("scientific", "58,492", "8,317", "4,344"), ("beauty", "198,502", "22,363", "12,101")],
)
def test_published_sequences_from_raw_files_to_metrics(
    small_models, name, interactions, users, items, datasets_cache, tmp_path, monkeypatch, capsys
):
    """The five commands on raw files in LC-Rec's layout, less most of the training and of the evaluation."""
    folder = Path(DATA).parents[1] / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    titles = tsrec_hf.load_lcrec(folder).items["title"][:]
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(titles, trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet))
    small_models("StaticEmbedding", pieces, None, 64)  # means of random vectors
    monkeypatch.chdir(tmp_path)
    build, describe, train, evaluate = commands(OWN_DATA)[1:]
    tables = build.index("--items_file"), build.index("--interactions_file") + 2
    build[slice(*tables)] = ["--format", "lcrec", "--items_file", str(folder), "--batch_size", "1024"]
    train += ["--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no", "--bf16", "false"]
    evaluate += ["--num_rows", "64", "--num_beams", "10"]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run_here([build, describe, train, evaluate], monkeypatch)
    printed = capsys.readouterr().out
    assert f"| given | {items} | {users} | {interactions} |" in printed
    assert f"| repeated user, item and time dropped | {items} | {users} | {interactions} |" in printed
    assert "| rows of test | " in printed and f"| {users} | {users} |" in printed
    assert "| all | 64 | item | model |" in printed and "| next-item counts |" in printed
    dataset = tsrec_hf.open_dataset("data/shop")
    assert len(dataset.items) == len(dataset.sid_index) == int(items.replace(",", ""))
    assert len(dataset.test) == len(dataset.valid) == int(users.replace(",", ""))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")
def test_own_data_as_the_shell_runs_it(shop, tmp_path):
    """All five commands by bash. The environment tells pip to look for no other package, and where to put this one."""
    for name in CLONE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, shop / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, shop)
    site = tmp_path / "site"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_TARGET": str(site),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of `build_isolation`
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONPATH": str(site),
        "HF_DATASETS_CACHE": str(tmp_path / "datasets"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", OWN_DATA], env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (site / "tsrec_hf" / "__init__.py").is_file()
    assert "next-item counts" in done.stdout
    check_shop(shop)
